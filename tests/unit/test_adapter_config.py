"""adapter_config.json: whatever is wrong in it is told with the file and the field."""

import json
from pathlib import Path

import pytest

from tuneyard_trainer.exporters.adapter_config import read_adapter_config
from tuneyard_trainer.runtime.errors import BadInput

URI = "s3://out/adapter"
SOUND = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"], "megatron_config": None}


def written(directory: Path, text: str | None) -> Path:
    if text is not None:
        (directory / "adapter_config.json").write_text(text)
    return directory


def changed(**fields: object) -> str:
    return json.dumps(SOUND | fields)


def test_sound(tmp_path: Path) -> None:
    text = changed(target_modules="all-linear", rank_pattern={"q_proj": 4}, lora_alpha=0.5, anything=[1])
    found = read_adapter_config(written(tmp_path, text), URI)
    assert (found.r, found.lora_alpha, found.rank_pattern) == (16, 0.5, {"q_proj": 4})


def test_null_is_the_default(tmp_path: Path) -> None:
    """As Axolotl writes it."""
    text = changed(fan_in_fan_out=None, use_dora=None, use_rslora=None, bias=None)
    found = read_adapter_config(written(tmp_path, text), URI)
    assert (found.fan_in_fan_out, found.use_dora, found.use_rslora, found.bias) == (False, False, False, "none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("", "0 bytes"),
        ("{", "line 1"),
        ("[]", "array"),
        ("{}", "peft_type"),
        (changed(r=None), "r: "),
        (changed(r=0), "r: "),
        (changed(r="16"), "r: "),
        (changed(r=True), "r: "),
        (changed(r=10**9), "r: "),
        (changed(lora_alpha=-1), "lora_alpha: "),
        (changed(lora_alpha=[32]), "lora_alpha: "),
        (changed(lora_alpha=float("inf")), "lora_alpha is inf"),
        (changed(peft_type="IA3"), "peft_type: "),
        (changed(use_rslora="yes"), "use_rslora: "),
        (changed(target_modules=[1]), "target_modules"),
        (changed(rank_pattern=["q_proj"]), "rank_pattern: "),
        (changed(rank_pattern={"q_proj": 0}), "rank_pattern.q_proj: "),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_refused(text: str | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        read_adapter_config(written(tmp_path, text), URI)
    assert f"{URI}/adapter_config.json" in raised.value.message
    assert words in raised.value.message
    assert raised.value.advice
