"""The cluster's work: thirty FineTuneJobs and two ModelServers that two cores can do in twenty minutes."""

import asyncio
import json
from typing import Final

from chaos.api import Api, Json
from chaos.people import User
from demo.objectstore import ObjectStore
from e2e.jobs import fine_tune_job, model_server

TRAINED: Final = 14  # jobs that do all the work
ADOPTING: Final = 10  # each finds what an earlier one has done
BROKEN: Final = 6
AT_A_TIME: Final = 3
APPLIED_TWICE: Final = (3, 7, 11)  # deleted in mid-run
BROKEN_DATA: Final = "s3://data/chaos/broken.jsonl"
GOOD_ROW: Final = json.dumps({"question": "What is a Pod?", "answer": "A group of containers."}) + "\n"
SERVERS: Final = {"follows-00": "trained-00", "follows-01": "trained-01"}


def broken_data(store: ObjectStore) -> None:
    with store.reached_from_here() as s3:
        s3.write(BROKEN_DATA, (GOOD_ROW * 2 + '{"question": "What\n').encode())


def trained(number: int, namespace: str) -> Json:
    return fine_tune_job(f"trained-{number:02}", namespace)


def adopting(number: int, namespace: str) -> Json:
    """Another name for what `trained` of that number has made."""
    output = trained(number, namespace)["spec"]["output"]
    return fine_tune_job(f"adopting-{number:02}", namespace, output=output)


def broken(number: int, namespace: str) -> Json:
    return fine_tune_job(f"broken-{number:02}", namespace, dataset={"train": [{"uri": BROKEN_DATA}]})


def jobs(namespace: str) -> list[Json]:
    """In the order in which they are applied."""
    first = [trained(number, namespace) for number in range(TRAINED)]
    then = [adopting(number, namespace) for number in range(ADOPTING)]
    bad = [broken(number, namespace) for number in range(BROKEN)]
    return [*first[:4], *bad[:3], *first[4:], *then, *bad[3:]]


def expected() -> dict[tuple[str, str], str]:
    made = [job["metadata"]["name"] for job in jobs("any")]
    outcomes = {name: "Failed: InvalidJSON" if name.startswith("broken") else "Succeeded: Completed" for name in made}
    servers = {("ModelServer", name): "Available: Serving" for name in SERVERS}
    return {("FineTuneJob", name): outcome for name, outcome in outcomes.items()} | servers


async def work(api: Api, namespace: str) -> None:
    """No more than AT_A_TIME are under way; returns when the last has been applied."""
    user = User(api, namespace)
    for name, source in SERVERS.items():
        await user.apply(model_server(name, namespace, {"fineTuneJobRef": {"name": source}}))
    again = {f"trained-{number:02}" for number in APPLIED_TWICE}
    async with asyncio.TaskGroup() as later:
        for job in jobs(namespace):
            while await user.unfinished() >= AT_A_TIME:
                await asyncio.sleep(2)
            await user.apply(job)
            if job["metadata"]["name"] in again:
                later.create_task(user.apply_again(job, after=20))
