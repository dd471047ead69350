"""The engine's work: people apply jobs and servers, delete some and apply them again, roll out models."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final

from chaos.api import Api, Json
from chaos.people import User
from chaos.serving import CORRUPT
from chaos.stages import BROKEN, CRASHES, GOOD, TOO_LARGE

JOBS: Final = 30
SECONDS_BETWEEN: Final = 1.0
# By the job's number.
DATA: Final[Mapping[int, str]] = {3: BROKEN, 9: TOO_LARGE, 14: CRASHES, 17: BROKEN, 23: TOO_LARGE, 27: CRASHES}
OUTCOME: Final = {
    GOOD: "Succeeded: Completed",
    BROKEN: "Failed: InvalidJSON",
    TOO_LARGE: "Failed",  # its reason goes with a pod that is taken away before an operator has read it
    CRASHES: "Failed: StageCrashed",
}
APPLIED_TWICE: Final = (2, 8, 12, 20)  # deleted in between
CHANGED: Final = (4, 10)  # once they have ended
DIGEST: Final = f"sha256:{'a' * 64}"


def job(number: int, **training: Any) -> Json:
    name = f"job-{number:02}"
    spec = {
        "model": {"uri": "s3://models/small"},
        "dataset": {"train": [{"uri": DATA.get(number, GOOD)}]},
        "training": {"maxSteps": 10} | training,
        "output": {"uri": f"s3://artifacts/{name}", "secretRef": {"name": "s3-credentials"}},
        "retryPolicy": {"backoffLimit": 0 if DATA.get(number) == CRASHES else 3},
    }
    return _resource("FineTuneJob", name, spec)


def server(name: str, model: Json) -> Json:
    return _resource("ModelServer", name, {"model": model})


def _resource(kind: str, name: str, spec: Json) -> Json:
    metadata = {"name": name, "namespace": ""}
    return {"apiVersion": "tuneyard.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def artifact(uri: str) -> Json:
    return {"uri": uri, "digest": DIGEST}


def expected() -> dict[tuple[str, str], str]:
    jobs = {("FineTuneJob", f"job-{number:02}"): OUTCOME[DATA.get(number, GOOD)] for number in range(JOBS)}
    servers = {("ModelServer", name): "Available: Serving" for name in ("follows-00", "follows-04", "rolls")}
    return jobs | servers | {("ModelServer", "damaged"): "Degraded: ArtifactCorrupt"}


async def work(api: Api, namespace: str, dice: random.Random) -> None:
    """Returns when the last thing has been asked for."""
    user = User(api, namespace)
    for name, source in (("follows-00", "job-00"), ("follows-04", "job-04")):
        await user.apply(server(name, {"fineTuneJobRef": {"name": source}}))
    await user.apply(server("rolls", artifact("s3://artifacts/one")))
    await user.apply(server("damaged", artifact("s3://artifacts/one")))
    async with asyncio.TaskGroup() as later:
        for number in range(JOBS):
            await user.apply(job(number))
            if number in APPLIED_TWICE:
                later.create_task(user.apply_again(job(number), dice.uniform(2, 8)))
            if number in CHANGED:
                later.create_task(user.change(job(number, maxSteps=20)))
            if number == JOBS // 2:
                await user.set_model("rolls", artifact("s3://artifacts/two"))
                await user.set_model("damaged", artifact(CORRUPT))
            await asyncio.sleep(SECONDS_BETWEEN * dice.uniform(0.5, 1.5))
