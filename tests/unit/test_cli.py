"""kubectl tuneyard: what it prints about objects as the operator writes them."""

import io
from datetime import timedelta
from typing import Any

import pytest
from rich.console import RenderableType

from support.builders import NOW
from support.finetuning import FineTuning
from support.podstatus import termination
from support.reports import ARTIFACT, BUILT, DATASET, FIT, PREPARED, PUBLISHED, evaluated, measurements
from tuneyard_api.durations import duration
from tuneyard_api.kinds.modelserver import ModelServerStatus
from tuneyard_cli import screen
from tuneyard_cli.durations import parse_duration
from tuneyard_cli.job import render_job, why
from tuneyard_cli.listing import render_list
from tuneyard_cli.report import evaluation_report, markdown, size
from tuneyard_cli.server import render_server
from tuneyard_operator.machinery.conditions import timestamp

Json = dict[str, Any]

BORN = {"creationTimestamp": "2030-01-02T03:00:05Z"}
GATES = [
    {"metric": "perplexity", "against": "base", "subject": "tuned", "value": 3.0, "limit": 6.3, "passed": True},
    {"metric": "perplexity", "against": "tuned", "subject": "gptq", "value": 4.0, "limit": 3.3, "passed": False},
]
EXACT_MATCH = [{"subject": "tuned", "metric": "exactMatch", "value": 0.5}]
DIGEST = f"sha256:{'b' * 64}"


def shown(thing: RenderableType) -> str:
    file = io.StringIO()
    screen.console(file).print(thing)
    return file.getvalue()


def line(text: str, word: str) -> str:
    """The first line with that word, with single spaces."""
    return next(" ".join(each.split()) for each in text.splitlines() if word in each)


def new_job() -> FineTuning:
    cluster = FineTuning()
    cluster.job["metadata"] |= BORN
    return cluster


def training() -> Json:
    cluster = new_job().at("prepare")
    cluster.run("prepare")
    cluster.job_of("prepare")["status"] = {"startTime": timestamp(cluster.now - timedelta(minutes=2))}
    cluster.exit("prepare", 0, termination("Completed", result=PREPARED)).complete_job("prepare").step()
    cluster.run("train").exit("train", 1)
    cluster.job_controller.sync(cluster.job_of("train"))
    cluster.run("train", percent=43, step=17, steps=40, loss=1.23456, tokensPerSecond=1200.2, etaSeconds=250)
    cluster.job_of("train")["status"]["startTime"] = "2030-01-02T03:03:55Z"
    cluster.step()
    return cluster.job


def failed() -> Json:
    cluster = new_job()
    cluster.step()
    cluster.run("prepare").exit("prepare", 65, termination("InvalidJSON", "s3://d, line 3", "Mend it"))
    cluster.fail_job("prepare")
    cluster.step()
    return cluster.job


def waiting(reason: str, message: str = "") -> Json:
    cluster = new_job()
    cluster.step()
    cluster.kubelet.leave_unscheduled(cluster.create_pod("prepare"), message, reason)
    cluster.step()
    return cluster.job


def published() -> Json:
    cluster = new_job().prepared("train", "export", "evaluate")
    smaller = BUILT | {"format": "gptq", "digest": DIGEST, "sizeBytes": 105_300_000}
    evaluation = evaluated(measurements(base=9.0, tuned=3.0, gptq=4.0) + EXACT_MATCH, GATES)
    result = PUBLISHED | {"artifacts": [BUILT, smaller], "evaluation": evaluation}
    cluster.complete("publish", result)
    cluster.step()
    return cluster.job


def test_running_job() -> None:
    text = shown(render_job(training(), NOW))
    assert line(text, "FineTuneJob") == "FineTuneJob team/x Training"
    assert line(text, "prepare") == "prepare Succeeded 2m00s"
    train = line(text, "train ")
    assert train.startswith("train Running 10s 1 ━━")
    assert train.endswith("43 %, step 17/40, loss 1.2346, 1200 tokens/s, 4m10s left")
    assert line(text, "Restarts") == "Restarts 1 crashed"
    assert line(text, "train: ").startswith("train: StageCrashed: Container stage of pod x-train-")
    assert line(text, "Dataset") == "Dataset 9 of 10 rows kept, 90 tokens; dropped: 1 duplicate"


def test_the_fit_of_the_training() -> None:
    cluster = new_job()
    cluster.step()
    cluster.complete("prepare", PREPARED | {"fit": FIT}).step()
    text = shown(render_job(cluster.job, NOW))
    assert line(text, "GPU fit") == "GPU fit 30.5 of 22.5 GiB (NVIDIA-L4): DoesNotFit"
    assert line(text, "Set training") == FIT["advice"]
    assert line(text, "s3://out/runs").endswith("/prepare/report.html")


def test_where_a_run_is_tracked() -> None:
    """While it runs, and when it has ended and the server lacks some of it."""
    page = "https://mlflow.example/#/experiments/1/runs/a"
    job = training()
    job["status"]["progress"]["trackingURL"] = page
    assert line(shown(render_job(job, NOW)), "MLflow") == f"MLflow {page}"
    job["status"]["training"] = {
        "mlflow": {"url": page, "lost": 7, "message": "it is away"},
        "tensorboardURI": "s3://a/tensorboard",
    }
    text = shown(render_job(job, NOW))
    assert line(text, "MLflow") == f"MLflow {page}"
    assert line(text, "7 values") == "7 values are not in MLflow: it is away"
    assert line(text, "TensorBoard") == "TensorBoard s3://a/tensorboard"


def test_answers_that_are_left_out() -> None:
    cluster = new_job()
    cluster.step()
    answers = {"given": 9, "trained": 7, "leftOut": {"notShown": 2}}
    cluster.complete("prepare", PREPARED | {"dataset": DATASET | {"answers": answers}}).step()
    text = line(shown(render_job(cluster.job, NOW)), "Dataset")
    assert text.endswith("dropped: 1 duplicate; 7 of 9 answers trained (left out: 2 notShown)")


def test_failed_job() -> None:
    cause, log = why(failed())
    assert cause.startswith("Failed: InvalidJSON: s3://d, line 3. Mend it. ")
    assert cause.endswith("kubectl tuneyard retry x -n team")
    assert log == "Its log: kubectl tuneyard logs x -n team --stage prepare"
    assert line(shown(render_job(failed(), NOW)), "prepare ").startswith("prepare Failed")


def test_waiting_job() -> None:
    (cause,) = why(waiting("Unschedulable", "0/1 nodes are available: 1 Insufficient memory."))
    assert cause.startswith("prepare waits: Unschedulable: 0/1 nodes") and "spec.resources" in cause
    assert why(waiting("SomethingNew")) == ["prepare waits: SomethingNew"]


def test_unobserved_job() -> None:
    assert "Is it running?" in why(FineTuning().job)[0]
    changed = failed()
    changed["metadata"]["generation"] = 2
    assert "has changed" in why(changed)[0]


def test_succeeded_job() -> None:
    text = shown(render_job(published(), NOW))
    assert why(published()) == []
    assert line(text, "train ") == "train Adopted reused from an earlier run"
    assert line(text, "Perplexity") == "Perplexity base 9.0000, tuned 3.0000 (-66.7 %), gptq 4.0000 (-55.6 %)"
    assert line(text, "Gates") == "Gates passed perplexity of tuned 3.0000, against base at most 6.3000"
    assert line(text, "failed") == "failed perplexity of gptq 4.0000, against tuned at most 3.3000"
    assert line(text, "ExactMatch") == "ExactMatch tuned 0.5000"
    assert "1 of 2 gates passed" in text
    assert line(text, "Recommended") == "Recommended bf16: the only one"
    assert str(ARTIFACT["digest"]) in text


def test_report_in_markdown() -> None:
    report = evaluation_report(published())
    assert report
    text = markdown(report)
    assert text.startswith("### team/x: Succeeded, 1 of 2 gates passed\n")
    assert "| base | 9.0000 |  |\n| tuned | 3.0000 | -66.7 % |\n" in text
    assert "| model | perplexity (lower is better) | against base |" in text
    assert "| tuned | 0.5000 |  |" in text
    assert "| perplexity of gptq against tuned | 4.0000 | 3.3000 | **failed** |" in text
    assert f"| gptq | 105.3 MB | 3.5000 | `{DIGEST}` |" in text
    assert f"Recommended: **bf16**, the only one. `{ARTIFACT['uri']}`" in text


def test_report_of_a_failed_gate() -> None:
    cluster = FineTuning().prepared("train", "export")
    result = evaluated(measurements(base=9.0, tuned=12.0), [GATES[0] | {"value": 12.0, "passed": False}])
    cluster.run("evaluate").exit("evaluate", 65, termination("GateFailed", "worse", "Train longer", result))
    cluster.fail_job("evaluate")
    cluster.step()
    report = evaluation_report(cluster.job)
    assert report
    assert markdown(report).startswith("### team/x: Failed, 0 of 1 gates passed\n")
    assert "Recommended" not in markdown(report)


def test_no_report_before_the_evaluation() -> None:
    assert evaluation_report(training()) is None


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7 B"), (1200, "1.2 kB"), (105_300_000, "105.3 MB"), (16.4e9, "16.4 GB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def model_server(**status: Any) -> Json:
    """A ModelServer whose status is valid by the API."""
    if status:
        status = ModelServerStatus.model_validate({"observedGeneration": 1} | status).wire()
    metadata = {"name": "bot", "namespace": "team", "generation": 1} | BORN
    return {"kind": "ModelServer", "metadata": metadata, "spec": {}, "status": status}


def condition(kind: str, status: str, reason: str, message: str = "") -> Json:
    at = "2030-01-02T03:04:05Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}


SERVED = {"revision": "aaaa1111", "digest": ARTIFACT["digest"], "format": "bf16", "uri": "s3://out/a"}
READY = {"served": SERVED, "replicas": 2, "readyReplicas": 2, "url": "http://bot.team.svc"}
AVAILABLE = condition("Available", "True", "Serving", "2 of 2 replicas are ready")
AT_REST = condition("Progressing", "False", "Completed", "revision aaaa1111 is served")
CORRUPT = "model.safetensors is not the one that was published."


def test_available_server() -> None:
    text = shown(render_server(model_server(conditions=[AVAILABLE, AT_REST], **READY)))
    assert line(text, "ModelServer") == "ModelServer team/bot Available"
    assert line(text, "Served") == "Served revision aaaa1111, bf16, s3://out/a"
    assert line(text, "Replicas") == "Replicas 2 of 2 ready"
    assert "Rollout" not in text
    assert "Failed" not in text


def test_rollout() -> None:
    message = "revision bbbb2222 is being rolled out: pod b: Unschedulable: no GPU"
    coming = condition("Progressing", "True", "RollingOut", message)
    text = shown(render_server(model_server(conditions=[AVAILABLE, coming], **READY)))
    assert line(text, "Rollout") == f"Rollout {message}"


def test_rolled_back_revision() -> None:
    degraded = condition("Degraded", "True", "ArtifactCorrupt", CORRUPT)
    progressing = condition("Progressing", "False", "ArtifactCorrupt", CORRUPT)
    refused = {"revision": "bbbb2222", "digest": DIGEST, "reason": "ArtifactCorrupt", "message": CORRUPT}
    server = model_server(conditions=[AVAILABLE, progressing, degraded], failed=refused, **READY)
    text = shown(render_server(server))
    assert line(text, "ModelServer") == "ModelServer team/bot Degraded"
    assert line(text, "Failed:") == f"Failed: ArtifactCorrupt: {CORRUPT}"
    assert text.count(CORRUPT) == 1
    assert DIGEST in text
    assert "still served" in text


def test_server_waiting_for_its_job() -> None:
    message = "FineTuneJob x is Training"
    waits = [condition(kind, "False", "WaitingForFineTuneJob", message) for kind in ("Available", "Progressing")]
    text = shown(render_server(model_server(conditions=waits)))
    assert line(text, "ModelServer") == "ModelServer team/bot Pending"
    assert line(text, "Rollout") == f"Rollout WaitingForFineTuneJob: {message}"
    assert text.count(message) == 1


def test_unavailable_server() -> None:
    not_ready = condition("Available", "False", "NotReady", "pod b: CrashLoopBackOff")
    text = shown(render_server(model_server(conditions=[not_ready, AT_REST], served=SERVED)))
    assert line(text, "ModelServer") == "ModelServer team/bot Unavailable"
    assert line(text, "Not available") == "Not available: NotReady: pod b: CrashLoopBackOff"


def test_table() -> None:
    servers = [model_server(), model_server(conditions=[AVAILABLE, AT_REST], **READY)]
    text = shown(render_list([training(), failed(), published()], servers, NOW))
    assert (
        line(text, "Training") == "team x Training 9/10 4m00s 43 %, step 17/40, loss 1.2346, 1200 tokens/s, 4m10s left"
    )
    assert line(text, "Failed") == "team x Failed 4m00s InvalidJSON"
    assert line(text, "Succeeded") == "team x Succeeded 9/10 bf16 4m00s"
    assert line(text, "Available") == "team bot Available bf16 2/2 4m00s"
    assert line(text, "Pending").startswith("team bot Pending 4m00s The operator has not observed it yet.")


def test_empty_table() -> None:
    assert "-A shows all namespaces" in shown(render_list([], [], NOW))


def test_messages_are_no_markup() -> None:
    job = waiting("[bold] :smile: x")
    for text in (shown(render_job(job, NOW)), shown(render_list([job], [], NOW))):
        assert "[bold] :smile: x" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (250, "4m10s"),
        (3725, "1h02m"),
        (7200, "2h00m"),
        (90000, "1d01h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("0.5s", 0.5)]
)
def test_parse_duration(text: str, seconds: float) -> None:
    assert timedelta(seconds=parse_duration(text)) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "3", "h", "1 h", "-1s", "1w"])
def test_parse_duration_rejects(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)
