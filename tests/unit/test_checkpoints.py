"""Complete checkpoints. tests/integration saves, prunes and fetches them on a real store."""

from tuneyard_trainer.runtime.checkpoints import complete_steps

ROOT = "s3://b/runs/abc/train/checkpoints"


def test_newest_first() -> None:
    uris = [f"{ROOT}/step-{step}/manifest.json" for step in (9, 100, 20)]
    assert complete_steps(uris) == [100, 20, 9]


def test_incomplete_checkpoints_are_ignored() -> None:
    uris = [
        f"{ROOT}/step-10/adapter_model.safetensors",
        f"{ROOT}/step-10/manifest.json",
        f"{ROOT}/step-20/adapter_model.safetensors",
        f"{ROOT}/step-20/optimizer.pt",
    ]
    assert complete_steps(uris) == [10]


def test_other_objects_are_ignored() -> None:
    names = ["manifest.json", "step-x/manifest.json", "step-3/manifest.json.tmp"]
    assert complete_steps(f"{ROOT}/{name}" for name in names) == []
