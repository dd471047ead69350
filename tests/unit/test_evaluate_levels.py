"""The table of levels: what is summed up over the held-out rows of each model, and how models are compared."""

import math
from pathlib import Path

import numpy as np
import pytest

from support.pages import Page
from support.tinymodel import byte_tokenizer, write_model
from tuneyard_api.contracts.requests import Score, ScoreRequest
from tuneyard_api.contracts.results import EvaluateResult, Level
from tuneyard_api.contracts.speed import TOGETHER, Speed
from tuneyard_trainer.data.columns import IGNORED
from tuneyard_trainer.data.tokenize.tokenizer import ModelTokenizer
from tuneyard_trainer.metrics.answers import ANSWER_TOKENS, answered, asked_rows, question_and_answer
from tuneyard_trainer.metrics.comparison import Comparison, Logits
from tuneyard_trainer.metrics.speed import GENERATED_TOKENS, PROMPT_TOKENS, measure_speed, prompt
from tuneyard_trainer.metrics.tally import Tally, predicted
from tuneyard_trainer.reports.evaluation import EvaluationDocument, render_html
from tuneyard_trainer.stages.evaluate import COMPARED_TOKENS, compared_answers, compared_rows, levels

END = 9
# Two answers, of which the second was cut off before its end.
LABELS = [IGNORED, IGNORED, 5, END, IGNORED, 6, 7]


def logits(*probabilities: list[float]) -> Logits:
    return np.log(np.array(probabilities, dtype=np.float32)) + 3  # logits count up to a constant


def compare(folder: Path, row: Logits, other: Logits) -> Comparison:
    Comparison(folder / "logits", is_reference=True).add(4, row)
    comparison = Comparison(folder / "logits", is_reference=False)
    comparison.add(4, other)
    return comparison


def test_comparison(tmp_path: Path) -> None:
    found = compare(tmp_path, logits([0.5, 0.5], [0.9, 0.1]), logits([0.25, 0.75], [0.9, 0.1]))
    # The first of two equal ones is the most likely one.
    assert found.changed_top1 == 0.5
    assert found.kl == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2, rel=1e-5)


def test_comparison_of_another_width(tmp_path: Path) -> None:
    padded = np.concatenate([logits([0.5, 0.5]), [[-1e9]]], axis=1).astype(np.float32)
    assert compare(tmp_path, logits([0.5, 0.5]), padded).kl == pytest.approx(0, abs=1e-6)


def test_the_reference_is_compared_with_nothing(tmp_path: Path) -> None:
    reference = Comparison(tmp_path, is_reference=True)
    reference.add(0, logits([0.5, 0.5]))
    assert (reference.kl, reference.changed_top1) == (None, None)


def test_ends_of_answers(tmp_path: Path) -> None:
    """Only an answer that has its end counts, and also when a row comes in pieces."""
    request = ScoreRequest(models={}, rows=tmp_path, end_tokens=[END], compared=[1])
    tally = Tally.of(request, "int8")
    positions = predicted(LABELS)
    assert positions == [2, 3, 5, 6]
    nll = -np.log(np.array([0.5, 0.25, 0.5, 0.125]))
    for part in ([0], [1, 2], [3]):
        tally.add(LABELS, nll[part], [positions[index] for index in part])
    score = tally.score(memory_bytes=7, speed=Speed(tokens_per_second=3.0), engine="toy 1.0")
    assert (score.memory_bytes, score.tokens_per_second, score.seconds_to_first_token) == (7, 3.0, None)
    assert score.nll == pytest.approx(-math.log(0.5 * 0.25 * 0.5 * 0.125))
    assert (score.tokens, score.kl) == (4, None)
    assert score.end_probability == pytest.approx(0.25)
    assert tally.compared == {1}


def test_prompt_has_no_answer() -> None:
    assert prompt([([1, 2, 5, END, 3, 6, 7], LABELS)]) == [1, 2]
    assert prompt([([5, 6], [5, 6])]) == [5]
    assert len(prompt([([1] * 500, [IGNORED] * 499 + [1])])) == PROMPT_TOKENS


def test_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one request and of several; what is set up for the first one is not measured."""
    clock = iter([0.0, 0.5, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    asked: list[tuple[list[list[int]], int]] = []
    speed = measure_speed(lambda prompts, tokens: asked.append((prompts, tokens)), [([1, 2, 5], [IGNORED, IGNORED, 5])])
    alone, together = [[1, 2]], [[1, 2]] * TOGETHER
    assert asked == [(alone, 1), (alone, 1), (alone, GENERATED_TOKENS), (together, GENERATED_TOKENS)]
    assert dict(speed) == {
        "seconds_to_first_token": 0.5,
        "tokens_per_second": GENERATED_TOKENS / 2,
        "tokens_per_second_together": TOGETHER * GENERATED_TOKENS / 4,
    }


def test_compared_rows() -> None:
    """A sample, not the first rows; as many as give enough tokens."""
    rows = [([1] * 101, [IGNORED] + [1] * 100)] * 50
    chosen = compared_rows(rows, seed=1)
    assert len(chosen) == math.ceil(COMPARED_TOKENS / 100)
    assert chosen == compared_rows(rows, seed=1) != compared_rows(rows, seed=2)
    assert sorted(compared_rows(rows[:3], seed=1)) == [0, 1, 2]


def test_rows_with_a_question_are_asked() -> None:
    chat, text, long = ([1, 2, 5, END, 3, 6, 7], LABELS), ([5, 6, 7], [5, 6, 7]), ([1] * 600, [IGNORED] * 599 + [1])
    assert asked_rows([text, chat, long, chat]) == [1, 3]
    assert asked_rows([chat] * 9) == [0, 1, 2, 3]
    assert question_and_answer(chat) == ([1, 2], [5, END])
    assert question_and_answer(([1, 2, 5], [IGNORED, IGNORED, 5])) == ([1, 2], [5])


def test_an_answer_ends_with_its_end() -> None:
    asked: list[tuple[list[list[int]], int]] = []

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        asked.append((prompts, tokens))
        return [[5, END, 6, END], [5, 6, 7], [END]]

    assert answered(generate, [[1], [2], [3]], frozenset({END})) == [[5], [5, 6, 7], []]
    assert asked == [([[1], [2], [3]], ANSWER_TOKENS)]
    assert answered(generate, [], frozenset()) == []


def test_answers_as_text(tmp_path: Path) -> None:
    """Marks of turns are left out; each model's answer is that to the question that it stands below."""
    write_model(tmp_path / "model", weights=False)
    encode = byte_tokenizer().encode
    texts = ["<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", "Who?"]
    prompts = [encode(text).ids for text in texts]
    rows = [([*ids, *encode("So.").ids], [IGNORED] * len(ids) + encode("So.").ids) for ids in prompts]
    rows.insert(1, ([5, 6], [5, 6]))  # without a question
    scores = {
        subject: Score(nll=1, tokens=1, answers=[encode(f"{subject} {number}").ids for number in range(2)])
        for subject in ("base", "tuned")
    } | {"int8": Score(nll=1, tokens=1)}
    found = compared_answers(rows, scores, ModelTokenizer(tmp_path / "model", "s3://models/m"))
    assert [item.wire() for item in found] == [
        {"question": "user\nWhy?\nassistant", "wanted": "So.", "answers": {"base": "base 0", "tuned": "tuned 0"}},
        {"question": "Who?", "wanted": "So.", "answers": {"base": "base 1", "tuned": "tuned 1"}},
    ]
    nothing = {"int8": scores["int8"]}
    assert compared_answers(rows, nothing, ModelTokenizer(tmp_path / "model", "s3://models/m")) == []


def test_levels(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345")
    score = Score(nll=10.0, tokens=10, kl=0.0123456, memory_bytes=4, tokens_per_second=12.3456, engine="llama.cpp")
    (level,) = levels({"gguf-q8_0": score}, {"gguf-q8_0": tmp_path / "model"})
    assert level.wire() == {
        "subject": "gguf-q8_0",
        "sizeBytes": 5,
        "memoryBytes": 4,
        "tokensPerSecond": 12.35,
        "engine": "llama.cpp",
        "perplexity": 2.7183,
        "kl": 0.01235,
    }


def test_table() -> None:
    """A figure that was not measured is an empty cell."""
    rows = [
        Level(subject="base", size_bytes=270_000_000, perplexity=9.0),
        Level(
            subject="gguf-q4_k_m",
            size_bytes=105_000_000,
            memory_bytes=101_500_000,
            seconds_to_first_token=0.0234,
            tokens_per_second=31.25,
            tokens_per_second_together=120.0,
            engine="llama.cpp",
            perplexity=9.5,
            kl=0.0123456,
            changed_top1=0.081,
            end_probability=0.9871,
        ),
    ]
    result = EvaluateResult(measurements=[], levels=rows, gates=[], passed=True, rows=5, tokens=50)
    page = Page.of(render_html(EvaluationDocument.of("bot", "d" * 64, result, [], None)))
    assert page.defects() == []
    assert ["base", "270.0", "", "", "", "", "9.0000", "", "", "", ""] in page.rows
    speed = ["23", "31.2", "120.0"]
    quality = ["9.5000", "0.01235", "8.1 %", "0.987"]
    assert ["gguf-q4_k_m", "105.0", "101.5", *speed, *quality, "llama.cpp"] in page.rows
