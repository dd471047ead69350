"""An Application of Argo CD and the git repository that it applies, made from examples/gitops."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from argocd.controller import ARGO
from demo.kubectl import wait_until
from support.apiserver import ApiServer, Json
from support.docs import ROOT
from support.playedpods import FINE_TUNE_JOBS, NAMESPACE

EXAMPLE: Final = ROOT / "examples" / "gitops"
NAME: Final = "support-bot"  # of everything in the example
AUTHOR: Final = ("-c", "user.name=test", "-c", "user.email=test@example.com")
SECONDS: Final = 120.0


@dataclass(frozen=True)
class Application:
    """An Application; the directory of its name in the repository has a FineTuneJob and a ModelServer of its name."""

    server: ApiServer
    repository: Path
    name: str

    @property
    def path(self) -> str:
        return f"{ARGO}/applications/{self.name}"

    @property
    def status(self) -> Json:
        found: Json = self.server.request("GET", self.path).get("status", {})
        return found

    @property
    def compared(self) -> tuple[str, str]:
        """Whether the cluster is as the newest commit that Argo CD knows, and that commit."""
        found = self.status.get("sync", {})
        return found.get("status", ""), found.get("revision", "")

    @property
    def health(self) -> dict[str, str]:
        """By kind, for the kinds that have a health."""
        resources = self.status.get("resources", [])
        return {each["kind"]: each["health"]["status"] for each in resources if "health" in each}

    @property
    def sync(self) -> tuple[str, str]:
        """Phase and message of the last sync."""
        found = self.status.get("operationState", {})
        return found.get("phase", ""), found.get("message", "")

    @property
    def job_path(self) -> str:
        return f"{FINE_TUNE_JOBS}/{self.name}"

    @property
    def server_path(self) -> str:
        return self.job_path.replace("finetunejobs", "modelservers")

    @property
    def fine_tune_job(self) -> Json:
        return self.server.request("GET", self.job_path)

    def git(self, *arguments: str) -> str:
        git = ["git", *AUTHOR, "-C", str(self.repository), *arguments]
        return subprocess.run(git, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    def commit(self, file: str, text: str) -> str:
        """Commits another text at the end of a file, which is created where it does not exist; returns the revision."""
        with (self.repository / self.name / file).open("a") as end:
            end.write(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={file}: {text}")
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def wait_synced(self, revision: str) -> None:
        """Waits until the commit is applied and the cluster is as it says."""
        self._wait(lambda: (*self.compared, self.sync[0]), ("Synced", revision, "Succeeded"))

    def wait_health(self, **health: str) -> None:
        self._wait(lambda: self.health, health)

    def _wait(self, observe: Callable[[], object], expected: object) -> None:
        try:
            wait_until(lambda: observe() == expected, f"{self.name} has {expected}", SECONDS, every=0.3)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it has {self.status}") from error


def create(
    server: ApiServer, folder: Path, name: str, *, without: str = "", account: str = "", retry: Json | None = None
) -> Application:
    """The example under another name, without a line of its FineTuneJob, with a ServiceAccount or another `retry`."""
    shutil.copytree(EXAMPLE / NAME, folder / name)
    for file in (folder / name).iterdir():
        file.write_text(file.read_text().replace(NAME, name).replace(without, ""))
    application = yaml.safe_load((EXAMPLE / "application.yaml").read_text().replace(NAME, name))
    spec = application["spec"]
    spec["source"]["repoURL"] = f"file://{folder}"
    spec["destination"]["namespace"] = NAMESPACE
    spec["syncPolicy"] |= {"retry": retry} if retry else {}
    created = Application(server, folder, name)
    created.git("init", "--quiet", f"--initial-branch={spec['source']['targetRevision']}")
    created.commit("account.yaml", account)
    server.request("POST", f"{ARGO}/applications", application)
    return created
