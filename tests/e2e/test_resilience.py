"""The operator is killed and the training pod deleted: the job completes, each stage runs once, weights are equal."""

import json
import subprocess
from pathlib import Path

import pytest

from demo.kubectl import Json, apply, get, items, kubectl, wait_until
from demo.objectstore import ObjectStore
from e2e.conftest import NamespaceFactory
from e2e.jobs import (
    artifact,
    fine_tune_job,
    last_step,
    restart_operator,
    resumed_from,
    small_training,
    stage_digest,
    stage_pods,
    training_log,
    wait_for_job,
)

NAMESPACE = "e2e-resilience"
TRAINING = small_training(120, lora={"dropout": 0.1})  # dropout, so that the random state matters
EXPORT = {"formats": ["bf16", "int8", "gptq"], "calibration": {"samples": 4, "maxLength": 64}}


@pytest.fixture(scope="module")
def namespace(new_namespace: NamespaceFactory) -> str:
    return new_namespace(NAMESPACE)


@pytest.fixture(scope="module")
def disturbed(namespace: str) -> Json:
    """A finished job whose operator was killed and whose training pod was deleted; `undisturbed` ran beside it."""
    apply(fine_tune_job("disturbed", namespace, training=TRAINING))
    apply(fine_tune_job("undisturbed", namespace, training=TRAINING, export=EXPORT))
    wait_until(
        lambda: last_step(training_log("disturbed", namespace)) >= 5, "training has reached step 5", 300, every=0.5
    )
    restart_operator()
    (pod,) = stage_pods("disturbed", namespace, "train")
    kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, timeout=180)
    return wait_for_job("disturbed", namespace)


@pytest.fixture(scope="module")
def undisturbed(disturbed: Json, namespace: str) -> Json:
    return wait_for_job("undisturbed", namespace)


def adapter(store: ObjectStore, job: Json) -> bytes:
    with store.reached_from_here() as s3:
        run = f"{job['spec']['output']['uri']}/runs/{stage_digest(job, 'train')}/train"
        (uri,) = [item.uri for item in s3.list(run) if item.uri.endswith("adapter/adapter_model.safetensors")]
        return s3.read(uri)


def test_deleted_pod_resumes_from_the_checkpoint(disturbed: Json, namespace: str) -> None:
    assert resumed_from(training_log("disturbed", namespace)) >= 5


def test_adapters_are_identical(undisturbed: Json, disturbed: Json, store: ObjectStore) -> None:
    assert adapter(store, undisturbed) == adapter(store, disturbed)


def test_deleted_pod_is_not_charged(disturbed: Json) -> None:
    assert disturbed["status"]["restarts"].get("failed", 0) == 0, disturbed["status"]["restarts"]


def test_each_stage_runs_once(disturbed: Json, namespace: str) -> None:
    jobs = items("jobs", namespace, "tuneyard.dev/finetunejob=disturbed")
    stages = [job["metadata"]["labels"]["tuneyard.dev/stage"] for job in jobs]
    assert sorted(stages) == ["evaluate", "export", "prepare", "publish", "train"]
    assert all(job["status"].get("succeeded") == 1 for job in jobs)
    for stage in ("prepare", "export", "evaluate", "publish"):
        assert len(stage_pods("disturbed", namespace, stage)) == 1, stage


def test_local_run_gives_the_same_artifacts(
    undisturbed: Json, store: ObjectStore, namespace: str, images: dict[str, str], tmp_path: Path
) -> None:
    """The command `tuneyard run` on this machine, with the same job and another output URI."""
    job = fine_tune_job("undisturbed", namespace, training=TRAINING, export=EXPORT)
    job["spec"]["output"]["uri"] = "s3://artifacts/local"
    (tmp_path / "job.yaml").write_text(json.dumps(job))  # JSON is YAML
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    tmp_path.chmod(0o755)  # the user of the image is another one
    with store.reached_from_here() as s3:
        for name, value in store.credential_files(s3.endpoint("s3://artifacts/local")).items():
            (credentials / name).write_text(value)
        mounts = ["-v", f"{tmp_path}:/job:ro", "--tmpfs", "/work:mode=1777", "--tmpfs", "/tmp:mode=1777,exec"]
        limits = ["--read-only", "--cap-drop", "ALL", "--network", "host"]
        command = ["tuneyard", "run", "/job/job.yaml", "--credentials", "/job/credentials", "--workdir", "/work"]
        run = subprocess.run(
            ["docker", "run", "--rm", *limits, *mounts, images["trainer"], *command],
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    for form in EXPORT["formats"]:
        expected = artifact(undisturbed, str(form))["digest"]
        assert expected in run.stdout, f"{form}: {expected} is not in\n{run.stdout[-4000:]}"


def test_deleted_lease_is_recreated(operator: None) -> None:
    before = get("lease", "tuneyard", "tuneyard-system")["metadata"]["uid"]
    kubectl("delete", "lease", "tuneyard", "-n", "tuneyard-system")

    def is_recreated() -> bool:
        lease = get("lease", "tuneyard", "tuneyard-system")
        return bool(lease["metadata"]["uid"] != before and lease["spec"].get("holderIdentity"))

    wait_until(is_recreated, "an operator leads again", 60)
    kubectl("rollout", "status", "deployment/tuneyard", "-n", "tuneyard-system", "--timeout=60s")
