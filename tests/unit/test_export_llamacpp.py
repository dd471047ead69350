"""GGUF: what fits, what is told of a file, and the figures of the scorer."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from tuneyard_api import names
from tuneyard_api.contracts.requests import GgufOutcome
from tuneyard_api.kinds.export import Export
from tuneyard_api.registry import ARTIFACT_FORMATS
from tuneyard_trainer.exporters import check_formats, format_of
from tuneyard_trainer.exporters.llamacpp import misfit, notes
from tuneyard_trainer.metrics.llamacpp_worker import token_nll
from tuneyard_trainer.metrics.scorers import LLAMACPP
from tuneyard_trainer.model.llamacpp import known_splits
from tuneyard_trainer.model.shape import ModelShape
from tuneyard_trainer.runtime.errors import BadInput

GGUF = [name for name in ARTIFACT_FORMATS if name.startswith("gguf-")]
TEXT = " \n1 Ünï's"


def byte_level(to: Path, *, split: bool) -> Path:
    """A byte-level tokenizer.json; `split`: words are found by a pattern of its own, not by GPT-2's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: number for number, character in enumerate(alphabet)}, merges=[]))
    own = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    steps = [own, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if split else pre_tokenizers.ByteLevel(False)
    tokenizer.save(str(to))
    return to


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tables of a converter that knows Llama and one tokenizer, written as llama.cpp writes them."""
    known = Tokenizer.from_file(str(byte_level(tmp_path / "known.json", split=True))).encode(TEXT).ids
    folder = tmp_path / "conversion"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        'TEXT_MODEL_MAP: dict[str, str] = {\n    "LlamaForCausalLM": "llama",\n}\n'
        "MMPROJ_MODEL_MAP: dict[str, str] = {}\n"
    )
    digest = hashlib.sha256(str(known).encode()).hexdigest()
    (folder / "base.py").write_text(
        f"class A:\n    def b(self):\n        chktxt = {TEXT!r}\n"
        f'        if chkhsh == "{digest}":\n            res = "x"\n'
    )
    monkeypatch.setenv(names.ENV_LLAMACPP, str(tmp_path))
    return tmp_path


def shape(architecture: str = "LlamaForCausalLM", tokenizer: Path | None = None) -> ModelShape:
    return ModelShape({"architectures": [architecture]}, tokenizer=tokenizer)


def test_known_architectures_fit(home: Path) -> None:
    assert misfit(shape()) is None
    assert misfit(ModelShape()) is None, "what is not known is left to the converter"
    assert "does not know the architecture UnheardOfForCausalLM" in str(misfit(shape("UnheardOfForCausalLM")))


def test_known_tokenizers_fit(home: Path) -> None:
    assert known_splits(home)[0] == TEXT
    assert misfit(shape(tokenizer=home / "known.json")) is None
    assert misfit(shape(tokenizer=home / "absent.json")) is None


def test_tokenizer_that_splits_as_gpt2_fits(home: Path) -> None:
    assert misfit(shape(tokenizer=byte_level(home / "own.json", split=False))) is None


def test_unknown_splits_do_not_fit(home: Path) -> None:
    document = json.loads((home / "known.json").read_text())
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"[\d\s]"}
    document["model"]["vocab"] = {token: number + 1 for token, number in document["model"]["vocab"].items()}
    (home / "other.json").write_text(json.dumps(document))
    assert "how the model's tokenizer splits" in str(misfit(shape(tokenizer=home / "other.json")))


def test_other_kinds_of_tokenizers_are_left_to_the_converter(home: Path) -> None:
    document = json.loads((home / "known.json").read_text())
    document["model"] |= {"type": "Unigram"}
    (home / "unigram.json").write_text(json.dumps(document))
    assert misfit(shape(tokenizer=home / "unigram.json")) is None


@pytest.mark.parametrize("name", GGUF)
def test_prepare_refuses_by_the_formats_name(home: Path, name: str) -> None:
    assert format_of(name).scorer is LLAMACPP
    with pytest.raises(BadInput, match=f"architecture Other.*Remove {name} from export.formats"):
        check_formats(Export(formats=[name]), shape("Other"), "s3://models/a")


def test_without_llamacpp_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(names.ENV_LLAMACPP, raising=False)
    assert "TUNEYARD_LLAMACPP is not set" in str(misfit(shape()))


def test_a_tree_of_another_version_is_named(home: Path) -> None:
    (home / "conversion" / "base.py").write_text("")
    known_splits.cache_clear()
    with pytest.raises(LookupError, match="another version"):
        known_splits(home)


def test_notes() -> None:
    assert notes(GgufOutcome(tensors=211, fallbacks=0, rows=5), "Q5_K_M") == []
    (note,) = notes(GgufOutcome(tensors=211, fallbacks=180), "Q5_K_M")
    assert note.startswith("180 of 211 matrices have rows that do not divide by 256")
    (note,) = notes(GgufOutcome(tensors=1, fallbacks=0, split_otherwise=2, rows=5), "Q5_K_M")
    assert "2 of 5 calibration rows" in note


def test_token_nll() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 1000.0, 0.0]], dtype=np.float32)
    first = math.log(sum(math.exp(value) for value in (1, 2, 3))) - 1
    assert token_nll(logits, [0, 1]) == pytest.approx([first, 0])
    assert token_nll(logits, [0, 2]) == pytest.approx([first, 1000])
