"""The API calls of a program, from the audit log. Each program has its own service account."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from support.apiserver import ApiServer, Json

NAMESPACE: Final = "bench"
POLICY: Final[Json] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": [f"system:serviceaccounts:{NAMESPACE}"]},
        {"level": "None"},
    ],
}
WRITES: Final = ("create", "update", "patch", "delete", "deletecollection")


class Call(NamedTuple):
    program: str
    verb: str
    resource: str  # with the subresource, for example finetunejobs/status
    code: int
    at: datetime


def grant(server: ApiServer) -> None:
    """Makes every service account of the benchmark a cluster administrator."""
    server.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    binding = {
        "metadata": {"name": NAMESPACE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "name": f"system:serviceaccounts:{NAMESPACE}"}],
    }
    server.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)


def kubeconfig_for(server: ApiServer, program: str) -> Path:
    """A kubeconfig with the program's own service account, by which the audit log names it."""
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    server.request("POST", accounts, {"metadata": {"name": program}})
    token = server.request("POST", f"{accounts}/{program}/token", {"spec": {"expirationSeconds": 86_400}})
    config = json.loads(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token["status"]["token"]}
    path = server.folder / f"{program}.kubeconfig"
    path.write_text(json.dumps(config))
    return path


def calls(log: Path, since: datetime, until: datetime) -> Iterator[Call]:
    """The calls that were answered in that time; a watch counts when it starts."""
    with log.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                return  # the API server has not finished this line
            entry = json.loads(line)
            stage = "ResponseStarted" if entry["verb"] == "watch" else "ResponseComplete"
            at = datetime.fromisoformat(entry["stageTimestamp"])
            if entry["stage"] == stage and since <= at < until:
                yield _call(entry, at)


def now() -> datetime:
    return datetime.now(UTC)


def _call(entry: dict[str, Any], at: datetime) -> Call:
    about = entry.get("objectRef", {})
    parts = [about.get("resource", entry["requestURI"]), about.get("subresource")]
    return Call(
        program=entry["user"]["username"].rpartition(":")[2],
        verb=entry["verb"],
        resource="/".join(part for part in parts if part),
        code=entry.get("responseStatus", {}).get("code", 0),
        at=at,
    )
