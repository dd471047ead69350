"""`tuneyard push` against a real S3 server, and the store with the pod's own identity instead of keys."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from contract.s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, Server, versitygw
from tuneyard_store.artifact import fetch_directory

TOKEN = "the pod's token"
ROW = '{"prompt": "a", "completion": "b"}\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with versitygw(tmp_path_factory.mktemp("s3")) as running:
        yield running


def push(server: Server, *words: str | Path, code: int = 0, environment: Mapping[str, str] | None = None) -> str:
    """What the program printed; with the keys in its environment, or what is given instead."""
    keys = environment or {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    place = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_CA_BUNDLE": str(server.folder / "ca.pem")}
    variables = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")} | place | dict(keys)
    command = [sys.executable, "-m", "tuneyard_trainer.commands.cli", "push", *map(str, words)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_model_can_be_fetched_as_a_server_does(server: Server, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    (printed,) = yaml.safe_load_all(push(server, model, f"s3://{BUCKET}/models/mine"))
    source = printed["spec"]["model"]
    fetched = fetch_directory(server.store(), source["uri"], tmp_path / "fetched", source["digest"])
    assert {file.path for file in fetched.files} == {path.name for path in model.iterdir()}


def test_data_as_json(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    printed = json.loads(push(server, tmp_path / "rows.jsonl", f"s3://{BUCKET}/data/", "-o", "json"))
    assert printed["uri"] == f"s3://{BUCKET}/data/rows.jsonl"
    assert server.store().read(printed["uri"]) == ROW.encode()


@pytest.mark.parametrize(
    ("uri", "says"), [("s3://nowhere/x", "BucketNotFound: "), ("http://x/y", "StorageMisconfigured: ")]
)
def test_store_refuses(uri: str, says: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    assert push(server, tmp_path / "rows.jsonl", uri, code=65).startswith(says)


@contextmanager
def identity_agent() -> Iterator[str]:
    """The URL of an agent as EKS Pod Identity runs it on each node: it gives keys to who shows the pod's token."""

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == TOKEN
            keys = {
                "AccessKeyId": ACCESS_KEY,
                "SecretAccessKey": SECRET_KEY,
                "Token": "",
                "Expiration": "2099-01-01T00:00:00Z",
            }
            self.send_response(200 if allowed else 403)
            self.end_headers()
            self.wfile.write(json.dumps(keys if allowed else {}).encode())

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Agent) as agent:
        Thread(target=agent.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{agent.server_port}/v1/credentials"
        finally:
            agent.shutdown()


def test_secret_without_keys_uses_the_pods_identity(server: Server, tmp_path: Path) -> None:
    """The variables are those that EKS puts into a pod, and the Secret names endpoint and CA only."""
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "token").write_text(TOKEN)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "AWS_ENDPOINT_URL").write_text(server.endpoint)
    (secret / "ca.crt").write_text((server.folder / "ca.pem").read_text())
    target = f"s3://{BUCKET}/identity/rows.jsonl"
    with identity_agent() as url:
        found = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
        }
        push(server, tmp_path / "rows.jsonl", target, "--credentials", secret, environment=found)
        (tmp_path / "token").write_text("another pod's")
        refused = push(server, tmp_path / "rows.jsonl", target, "--credentials", secret, code=65, environment=found)
    assert server.store().read(target) == ROW.encode()
    assert refused.startswith("InvalidCredentials: The pod's identity gets no keys for ")


def test_without_any_keys(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    off = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    printed = push(server, tmp_path / "rows.jsonl", f"s3://{BUCKET}/x", code=65, environment=off)
    assert "spec.pod.serviceAccountName" in printed
