"""The whole prepare stage on files that are wrong: a reason of bad input, exit code 65, never a crash."""

import json

import pytest

from fuzz.kinds import model_files, prepare
from support.models import Change, Files, retensored, with_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def few_rows(files: Files) -> None:
    """One row less than the tokenizer has tokens; config.json agrees with the weights."""
    with_json("config.json", vocab_size=257)(files)
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    retensored(lambda tensors: [tensors[name].update(shape=[257, 64]) for name in tables])(files)


def template(source: str) -> Change:
    return lambda files: files.update({"chat_template.jinja": source.encode()})


def file(name: str, data: bytes) -> Change:
    return lambda files: files.update({name: data})


CASES: dict[str, tuple[Change, str]] = {
    "sound": (lambda files: None, "Completed"),
    "few rows": (few_rows, "InvalidModel"),
    "lfs": (file("model.safetensors", POINTER), "ModelWeightsMissing"),
    "lfs tokenizer": (file("tokenizer.json", POINTER), "InvalidModel"),
    "future tokenizer": (
        file("tokenizer.json", json.dumps({"version": "9.0", "model": {"type": "Telepathy"}}).encode()),
        "InvalidModel",
    ),
    "lfs config": (file("config.json", POINTER), "InvalidModel"),
    "BOM in tokenizer_config": (file("tokenizer_config.json", b"\xef\xbb\xbf{}"), "InvalidModel"),
    "broken tokenizer_config": (file("tokenizer_config.json", b'{"bos_token": "<s>",}'), "InvalidModel"),
    "tokens that are numbers": (with_json("tokenizer_config.json", bos_token=7, eos_token=[1]), "InvalidModel"),
    "index without weight_map": (file("model.safetensors.index.json", b"{}"), "InvalidModel"),
    "template adds unlike things": (template("{{ messages[0].content + 1 }}"), "InvalidSpec"),
    "template counts no tools": (template("{{ tools | length }}"), "InvalidSpec"),
    "template wants gigabytes": (template("{{ 'a' * 10 ** 10 }}"), "InvalidSpec"),
    "template renders millions": (template("{{ 'a' * 10 ** 7 }}"), "InvalidSpec"),
    "template is a pointer": (file("chat_template.jinja", POINTER), "InvalidModel"),
    "already quantized": (with_json("config.json", quantization_config={"load_in_4bit": True}), "UnsupportedModel"),
}


@pytest.mark.parametrize(("change", "reason"), CASES.values(), ids=CASES)
def test_prepare(change: Change, reason: str) -> None:
    files = dict(model_files())
    change(files)
    assert prepare(files) == reason
