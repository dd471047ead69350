"""The part of MLflow's REST API that a training uses, in memory: what tests/tracking shows of a real server."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PREFIX: Final = "/api/2.0/mlflow/"
Answer = tuple[int, dict[str, Any]]


class MlflowServer:
    """Its state; `failing` is the status with which it answers everything."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.runs: dict[str, dict[str, Any]] = {}
        self.headers: list[dict[str, str]] = []
        self.calls: list[str] = []
        self.failing: int | None = None
        self.refuses_values = False
        self.uri = ""

    def values(self, run: str, key: str) -> list[tuple[int, float]]:
        return [(item["step"], item["value"]) for item in self.runs[run]["metrics"] if item["key"] == key]

    @property
    def only_run(self) -> str:
        (run,) = self.runs
        return run

    def answer(self, path: str, content: dict[str, Any]) -> Answer:
        self.calls.append(path)
        if self.failing:
            return self.failing, {"message": "out of order"}
        known = {
            "experiments/get-by-name": self._get_experiment,
            "experiments/create": self._create_experiment,
            "runs/search": self._search,
            "runs/create": self._create_run,
            "runs/update": self._update,
            "runs/log-batch": self._log,
        }
        return known[path](content)

    def _get_experiment(self, content: dict[str, Any]) -> Answer:
        name = content["experiment_name"]
        if name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no experiment {name}"}
        state = "deleted" if name in self.deleted else "active"
        return 200, {"experiment": {"experiment_id": self.experiments[name], "lifecycle_stage": state}}

    def _create_experiment(self, content: dict[str, Any]) -> Answer:
        number = str(len(self.experiments) + 1)
        self.experiments[content["name"]] = number
        return 200, {"experiment_id": number}

    def _search(self, content: dict[str, Any]) -> Answer:
        key, _, value = content["filter"].removeprefix("tags.`").partition("` = ")
        found = [
            run
            for run in self.runs.values()
            if run["experiment"] in content["experiment_ids"] and run["tags"].get(key) == value.strip("'")
        ]
        return 200, {"runs": [self._shown(run) for run in found]} if found else {}

    def _create_run(self, content: dict[str, Any]) -> Answer:
        tags = {item["key"]: item["value"] for item in content["tags"]}
        name = f"run{len(self.runs)}"
        run = {"id": name, "experiment": content["experiment_id"], "name": content["run_name"], "tags": tags}
        self.runs[name] = {**run, "metrics": [], "params": {}, "status": "RUNNING", "end_time": None}
        return 200, {"run": self._shown(self.runs[name])}

    def _update(self, content: dict[str, Any]) -> Answer:
        run = self.runs[content["run_id"]]
        run.update(status=content["status"], end_time=content.get("end_time", run["end_time"]))
        return 200, {"run_info": {"run_id": run["id"]}}

    def _log(self, content: dict[str, Any]) -> Answer:
        run = self.runs.get(content["run_id"])
        if run is None:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
        if self.refuses_values and content["metrics"]:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "a value is wrong"}
        assert len(content["metrics"]) <= 1000
        for item in content["params"]:
            assert run["params"].setdefault(item["key"], item["value"]) == item["value"]
        run["metrics"] += content["metrics"]
        return 200, {}

    @staticmethod
    def _shown(run: dict[str, Any]) -> dict[str, Any]:
        latest = {item["key"]: item for item in run["metrics"]}
        info = {"run_id": run["id"], "experiment_id": run["experiment"], "status": run["status"]}
        return {"info": info, "data": {"metrics": list(latest.values())} if latest else {}}


def self_signed(host: str) -> str:
    """A private key and its certificate for an IP address, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode()


@contextmanager
def mlflow_server(certificate: Path | None = None) -> Iterator[MlflowServer]:
    """Args:
    certificate: with its key; with it the server speaks TLS.
    """
    server = MlflowServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, content: dict[str, Any]) -> None:
            server.headers.append(dict(self.headers))
            status, document = server.answer(urlsplit(self.path).path.removeprefix(PREFIX), content)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Requests are not logged."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.uri = f"{'https' if certificate else 'http'}://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
