"""What prepare refuses: the store and its Secret, the model, the data. The stage runs on a store in memory."""

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError, EndpointConnectionError

from fuzz.kinds import DATA, model_files, outcome_of
from planted import FINE, Planted, Seen
from planted.stages import ended
from support.models import Change, Files, replaced, with_json
from tuneyard_api import names
from tuneyard_store.credentials import Credentials, load_credentials
from tuneyard_store.errors import StoreError
from tuneyard_store.schemes.s3 import named_error
from tuneyard_trainer.runtime.errors import from_store

ENDPOINT: Final = "https://store.example:9000"
KEYS: Final = {"AWS_ACCESS_KEY_ID": "AKIA0123", "AWS_SECRET_ACCESS_KEY": "secret0123"}
POINTER: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def chats(count: int) -> bytes:
    """So many different conversations."""
    rows = [
        {"messages": [{"role": "user", "content": f"Q{number}?"}, {"role": "assistant", "content": f"A{number}."}]}
        for number in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _prepared(change: Change = lambda files: None, rows: bytes = chats(4), **spec: Any) -> Seen:
    files: Files = dict(model_files())
    change(files)
    outcome = outcome_of(files, rows, export={"formats": ["bf16"]}, **spec)
    if outcome.succeeded:
        return FINE
    return ended("prepare", outcome.exit_code, outcome.reason, outcome.message, outcome.advice)


@cache
def _sound() -> Seen:
    """A sound model, and rows that are enough."""
    return _prepared()


def _model(cause: str, change: Change, names: tuple[str, ...], remedy: str, **spec: Any) -> Planted:
    return Planted("FineTuneJob", cause, lambda: _prepared(change, **spec), names, remedy, _sound)


def _data(cause: str, rows: bytes, names: tuple[str, ...], remedy: str, **dataset: Any) -> Planted:
    given = {"train": [{"uri": DATA}], "clean": {"minRows": 1}, "validation": {"fraction": 0.5}}
    return Planted(
        *("FineTuneJob", cause, lambda: _prepared(rows=rows, dataset=given | dataset), names, remedy),
        _sound,
    )


def _refused(error: StoreError) -> Seen:
    found = from_store(error)
    return ended("prepare", found.exit_code, found.reason, found.message, found.advice)


def _secret(files: Mapping[str, str]) -> Seen:
    """What the pod says of a mounted Secret with these keys."""
    with tempfile.TemporaryDirectory() as directory:
        for name, value in files.items():
            (Path(directory) / name).write_text(value)
        try:
            load_credentials(Path(directory))
        except StoreError as error:
            mounted = type(error)(error.message.replace(directory, names.CREDENTIALS_DIR), error.advice)
            return _refused(mounted)
    return FINE


def _secret_with(cause: str, files: Mapping[str, str], says: tuple[str, ...], remedy: str) -> Planted:
    show: Callable[[], Seen] = lambda: _secret(files)  # noqa: E731
    return Planted("FineTuneJob", cause, show, ("Secret keys", *says), remedy, lambda: _secret(KEYS))


def _answer(code: str, operation: str, uri: str, status: int = 403) -> Callable[[], Seen]:
    """What the store answers to a request for the URI."""
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    given = Credentials(endpoint_url=ENDPOINT)
    return lambda: _refused(named_error(ClientError(response, operation), uri, given))


def _away() -> Seen:
    error = EndpointConnectionError(endpoint_url=ENDPOINT)
    return _refused(named_error(error, DATA, Credentials(endpoint_url=ENDPOINT)))


SECRETS: Final = (
    _secret_with(
        "the Secret does not exist",
        {},
        ("does not exist or is empty", "Create it in the same namespace", "AWS_ACCESS_KEY_ID"),
        "Create it in the job's namespace with the keys that the message names ([access.md](access.md)), and run "
        "`kubectl tuneyard retry NAME`.",
    ),
    _secret_with(
        "the Secret has one of the two keys only",
        {"AWS_ACCESS_KEY_ID": "AKIA0123"},
        ("has no AWS_SECRET_ACCESS_KEY", "Add the key AWS_SECRET_ACCESS_KEY"),
        "Add the key that the message names.",
    ),
    _secret_with(
        "the endpoint in the Secret has no scheme",
        KEYS | {"AWS_ENDPOINT_URL": "store.example:9000"},
        ("AWS_ENDPOINT_URL=store.example:9000", "begins with https:// or http://"),
        "Write the whole URL into the Secret.",
    ),
    _secret_with(
        "`ca.crt` in the Secret is no certificate",
        KEYS | {"ca.crt": "not a certificate"},
        ("ca.crt", "-----BEGIN CERTIFICATE-----"),
        "Put the PEM of the CA there.",
    ),
)
STORE: Final = (
    Planted(
        *("FineTuneJob", "the bucket does not exist", _answer("NoSuchBucket", "ListObjectsV2", DATA, 404)),
        ("Bucket data", ENDPOINT, "Create it, or correct the bucket in s3://data/rows.jsonl"),
        "Create the bucket, or correct the URI.",
    ),
    Planted(
        *("FineTuneJob", "the secret key is wrong", _answer("SignatureDoesNotMatch", "ListObjectsV2", DATA)),
        ("Check AWS_SECRET_ACCESS_KEY in Secret keys", ENDPOINT),
        "Correct the key in the Secret, and run `kubectl tuneyard retry NAME`.",
    ),
    Planted(
        *("FineTuneJob", "the key may not write", _answer("AccessDenied", "PutObject", "s3://out/put/x")),
        ("s3://out/put/x", "s3:PutObject", "use another key"),
        "Grant the right that the message names.",
    ),
    Planted(
        *("FineTuneJob", "the store is away", _away),
        (ENDPOINT, "AWS_ENDPOINT_URL in Secret keys", "tried again"),
        "Bring the store up, or correct `AWS_ENDPOINT_URL`; the stage is tried again by itself.",
    ),
)
MODEL: Final = (
    _model(
        "there is no model at the URI",
        lambda files: files.clear(),
        ("s3://models/tiny", "config.json"),
        "Correct `model.uri`, or upload the model with `tuneyard push`.",
    ),
    _model(
        "the weights are Git LFS pointers",
        replaced("model.safetensors", POINTER),
        ("s3://models/tiny/model.safetensors", "Git LFS", "git lfs pull"),
        "Run `git lfs pull` in the clone, and upload the files again.",
    ),
    _model(
        "the weights are truncated",
        lambda files: files.update({"model.safetensors": files["model.safetensors"][:-100]}),
        ("s3://models/tiny/model.safetensors", "truncated", "Upload"),
        "Upload the file again.",
    ),
    _model(
        "a shard of the weights is missing",
        replaced(
            "model.safetensors.index.json",
            json.dumps({"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}).encode(),
        ),
        ("model-00002-of-00002.safetensors", "pload"),
        "Upload the file that the message names.",
    ),
    _model(
        "the model has no chat template",
        lambda files: (
            files.pop("chat_template.jinja"),
            with_json("tokenizer_config.json", chat_template=None)(files),
        ),
        ("s3://models/tiny", "model.chatTemplate"),
        "Set `model.chatTemplate`, or tune the instruct variant of the model.",
    ),
    _model(
        "the model is already quantized",
        with_json("config.json", quantization_config={"load_in_4bit": True}),
        ("s3://models/tiny", "already quantized"),
        "Tune the model that it was made from; `training.method: qlora` quantizes by itself.",
    ),
    _model(
        "`targetModules` names none of the model's",
        lambda files: None,
        ("training.lora.targetModules", "nowhere", "q_proj"),
        "Write some of the names that the message lists, or leave the field out.",
        training={"maxLength": 64, "lora": {"targetModules": ["nowhere"]}},
    ),
)
ROWS: Final = (
    _data(
        "there is no data at the URI",
        chats(4),
        ("s3://data/other", "correct the uri"),
        "Correct the URI, or upload the data.",
        train=[{"uri": "s3://data/other"}],
    ),
    _data(
        "a data file is a page of a web server",
        b"<!DOCTYPE html><html><body>Log in</body></html>",
        (DATA, "web page"),
        "Download it again, logged in, and upload the rows.",
    ),
    _data(
        "a line is broken",
        chats(4) + b'{"messages": [\n',
        (DATA, "line 5"),
        "Correct the line, or allow some bad rows with `dataset.clean.badRows`.",
    ),
    _data(
        "the columns have other names",
        b'{"frage": "Q?", "antwort": "A."}\n' * 2,
        (DATA, "frage", "columns"),
        "Write `columns`, which says where prompt and answer are ([data.md](data.md)).",
    ),
    _data(
        "`columns` names one that no row has",
        b'{"question": "Q?", "answer": "A."}\n' * 2,
        ("nowhere", "answer, question"),
        "Write one of the names that the message lists.",
        train=[{"uri": DATA, "columns": {"prompt": "nowhere"}}],
    ),
    _data(
        "rows have no answer",
        b'{"messages": [{"role": "user", "content": "Q?"}]}\n' * 2,
        (DATA, "line 1", "assistant"),
        "Add the answers, or remove those rows.",
    ),
    _data(
        "there are too few rows",
        chats(4),
        ("dataset.clean.minRows", "4"),
        "Add data, or lower `dataset.clean.minRows`.",
        clean={"minRows": 50},
    ),
    Planted(
        *("FineTuneJob", "all rows are longer than `maxLength`"),
        lambda: _prepared(training={"maxLength": 16}),
        ("tooLong", "training.maxLength"),
        "Raise `training.maxLength`; the dropped rows are where the message says.",
        _sound,
    ),
)
INPUTS: Final = (*SECRETS, *STORE, *MODEL, *ROWS)
