"""The same job by each backend that trains on a CPU: one prepare, two adapters that are worth the same."""

import pytest

from demo.kubectl import Json, apply, condition
from e2e.conftest import NamespaceFactory
from e2e.jobs import fine_tune_job, small_training, stage_digest, stage_pods, wait_for_job

NAMESPACE = "e2e-backends"


@pytest.fixture(scope="module")
def jobs(new_namespace: NamespaceFactory) -> dict[str, Json]:
    """The finished job of each backend."""
    namespace = new_namespace(NAMESPACE)
    parts: Json = {
        "evaluation": {"maxRows": 16, "gates": []},
        "output": {"uri": "s3://artifacts/backends", "secretRef": {"name": "s3-credentials"}},
    }
    for backend in ("peft", "axolotl"):
        training = small_training(10, backend=backend)
        apply(fine_tune_job(backend, namespace, training=training, **parts))
    return {backend: wait_for_job(backend, namespace, seconds=1200) for backend in ("peft", "axolotl")}


def perplexity(job: Json) -> float:
    measured = job["status"]["evaluation"]["measurements"]
    return float(
        next(item["value"] for item in measured if (item["metric"], item["subject"]) == ("perplexity", "tuned"))
    )


def test_the_tuned_models_have_the_same_perplexity(jobs: dict[str, Json]) -> None:
    assert perplexity(jobs["axolotl"]) == pytest.approx(perplexity(jobs["peft"]), rel=0.02)


def test_the_rows_are_prepared_once(jobs: dict[str, Json]) -> None:
    assert stage_digest(jobs["axolotl"], "prepare") == stage_digest(jobs["peft"], "prepare")
    assert stage_digest(jobs["axolotl"], "train") != stage_digest(jobs["peft"], "train")


def test_axolotl_runs_in_an_image_of_its_own(jobs: dict[str, Json], images: dict[str, str]) -> None:
    (pod,) = stage_pods("axolotl", NAMESPACE, "train")
    assert {container["image"] for container in pod["spec"]["containers"]} == {images["axolotl"]}
    assert condition(jobs["axolotl"], "Trained")["status"] == "True"
