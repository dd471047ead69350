"""Which checkpoints count. That they are saved, pruned and fetched is tested on a real store in tests/integration."""

from tuneyard_trainer.runtime.checkpoints import complete_steps

ROOT = "s3://b/runs/abc/train/checkpoints"


def test_newest_first_by_number() -> None:
    uris = [f"{ROOT}/step-{step}/manifest.json" for step in (9, 100, 20)]
    assert complete_steps(uris) == [100, 20, 9]


def test_without_a_manifest_a_checkpoint_is_not_there() -> None:
    uris = [
        f"{ROOT}/step-10/adapter_model.safetensors",
        f"{ROOT}/step-10/manifest.json",
        f"{ROOT}/step-20/adapter_model.safetensors",
        f"{ROOT}/step-20/optimizer.pt",
    ]
    assert complete_steps(uris) == [10]


def test_other_objects_are_no_checkpoints() -> None:
    names = ["manifest.json", "step-x/manifest.json", "step-3/manifest.json.tmp"]
    assert complete_steps(f"{ROOT}/{name}" for name in names) == []
