"""dataset.replay: general rows are mixed into training by their share of trained tokens, and some are held out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fuzz.kinds import model_files, tokenizer_in_process
from support.memorystore import MemoryStore
from tuneyard_api.contracts.requests import Likelihood, Score
from tuneyard_api.contracts.results import PrepareResult
from tuneyard_api.kinds.dataset import GENERAL_ROWS
from tuneyard_api.kinds.finetunejob import GENERAL_GATE, FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import ReplayStatus
from tuneyard_trainer.data.builtin import builtin_files
from tuneyard_trainer.data.columns import supervised
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.readers import read_rows as read_file
from tuneyard_trainer.data.readers.row import Row
from tuneyard_trainer.data.replay import held_out_count
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.metrics import measure
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import Outcome
from tuneyard_trainer.stages import run_stage

Json = dict[str, Any]
OWN = [{"prompt": f"What is field {word}?", "completion": f"It is {word} {number}."}
       for number, word in enumerate("abcdefghijklmnopqrst")]  # fmt: skip
GENERAL = [{"prompt": f"Who has {word}?", "completion": f"{word.title()} has " + "it " * (number % 7 + 1)}
           for number, word in enumerate(f"{one}{two}" for one in "bdfghjklmnprstvz" for two in "aeiou")]  # fmt: skip


def lines(rows: list[Json]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def spec(dataset: Json, **changes: Any) -> FineTuneJobSpec:
    given = {
        "model": {"uri": "s3://models/tiny"},
        "dataset": {"train": [{"uri": "s3://data/own.jsonl"}], "clean": {"minRows": 1}} | dataset,
        "training": {"maxLength": 4096},
        "output": {"uri": "s3://out/put"},
    }
    return FineTuneJobSpec.model_validate(given | changes)


class Prepared:
    """What prepare has made."""

    def __init__(self, context: StageContext, outcome: Outcome) -> None:
        self.context, self.outcome = context, outcome

    @property
    def replay(self) -> ReplayStatus:
        found = self.context.result_of(PrepareResult).dataset.replay
        assert found is not None
        return found

    def rows(self, split: str) -> list[tuple[int, ...]]:
        return [tuple(row["input_ids"]) for row in read_rows(fetch_rows(self.context, split))]

    def tokens(self, split: str) -> int:
        return sum(map(supervised, read_rows(fetch_rows(self.context, split))))

    def texts(self, split: str) -> list[str]:
        stored = self.context.store.read(self.context.uri("prepare", f"{split}.jsonl"))
        return [json.loads(line)["messages"][-1]["content"] for line in stored.splitlines()]


@contextmanager
def prepared(work: Path, given: FineTuneJobSpec, general: list[Json] | None = None) -> Iterator[Prepared]:
    store = MemoryStore()
    store.objects = {f"s3://models/tiny/{name}": data for name, data in model_files().items()}
    store.objects |= {"s3://data/own.jsonl": lines(OWN), "s3://data/general.jsonl": lines(general or GENERAL)}
    work.mkdir(exist_ok=True)
    with tokenizer_in_process():
        context = StageContext(stage="prepare", name="test", spec=given, store=store, work=work)
        yield Prepared(context, run_stage(context))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4])
def test_the_share_is_one_of_trained_tokens(tmp_path: Path, fraction: float) -> None:
    replay = {"uri": "s3://data/general.jsonl", "fraction": fraction}
    with prepared(tmp_path, spec({"replay": replay})) as made:
        assert made.outcome.reason == "Completed"
        assert made.replay.fraction == pytest.approx(fraction, abs=0.04)  # half a row
        own = made.tokens("train") - made.replay.tokens
        assert made.replay.tokens / (own + made.replay.tokens) == pytest.approx(made.replay.fraction, abs=1e-4)
        assert made.replay.held_out == len(made.rows("general")) == 16
        assert len(made.rows("train")) == 19 + made.replay.rows
        summary = made.context.result_of(PrepareResult)
        assert (summary.dataset.rows_in, summary.dataset.rows_kept) == (20, 20)
        assert summary.total_steps == -(-3 * len(made.rows("train")) // 16)


def test_no_row_is_both_trained_and_held_out(tmp_path: Path) -> None:
    with prepared(tmp_path, spec({"replay": {"uri": "s3://data/general.jsonl", "fraction": 0.5}})) as made:
        splits = [set(made.rows(split)) for split in ("train", "validation", "general")]
        assert sum(map(len, splits)) == len(set().union(*splits))


def test_general_rows_are_compared_with_the_others(tmp_path: Path) -> None:
    """What the job's own rows say already is not replayed: it may be held out."""
    with prepared(tmp_path, spec({"replay": {"uri": "s3://data/general.jsonl"}}), [*OWN, *GENERAL]) as made:
        own = {row["completion"] for row in OWN}
        assert not own & set(made.texts("general"))
        texts = made.texts("train")
        assert len(texts) == len(set(texts))
        report = json.loads(made.context.store.read(made.context.uri("prepare", "report.json")))
        assert report["replayDropped"] == {"duplicate": 20}
        assert report["dropped"] == {}


def test_the_seed_chooses_the_rows(tmp_path: Path) -> None:
    chosen = []
    for number, seed in enumerate((1, 1, 2)):
        given = spec({"replay": {"uri": "s3://data/general.jsonl"}}, training={"maxLength": 4096, "seed": seed})
        with prepared(tmp_path / str(number), given) as made:
            chosen.append(made.texts("general"))
    assert chosen[0] == chosen[1] != chosen[2]


def test_rules_about_the_jobs_rows_are_not_about_general_ones(tmp_path: Path) -> None:
    clean = {"minRows": 1, "rowRules": [{"pattern": "field", "action": "keep"}]}
    with prepared(tmp_path, spec({"replay": {"uri": "s3://data/general.jsonl"}, "clean": clean})) as made:
        assert (made.outcome.reason, made.replay.held_out) == ("Completed", 16)


def test_the_builtin_set(tmp_path: Path) -> None:
    """`replay: {}` needs no file of the user's; the tiny tokenizer has a token for each byte."""
    with prepared(tmp_path, spec({"replay": {}})) as made:
        assert made.outcome.reason == "Completed", made.outcome
        assert made.replay.uri == GENERAL_ROWS
        assert made.replay.held_out == len(made.rows("general")) == held_out_count(226)


def test_builtin_rows_are_sound() -> None:
    (file,) = builtin_files(GENERAL_ROWS)
    rows = [row.fields["messages"] for row in read_file(file.path, file.uri) if isinstance(row, Row)]
    assert len(rows) >= 200
    assert sum(any("가" <= sign <= "힣" for sign in str(row)) for row in rows) >= 80
    assert all(message["content"].strip() for row in rows for message in row)
    assert all(row[-1]["role"] == "assistant" for row in rows)
    assert len({row[-2]["content"] for row in rows}) == len(rows)


def test_too_few_general_rows(tmp_path: Path) -> None:
    with prepared(tmp_path, spec({"replay": {"uri": "s3://data/general.jsonl"}}), GENERAL[:1]) as made:
        assert made.outcome.reason == "TooFewRows"
        assert "s3://data/general.jsonl" in made.outcome.message


def test_without_replay_nothing_changes(tmp_path: Path) -> None:
    with prepared(tmp_path, spec({})) as made:
        assert made.context.result_of(PrepareResult).dataset.replay is None
        assert not list(made.context.store.list(made.context.uri("prepare", "general")))
    assert "replay" not in spec({}).wire()["dataset"]
    assert GENERAL_GATE not in spec({}).gates


def test_the_default_gates_look_for_forgetting() -> None:
    assert spec({"replay": {}}).gates[-1] == GENERAL_GATE
    own = [{"metric": "perplexity", "against": "base", "maxRatio": 1.0}]
    assert GENERAL_GATE not in spec({"replay": {}}, evaluation={"gates": own}).gates


@pytest.mark.parametrize(
    ("dataset", "changes", "says"),
    [
        ({}, {"evaluation": {"gates": [GENERAL_GATE.wire()]}}, "write dataset.replay"),
        ({"replay": {}}, {"training": {"method": "none"}}, "nothing is tuned"),
        ({"replay": {}}, {"training": {"dpo": {}}}, "pairs of answers"),
        ({"replay": {"uri": "builtin://another"}}, {}, "builtin://general"),
        ({"replay": {"uri": "https://example.com/a.jsonl"}}, {}, "builtin://general"),
        ({"replay": {"fraction": 0}}, {}, "greater than 0"),
    ],
)
def test_what_is_refused(dataset: Json, changes: Json, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        spec(dataset, **changes)


def test_general_perplexity_is_measured_where_there_are_rows() -> None:
    general = Likelihood(nll=20.0, tokens=10)
    found = measure({"base": Score(nll=10.0, tokens=10), "tuned": Score(nll=10.0, tokens=10, general=general)})
    assert [(item.metric, item.subject) for item in found] == [
        ("perplexity", "base"),
        ("perplexity", "tuned"),
        ("generalPerplexity", "tuned"),
    ]
    assert found[-1].value == pytest.approx(7.389, abs=1e-3)
