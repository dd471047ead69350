"""`make demo`: from `kubectl apply -f finetune.yaml` to a served, tuned model, step by step.

The demo needs a cluster with tuneyard installed (`make install`), the S3 image and the directory of the model.
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from openai import OpenAI
from rich.console import Console
from rich.table import Table

from demo import diagnosis, objectstore
from demo.kubectl import apply, condition, get, is_condition_true, kubectl, port_forward, wait_until
from demo.results import Answers, results_page
from tuneyard_api.contracts.progress import progress_text
from tuneyard_api.kinds.finetunejob_status import EvaluationStatus, Progress
from tuneyard_store.artifact import publish_directory
from tuneyard_store.store import Store

EXAMPLES = Path(__file__).parent.parent
NAMESPACE, STORE_NAMESPACE = "tuneyard-demo", "tuneyard-demo-store"
NAME = "kubernetes-fields"
MODEL_URI = "s3://models/smollm2-135m-instruct"
MAX_RATIO = 0.7  # of tuned to base perplexity

console = Console(highlight=False, width=110)
Json = dict[str, Any]


class Row(NamedTuple):
    question: str
    reference: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--s3-image", required=True)
    parser.add_argument("--model", required=True, type=Path, help="directory of SmolLM2-135M-Instruct")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write what was measured there, as a page")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        passed = run(options.s3_image, options.model, options.results)
    except Exception:
        diagnosis.print_namespace(NAMESPACE)
        raise
    console.print(f"\nThe whole demo took {clock(time.monotonic() - started)}.")
    return 0 if passed else 1


def run(s3_image: str, model: Path, results: Path | None) -> bool:
    heading("1. Two namespaces that enforce Pod Security `restricted`, and an S3 store behind a private CA")
    for namespace in (NAMESPACE, STORE_NAMESPACE):
        fresh_namespace(namespace)
    store = objectstore.install(STORE_NAMESPACE, s3_image)
    with store.reached_from_here() as s3:
        base_digest = upload(s3, model)
    api_key = secrets.token_urlsafe(24)
    apply(store.secret("s3-credentials", NAMESPACE), api_key_secret(api_key))

    heading("2. kubectl apply -f examples/finetune.yaml")
    console.print(kubectl("apply", "-n", NAMESPACE, "-f", str(EXAMPLES / "finetune.yaml")).strip())
    job = follow_job()
    console.print(kubectl("get", "finetunejobs", "-n", NAMESPACE))

    heading("3. The base model is served, for comparison")
    with store.reached_from_here() as s3:
        rows = held_out_rows(s3, job)
    apply(model_server({"uri": MODEL_URI, "digest": base_digest, "secretRef": {"name": "s3-credentials"}}))
    before = ask(rows, api_key)

    heading("4. kubectl apply -f examples/modelserver.yaml: the tuned model is rolled out beside it, then replaces it")
    console.print(kubectl("apply", "-n", NAMESPACE, "-f", str(EXAMPLES / "modelserver.yaml")).strip())
    after = ask(rows, api_key)

    heading("5. The answers of both models to questions that were not in the training data")
    answers = [Answers(*row, *both) for row, *both in zip(rows, before, after, strict=True)]
    show_answers(answers)
    show_losses(job)
    if results:
        results.write_text(results_page(job, answers, perplexities(job), datetime.now(UTC)))
        console.print(f"written: {results}")
    show_next_steps()
    ratio = perplexity(job, "tuned") / perplexity(job, "base")
    console.print(f"Held-out perplexity: {1 - ratio:.0%} lower than the base model's (the goal: {1 - MAX_RATIO:.0%}).")
    return ratio <= MAX_RATIO


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}m{int(seconds) % 60:02}s"


def fresh_namespace(name: str) -> None:
    """Creates an empty namespace. The stages of an earlier demo would be reused, so its namespace is deleted first."""
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", timeout=300)
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": restricted}})


def upload(s3: Store, model: Path) -> str:
    """Uploads the model and the data; returns the digest of the model."""
    manifest = publish_directory(s3, model, MODEL_URI, "bf16")
    s3.upload(EXAMPLES / "data" / "kubernetes-fields.jsonl", "s3://data/kubernetes-fields.jsonl")
    console.print(f"uploaded {MODEL_URI} and s3://data/kubernetes-fields.jsonl")
    return manifest.digest


def api_key_secret(api_key: str) -> Json:
    metadata = {"name": f"{NAME}-key", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"api-key": api_key}}


def follow_job() -> Json:
    """Prints the progress of the job until it succeeds, and returns the job.

    Raises RuntimeError with the message of the condition if the job fails.
    """
    last = ""
    while True:
        job = get("finetunejob", NAME, NAMESPACE)
        if (line := progress_line(job)) != last:
            console.print(f"  {time.strftime('%H:%M:%S')}  {line}")
            last = line
        if is_condition_true(job, "Succeeded"):
            return job
        if is_condition_true(job, "Failed"):
            failed = condition(job, "Failed")
            raise RuntimeError(f"{failed['reason']}: {failed['message']}")
        time.sleep(2)


def progress_line(job: Json) -> str:
    status = job.get("status", {})
    phase: str = status.get("phase", "Pending")
    progress = status.get("progress")
    return f"{phase}  {progress_text(Progress.model_validate(progress))}" if progress else phase


def held_out_rows(s3: Store, job: Json, count: int = 4) -> list[Row]:
    """The first `count` validation rows, which were not used for training."""
    prepare = next(stage for stage in job["status"]["stages"] if stage["name"] == "prepare")
    uri = f"{job['spec']['output']['uri']}/runs/{prepare['digest']}/prepare/validation.jsonl"
    rows = [json.loads(line)["messages"] for line in s3.read(uri).decode().splitlines()]
    return [Row(messages[-2]["content"], messages[-1]["content"]) for messages in rows[:count]]


def model_server(model: Json) -> Json:
    """The ModelServer in examples/modelserver.yaml, with another model."""
    text = kubectl("apply", "-n", NAMESPACE, "-f", str(EXAMPLES / "modelserver.yaml"), "--dry-run=client", "-o", "json")
    server: Json = json.loads(text)
    server["spec"]["model"] = model
    return server


@contextmanager
def served() -> Iterator[str]:
    """Waits until the current spec is rolled out, and yields the URL of the endpoint."""

    def rolled_out() -> bool:
        server = get("modelserver", NAME, NAMESPACE)
        if is_condition_true(server, "Degraded"):
            raise RuntimeError(condition(server, "Degraded")["message"])
        return (
            is_condition_true(server, "Available")
            and not is_condition_true(server, "Progressing")
            and server["status"]["observedGeneration"] == server["metadata"]["generation"]
        )

    started = time.monotonic()
    wait_until(rolled_out, f"ModelServer {NAME} is available", seconds=900)
    console.print(f"  Available after {clock(time.monotonic() - started)}")
    with port_forward(f"svc/{NAME}", 80, NAMESPACE) as port:
        yield f"http://localhost:{port}/v1"


def ask(rows: list[Row], api_key: str) -> list[str]:
    with served() as url:
        client = OpenAI(base_url=url, api_key=api_key, max_retries=3, timeout=120)
        return [answer(client, row.question) for row in rows]


def answer(client: OpenAI, question: str) -> str:
    reply = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": question}], max_tokens=80, temperature=0
    )
    return (reply.choices[0].message.content or "").strip()


def show_answers(answers: list[Answers]) -> None:
    for row in answers:
        table = Table(title=row.question, title_justify="left", show_lines=True, expand=True)
        table.add_column("base model", ratio=1)
        table.add_column("tuned model", ratio=1)
        table.add_row(row.before, row.after)
        console.print(table)
        console.print(f"  the answer in the data: {row.reference}\n")


def perplexity(job: Json, subject: str) -> float:
    return perplexities(job)[subject]


def perplexities(job: Json) -> dict[str, float]:
    """The perplexity by subject: base, tuned, and each quantized format."""
    evaluation = EvaluationStatus.model_validate(job["status"]["evaluation"])
    return {item.subject: item.value for item in evaluation.measurements if item.metric == "perplexity"}


def show_losses(job: Json) -> None:
    table = Table(title="Held-out perplexity (lower is better)", title_justify="left")
    for column in ("model", "perplexity", "against base", "size"):
        table.add_column(column)
    sizes = {artifact["format"]: artifact["sizeBytes"] for artifact in job["status"]["artifacts"]}
    base = perplexity(job, "base")
    for subject, value in perplexities(job).items():
        size = f"{sizes[subject] / 1e6:.0f} MB" if subject in sizes else ""
        table.add_row(subject, f"{value:.2f}", f"{value / base - 1:+.0%}", size)
    console.print(table)
    recommended = job["status"]["recommended"]
    console.print(f"Recommended: {recommended['format']} ({recommended['reason']})")


def show_next_steps() -> None:
    console.print(
        f"""
Next commands, in a shell that knows the cluster:
  eval "$(python3 tests/cluster env)"
  kubectl get ftj,ms -n {NAMESPACE}
  kubectl describe ftj {NAME} -n {NAMESPACE}            # events and conditions
  kubectl delete ftj {NAME} -n {NAMESPACE}              # the artifacts stay, so that applying it again ...
  kubectl apply -n {NAMESPACE} -f examples/finetune.yaml   # ... reuses them within a minute, without training
  kubectl port-forward -n {NAMESPACE} svc/{NAME} 8000:80 & # then any OpenAI client at http://localhost:8000/v1 ...
  curl -s http://localhost:8000/v1/models -H "Authorization: Bearer $(kubectl get secret {NAME}-key -n {NAMESPACE} \\
    -o jsonpath='{{.data.api-key}}' | base64 -d)"          # ... with this key
  make cluster-down
""",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
