"""prepare against a real S3 server: bad input fails with a reason, good input becomes tokenized rows."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from contract import s3_servers
from contract.prepare_inputs import ENDLESS, FILES, GOOD, LAST_ANSWER_ONLY, MODELS, Json, lines, rows
from contract.s3_servers import BUCKET, Server
from support.tinymodel import CONFIG, TEMPLATE, TURN_END, write_model
from tuneyard_api.contracts.results import PrepareResult
from tuneyard_api.contracts.termination import PrepareReport
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import AnswersStatus
from tuneyard_api.names import Stage
from tuneyard_api.reasons import ADOPTED, COMPLETED
from tuneyard_store.artifact import fetch_directory
from tuneyard_store.schemes.s3 import S3Store
from tuneyard_trainer.data.columns import IGNORED, INPUT_IDS, LABELS
from tuneyard_trainer.data.prepared import fetch_rows
from tuneyard_trainer.data.shards import read_rows
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.runtime.stage_runner import Outcome
from tuneyard_trainer.stages import run_stage

ROOT = f"s3://{BUCKET}"
READER, READER_SECRET = "reader", "reader-secret-0123456789"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_servers.versitygw(tmp_path_factory.mktemp("versitygw")) as server:
        store = server.store()
        for name, content in FILES.items():
            store.write(f"{ROOT}/data/{name}", content)
        for name, changes in MODELS.items():
            directory = write_model(tmp_path_factory.mktemp("models") / name, **changes)
            for path in directory.iterdir():
                store.upload(path, f"{ROOT}/models/{name}/{path.name}")
        store.write(f"{ROOT}/models/shard-missing/config.json", json.dumps(CONFIG).encode())
        store.write(f"{ROOT}/models/shard-missing/model-00001-of-00002.safetensors", b"x")
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        store.write(f"{ROOT}/models/shard-missing/model.safetensors.index.json", json.dumps(index).encode())
        for path in write_model(tmp_path_factory.mktemp("models") / "pointer").iterdir():
            store.upload(path, f"{ROOT}/models/pointer/{path.name}")
        store.write(f"{ROOT}/models/pointer/model.safetensors", b"version https://git-lfs.github.com/spec/v1\n")
        s3_servers.add_reader(server, READER, READER_SECRET)
        store._client.put_bucket_policy(Bucket=BUCKET, Policy=s3_servers.read_only_policy(READER))
        yield server


def spec(data: str = "good.jsonl", **changes: Any) -> FineTuneJobSpec:
    """A spec with an output of its own; `changes` replace its parts."""
    given: Json = {
        "model": {"uri": f"{ROOT}/models/good"},
        "dataset": {"train": [{"uri": f"{ROOT}/data/{data}"}], "clean": {"minRows": 20}},
        "training": {"maxLength": 256},
        "output": {"uri": f"{ROOT}/out/{uuid4().hex}"},
    }
    return FineTuneJobSpec.model_validate(given | changes)


def report_of(outcome: Outcome) -> PrepareReport:
    assert isinstance(outcome.report, PrepareReport), outcome
    return outcome.report


def prepare(given: FineTuneJobSpec, store: S3Store, work: Path) -> tuple[Outcome, StageContext]:
    context = StageContext(stage="prepare", name="contract", spec=given, store=store, work=work)
    work.mkdir(exist_ok=True)
    return run_stage(context), context


class Case(NamedTuple):
    """A wrong spec, the expected reason, and words that message and advice must have."""

    spec: FineTuneJobSpec
    reason: str
    words: list[str]
    credentials: dict[str, str | None] = {}


def dataset(uri: str, **clean: Any) -> Json:
    return {"train": [{"uri": uri}], "clean": {"minRows": 1} | clean}


CASES = {
    "bucket": Case(
        spec(dataset=dataset("s3://nowhere/x.jsonl")), "BucketNotFound", ["nowhere", "s3://nowhere/x.jsonl"]
    ),
    "output bucket": Case(spec(output={"uri": "s3://nowhere/out"}), "BucketNotFound", ["nowhere", "Create it"]),
    "secret key": Case(
        spec(), "InvalidCredentials", ["AWS_SECRET_ACCESS_KEY"], {"AWS_SECRET_ACCESS_KEY": "another-secret-0123456789"}
    ),
    "access key": Case(spec(), "InvalidCredentials", ["AWS_ACCESS_KEY_ID"], {"AWS_ACCESS_KEY_ID": "somebody-else"}),
    "unknown CA": Case(spec(), "UntrustedCertificate", ["ca.crt"], {"ca_crt": None}),
    "read only": Case(
        spec(output={"uri": f"{ROOT}/out/read-only"}),
        "OutputNotWritable",
        [f"{ROOT}/out/read-only", "s3:PutObject"],
        {"AWS_ACCESS_KEY_ID": READER, "AWS_SECRET_ACCESS_KEY": READER_SECRET},
    ),
    "model": Case(spec(model={"uri": f"{ROOT}/models/not-there"}), "ModelNotFound", [f"{ROOT}/models/not-there"]),
    "weights": Case(
        spec(model={"uri": f"{ROOT}/models/no-weights"}), "ModelWeightsMissing", ["safetensors", "no-weights"]
    ),
    "shard": Case(
        spec(model={"uri": f"{ROOT}/models/shard-missing"}), "ModelWeightsMissing", ["model-00002-of-00002.safetensors"]
    ),
    "template": Case(
        spec(model={"uri": f"{ROOT}/models/no-template"}), "ChatTemplateMissing", ["no-template", "model.chatTemplate"]
    ),
    "invalid template": Case(
        spec(model={"uri": f"{ROOT}/models/broken-template"}), "InvalidSpec", ["broken-template", "model.chatTemplate"]
    ),
    "invalid chatTemplate": Case(
        spec(model={"uri": f"{ROOT}/models/good", "chatTemplate": "{{"}), "InvalidSpec", ["model.chatTemplate"]
    ),
    "no end of a turn": Case(
        spec(model={"uri": f"{ROOT}/models/good", "chatTemplate": ENDLESS}), "NoEndOfTurn", ["model.chatTemplate"]
    ),
    "answers that are not shown": Case(
        spec(
            model={"uri": f"{ROOT}/models/good", "chatTemplate": LAST_ANSWER_ONLY},
            dataset={"train": [{"uri": f"{ROOT}/data/turns.jsonl"}], "clean": {"minRows": 1}},
        ),
        "AnswersNotTrained",
        ["40 of 80 answers trained (left out: 40 notShown)", "minTrainedAnswers", "model.chatTemplate"],
    ),
    "format": Case(
        spec(model={"uri": f"{ROOT}/models/narrow"}, export={"formats": ["gptq"]}), "FormatDoesNotFit", ["gptq", "100"]
    ),
    "target modules": Case(
        spec(training={"lora": {"targetModules": ["q_proj", "nowhere"]}}),
        "InvalidSpec",
        ["nowhere", f"{ROOT}/models/good", "gate_proj, k_proj"],
    ),
    "no safetensors": Case(
        spec(model={"uri": f"{ROOT}/models/pointer"}),
        "ModelWeightsMissing",
        [f"{ROOT}/models/pointer/model.safetensors", "Git LFS"],
    ),
    "data": Case(spec("not-there.jsonl"), "DatasetNotFound", [f"{ROOT}/data/not-there.jsonl"]),
    "prefix without rows": Case(spec("no-such-folder"), "DatasetNotFound", [".jsonl"]),
    "no bytes": Case(spec("empty.jsonl"), "DatasetEmpty", [f"{ROOT}/data/empty.jsonl"]),
    "blank lines": Case(spec("blank.jsonl"), "DatasetEmpty", [f"{ROOT}/data/blank.jsonl"]),
    "invalid JSON": Case(
        spec(dataset=dataset(f"{ROOT}/data/broken.jsonl", badRows={"policy": "fail"})),
        "InvalidJSON",
        [f"{ROOT}/data/broken.jsonl", "line 3", "column"],
    ),
    "UTF-8": Case(spec("latin1.jsonl"), "InvalidJSON", ["line 2", "UTF-8"]),
    "gzip": Case(spec("cut.jsonl.gz"), "InvalidJSON", ["cut.jsonl.gz", "gzip"]),
    "list": Case(spec("list.jsonl"), "InvalidRow", ["line 1", "str"]),
    "empty answer": Case(
        spec("no-answer.jsonl"), "MissingAnswer", [f"{ROOT}/data/no-answer.jsonl", "line 2", "answer"]
    ),
    "no answer": Case(spec("answer-gone.jsonl"), "MissingAnswer", ["line 4", "answer"]),
    "no assistant": Case(spec("no-assistant.jsonl"), "MissingAnswer", ["line 1", "assistant"]),
    "unknown fields": Case(spec("unknown.jsonl"), "InvalidRow", ["body", "columns"]),
    "answer of another type": Case(
        spec(dataset=dataset(f"{ROOT}/data/number.jsonl", nonText="fail")), "InvalidRow", ["line 1", "answer", "int"]
    ),
    "bad rows": Case(
        spec(dataset=dataset(f"{ROOT}/data/some-bad.jsonl", badRows={"maxFraction": 0.05})),
        "MissingAnswer",
        [
            "line 41",
            "line 42, byte 15",
            "line 43",
            "3 of 43 rows",
            "dataset.clean.badRows.maxFraction",
            "/dropped.jsonl",
        ],
    ),
    "column": Case(
        spec(dataset={"train": [{"uri": f"{ROOT}/data/good.jsonl", "columns": {"prompt": "nowhere"}}]}),
        "InvalidSpec",
        ["nowhere", "answer, question"],
    ),
    "page": Case(spec("page.jsonl"), "InvalidFile", ["page.jsonl", "web page"]),
    "folder marker": Case(spec("only-marker/"), "DatasetNotFound", ["marks a folder"]),
    "prefix with other files": Case(spec("archive"), "DatasetNotFound", ["rows.zip", ".parquet"]),
    "rows": Case(
        spec(dataset=dataset(f"{ROOT}/data/good.jsonl", minRows=41)),
        "TooFewRows",
        ["40", "41", "dataset.clean.minRows"],
    ),
    "rows that differ": Case(
        spec(dataset=dataset(f"{ROOT}/data/twice.jsonl", minRows=41)), "TooFewRows", ["5 duplicate", "of 45"]
    ),
    "rows that are short enough": Case(
        spec("good.jsonl", training={"maxLength": 16}), "TooFewRows", ["40 tooLong", "training.maxLength"]
    ),
    "long row": Case(
        spec(dataset=dataset(f"{ROOT}/data/long.jsonl", maxLength="fail")),
        "InvalidRow",
        ["line 4", "training.maxLength"],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(server: Server, case: Case, tmp_path: Path) -> None:
    outcome, _ = prepare(case.spec, server.store(**case.credentials), tmp_path / "work")
    text = f"{outcome.message} {outcome.advice}"
    assert (outcome.reason, outcome.exit_code) == (case.reason, 65), text
    for word in case.words:
        assert word in text, text
    assert outcome.advice.endswith("."), "the advice is a sentence"
    for secret in (s3_servers.SECRET_KEY, READER_SECRET):
        assert secret not in text


def test_unreachable_store(server: Server, tmp_path: Path) -> None:
    unreachable = server.store(AWS_ENDPOINT_URL=f"https://localhost:{s3_servers.free_port()}")
    outcome, _ = prepare(spec(), unreachable, tmp_path / "work")
    assert (outcome.reason, outcome.exit_code) == ("StorageUnavailable", 75)


def test_tokenized_rows(server: Server, tmp_path: Path) -> None:
    outcome, context = prepare(spec(), server.store(), tmp_path / "work")
    assert outcome.reason == COMPLETED, outcome
    report = report_of(outcome)
    assert (report.dataset.rows_in, report.dataset.rows_kept, report.dataset.dropped) == (40, 40, {})
    assert set(report.digests) == {"prepare", "train", "export", "evaluate", "publish"}
    assert report.done == []
    train, validation = (read_rows(fetch_rows(context, split)) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (38, 2)
    assert report.dataset.tokens == sum(len(row[INPUT_IDS]) for row in [*train[:], *validation[:]])
    for row in train[:]:
        ids, labels = row[INPUT_IDS], row[LABELS]
        assert len(labels) == len(ids)
        trained = [token for token in labels if token != IGNORED]
        assert 0 < len(trained) < len(ids)
        assert trained == ids[len(ids) - 1 - len(trained) : -1], "the answer, up to its end-of-turn token"
    text = context.store.read(context.uri("prepare", "report.html")).decode()
    assert "<h1>Data of contract</h1>" in text
    assert re.search(r"&lt;\|im_start\|&gt;assistant\n<mark>A number, \d+\.&lt;\|im_end\|&gt;</mark>", text)
    assert report.dataset.answers == AnswersStatus(given=40, trained=40)


@pytest.mark.parametrize("model", ["good", "loaded"])
def test_the_tokenizer_that_trained_is_handed_on(server: Server, model: str, tmp_path: Path) -> None:
    given = spec(model={"uri": f"{ROOT}/models/{model}"})
    outcome, context = prepare(given, server.store(), tmp_path / "work")
    assert outcome.reason == COMPLETED, outcome
    prepared = context.result_of(PrepareResult)
    assert prepared.tokenizer is not None
    fetched = tmp_path / "fetched"
    fetch_directory(context.store, prepared.tokenizer.uri, fetched, prepared.tokenizer.digest)
    assert (fetched / "chat_template.jinja").read_text() == TEMPLATE
    tokens = json.loads((fetched / "tokenizer.json").read_text())["added_tokens"]
    assert prepared.end_of_turn == [token["id"] for token in tokens if token["content"] == TURN_END]


def test_a_few_answers_may_be_left_out(server: Server, tmp_path: Path) -> None:
    given = {"train": [{"uri": f"{ROOT}/data/turns.jsonl"}], "clean": {"minRows": 1, "minTrainedAnswers": 0.5}}
    model = {"uri": f"{ROOT}/models/good", "chatTemplate": LAST_ANSWER_ONLY}
    outcome, context = prepare(spec(model=model, dataset=given), server.store(), tmp_path / "work")
    answers = report_of(outcome).dataset.answers
    assert answers == AnswersStatus(given=80, trained=40, left_out={"notShown": 40})
    text = context.store.read(context.uri("prepare", "report.html")).decode()
    assert "Not every answer is trained." in text


def test_validation_source(server: Server, tmp_path: Path) -> None:
    given = {"train": [{"uri": f"{ROOT}/data/good.jsonl"}], "clean": {"minRows": 1}}
    apart = spec(dataset=given | {"validation": {"uri": f"{ROOT}/data/folder/two.jsonl.gz"}})
    outcome, context = prepare(apart, server.store(), tmp_path / "work")
    assert report_of(outcome).dataset.dropped == {"inValidation": 15}
    train, validation = (set(texts(context, split)) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (25, 15)
    assert not train & validation


def test_own_names(server: Server, tmp_path: Path) -> None:
    """Training and held-out rows with the same columns."""
    columns = {"prompt": "frage", "completion": "antwort"}
    given = {
        "train": [{"uri": f"{ROOT}/data/own-names.jsonl", "columns": columns}],
        "validation": {"uri": f"{ROOT}/data/own-names-held-out.jsonl", "columns": columns},
        "clean": {"minRows": 1},
    }
    outcome, _ = prepare(spec(dataset=given), server.store(), tmp_path / "work")
    assert report_of(outcome).dataset.rows_kept == 44


def test_dropped_rows(server: Server, tmp_path: Path) -> None:
    outcome, context = prepare(spec("some-bad.jsonl"), server.store(), tmp_path / "work")
    report = report_of(outcome)
    assert (report.dataset.rows_in, report.dataset.rows_kept) == (43, 40)
    assert report.dataset.dropped == {"invalidJSON": 1, "invalidRow": 1, "missingAnswer": 1}
    dropped = [json.loads(line) for line in texts(context, "dropped")]
    assert [(row["line"], row["reason"]) for row in dropped] == [
        (41, "missingAnswer"),
        (42, "invalidJSON"),
        (43, "invalidRow"),
    ]
    assert dropped[0]["row"] == {"question": "Why?"}
    assert dropped[2]["row"] == {"question": "A tie?", "answer": "\ud800"}, "half a character is written as it was"
    document = json.loads(context.store.read(context.uri("prepare", "report.json")))
    assert [fault["rows"] for fault in document["reading"]["faults"]] == [1, 1, 1]


def test_folder_marker(server: Server, tmp_path: Path) -> None:
    for data in ("marked", "marked/"):
        outcome, _ = prepare(spec(data), server.store(), tmp_path / f"work{len(data)}")
        assert report_of(outcome).dataset.rows_kept == 40, outcome


def texts(context: StageContext, split: str) -> list[str]:
    return context.store.read(context.uri("prepare", f"{split}.jsonl")).decode().splitlines()


def test_prefix(server: Server, tmp_path: Path) -> None:
    """Every .jsonl and .jsonl.gz below a prefix, and nothing else; the same rows as in one file."""
    for data in ("folder", "folder/"):
        outcome, _ = prepare(spec(data), server.store(), tmp_path / f"work{len(data)}")
        assert report_of(outcome).dataset.rows_kept == 40


def test_second_run_is_adopted(server: Server, tmp_path: Path) -> None:
    given = spec()
    first, context = prepare(given, server.store(), tmp_path / "first")
    stages: list[Stage] = ["train", "export", "publish"]  # not evaluate, so publish does not count
    for stage in stages:
        context.store.write(context.uri(stage, "stage.json"), b'{"result": {}}')
    second, _ = prepare(given, server.store(), tmp_path / "again")
    assert second.reason == ADOPTED
    assert report_of(second) == report_of(first).model_copy(update={"done": ["train", "export"]})
    assert second.result == first.result


def test_digests_follow_data(server: Server, tmp_path: Path) -> None:
    store, given = server.store(), spec("changing.jsonl")
    digests = []
    for number, content in enumerate((GOOD, GOOD + lines(rows(1, start=99)), GOOD)):
        store.write(f"{ROOT}/data/changing.jsonl", content)
        outcome, _ = prepare(given, store, tmp_path / f"work{number}")
        digests.append(report_of(outcome).digests)
    assert digests[0] == digests[2]
    assert all(digests[0][stage] != digests[1][stage] for stage in digests[0])


def test_same_data_same_bytes(server: Server, tmp_path: Path) -> None:
    """In another output, from another working directory."""
    one, other = (report_of(prepare(spec(), server.store(), tmp_path / name)[0]) for name in ("a", "b"))
    assert one.dataset.digest == other.dataset.digest
    assert one.digests == other.digests


def test_stopped_run_resumes(server: Server, tmp_path: Path) -> None:
    given, work = spec(), tmp_path / "work"
    context = StageContext(stage="prepare", name="contract", spec=given, store=server.store(), work=work)
    work.mkdir()
    context.stopping.set()
    outcome = run_stage(context)
    assert (outcome.reason, outcome.exit_code) == ("Preempted", 75)
    assert not [info.uri for info in context.store.list(given.output.uri) if info.uri.endswith("/stage.json")]
    shutil.rmtree(work)  # the next pod has an empty one
    assert prepare(given, server.store(), work)[0].reason == COMPLETED
