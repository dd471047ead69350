"""The part of MLflow's REST API that a training needs (https://mlflow.org/docs/latest/rest-api.html).

mlflow-skinny does the same with 41 packages, a web server and a client of Databricks among them.
"""

import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit, urlunsplit

from pydantic import BaseModel, ValidationError
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError
from urllib3.util import make_headers

from tuneyard_trainer.tracking.secret import CA, PASSWORD, TOKEN, URI, USERNAME

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 10.0
SHOWN: Final = 200  # characters of an answer

RunState = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
Answer = TypeVar("Answer", bound=BaseModel)


class MlflowError(Exception):
    """The server does not do what it was asked. The message has no secret."""


class Refused(MlflowError):
    """Asking again would not help."""


class Settings(NamedTuple):
    """Where the server is, and what it wants to see."""

    root: str
    """Its URL, without what a person must not see."""
    headers: Mapping[str, str]
    ca: str | None


class Value(NamedTuple):
    """One value of a metric."""

    key: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since 1970."""


class Experiment(BaseModel):
    experiment_id: str
    lifecycle_stage: str = "active"


class Metric(BaseModel):
    key: str
    step: int = 0


class RunInfo(BaseModel):
    run_id: str
    experiment_id: str


class RunData(BaseModel):
    metrics: list[Metric] = []


class Run(BaseModel):
    info: RunInfo
    data: RunData = RunData()


class _Created(BaseModel):
    experiment_id: str


class _WithExperiment(BaseModel):
    experiment: Experiment


class _WithRun(BaseModel):
    run: Run


class _WithRuns(BaseModel):
    runs: list[Run] = []


class _Nothing(BaseModel):
    pass


def settings_from(values: Mapping[str, str], secret: str) -> Settings:
    """Reads the keys of a Secret, or variables of the same names.

    Raises:
        MlflowError: there is no address, or it cannot be one.
    """
    if not (uri := values.get(URI, "").strip()):
        raise MlflowError(f"{secret} does not exist or has no {URI}")
    if (parts := _split(uri)) is None:
        raise MlflowError(f"{secret} has a {URI} that does not begin with https:// or http:// and a host")
    return Settings(_without_user(parts), _headers(parts, values, secret), values.get(CA))


def _split(uri: str) -> SplitResult | None:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _without_user(parts: SplitResult) -> str:
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))


def _headers(parts: SplitResult, values: Mapping[str, str], secret: str) -> dict[str, str]:
    """User and password come before a token, as in MLflow's own client."""
    user = values.get(USERNAME, "").strip() or parts.username or ""
    password = values.get(PASSWORD, "").strip() or parts.password or ""
    token = values.get(TOKEN, "").strip()
    if not all(text.isascii() and text.isprintable() for text in (user, password, token)):
        raise MlflowError(f"{secret} has a name, password or token with characters that no header can have")
    if user and password:
        return make_headers(basic_auth=f"{user}:{password}")
    return {"Authorization": f"Bearer {token}"} if token else {}


class MlflowApi:
    """Calls a tracking server.

    Raises, in every method:
        Refused: the server does not take what it was sent.
        MlflowError: it does not answer, or not now.
    """

    def __init__(self, settings: Settings) -> None:
        self._root = settings.root
        self._pool = PoolManager(
            headers=settings.headers,
            ssl_context=_tls(settings.ca) if settings.root.startswith("https") else None,
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        )

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, which is created if need be."""
        found = self._find_experiment(name)
        if found is None:
            try:
                return self._call("POST", "experiments/create", _Created, {"name": name}).experiment_id
            except Refused:
                found = self._find_experiment(name)  # another job was faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise MlflowError(f"the experiment {name} is deleted in MLflow: restore it, or name another one")
        return found.experiment_id

    def _find_experiment(self, name: str) -> Experiment | None:
        try:
            return self._call("GET", "experiments/get-by-name", _WithExperiment, {"experiment_name": name}).experiment
        except Refused:
            return None

    def find_run(self, experiment: str, tag: str, value: str) -> Run | None:
        """The newest run of the experiment that has the tag."""
        body = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{tag}` = '{value}'",
            "max_results": 1,
            "order_by": ["attributes.start_time DESC"],
        }
        return next(iter(self._call("POST", "runs/search", _WithRuns, body).runs), None)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], now: int) -> Run:
        body = {"experiment_id": experiment, "run_name": name, "start_time": now, "tags": _pairs(tags)}
        return self._call("POST", "runs/create", _WithRun, body).run

    def update_run(self, run: str, state: RunState, now: int | None) -> None:
        """Sets the state; with `now` the time at which it has ended, too."""
        ended = {} if now is None else {"end_time": now}
        self._call("POST", "runs/update", _Nothing, {"run_id": run, "status": state, **ended})

    def log(
        self,
        run: str,
        values: Sequence[Value] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """At most 1,000 values, 100 parameters and 100 tags, no more than 1,000 in all."""
        metrics = [value._asdict() for value in values]
        body = {"run_id": run, "metrics": metrics, "params": _pairs(params or {}), "tags": _pairs(tags or {})}
        self._call("POST", "runs/log-batch", _Nothing, body)

    def url(self, run: Run) -> str:
        """Of the page that shows the run."""
        return f"{self._root}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"

    def _call(self, method: str, path: str, kind: type[Answer], content: Mapping[str, Any]) -> Answer:
        url = f"{self._root}/api/2.0/mlflow/{path}"
        try:
            if method == "GET":
                answer = self._pool.request(method, url, fields=dict(content), retries=False, redirect=False)
            else:
                answer = self._pool.request(method, url, json=content, retries=False, redirect=False)
        except (HTTPError, OSError) as error:
            raise MlflowError(f"{self._root} does not answer: {_cause(error)}") from error
        if answer.status != 200:
            text = f"{self._root} answers {path} with {answer.status}: {_told(answer.data)}"
            raise Refused(text) if answer.status in (400, 404, 409, 413, 422) else MlflowError(text)
        try:
            return kind.model_validate_json(answer.data)
        except ValidationError as error:
            raise MlflowError(f"{self._root} answers {path} with something that is not MLflow's") from error


def _tls(ca: str | None) -> ssl.SSLContext:
    """Trusts the system's certificates, and those of the Secret. Raises MlflowError where they cannot be read."""
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise MlflowError(f"{CA} is not a certificate in PEM") from error
    return context


def _pairs(items: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in items.items()]


def _told(data: bytes) -> str:
    """What a server says of an error: MLflow in JSON, a proxy in a page."""
    text = data.decode(errors="replace")
    try:
        text = json.loads(text)["message"]
    except (ValueError, TypeError, KeyError):
        text = " ".join(text.split())
    return str(text)[:SHOWN]


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).partition(">: ")[2] or str(reason)
