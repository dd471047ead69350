"""The blocks of the documentation: YAML and kubectl against a real API server, other commands against their programs.

Commands that would write are dry runs. tests/e2e/test_readme.py runs the README's first model for real.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from support.apiserver import CACHE, ApiServer, api_server
from support.chart import IMAGES
from support.docs import ROOT, Block, blocks, commands, documents
from support.foreigncrds import FOREIGN, foreign_crd

NAMESPACES: Final = ("team-a", "team-b", "team-system", "tuneyard-system", "argocd")
BLOCKS: Final = [block for path in documents() for block in blocks(path)]
YAML: Final = [block for block in BLOCKS if block.language == "yaml"]
SHELL: Final = [block for block in BLOCKS if block.language in ("sh", "console")]
# Answers of kubectl to a read that is correct: no operator runs here, so most objects do not exist.
CORRECT: Final = re.compile(r"\(NotFound\)|timed out waiting for the condition")
VALUES: Final = "# values.yaml\n"


class Reader(NamedTuple):
    """Someone who follows a document: a clone, a cluster, and the YAML that the document has shown last."""

    server: ApiServer
    folder: Path
    shown: str = ""

    def run(self, *words: str) -> tuple[int, str]:
        """Exit code, and all output."""
        programs = (Path(sys.executable).parent, self.server.folder / "bin", CACHE / "bin")
        environment = os.environ | {
            "KUBECONFIG": str(self.server.kubeconfig),
            "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
            "PYTHONPATH": "examples:tests",
            "COLUMNS": "200",
        }
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout

    def succeed(self, *words: str) -> str:
        code, output = self.run(*words)
        assert code == 0, f"{' '.join(words)}\n{output}"
        return output


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with our kinds, the namespaces of the documents, and the objects that they show."""
    with api_server(tmp_path_factory.mktemp("api") / "server") as running:
        running.install_crds()
        running.install(*(foreign_crd(*kind) for kind in FOREIGN))
        for name in NAMESPACES:
            running.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        running.request("POST", "/api/v1/namespaces/argocd/configmaps", {"metadata": {"name": "argocd-cm"}})
        objects = "\n---\n".join(block.text for block in YAML if not block.text.startswith(VALUES))
        # What is wrong with them fails their own test.
        subprocess.run([*running.kubectl, "apply", "-f", "-"], input=objects, text=True, check=False, timeout=60)
        yield running


@pytest.fixture
def reader(server: ApiServer, tmp_path: Path) -> Reader:
    """In a folder that looks like the clone, beside another checkout `../before`."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for path in ROOT.iterdir():
        (folder / path.name).symlink_to(path)
    (tmp_path / "before").symlink_to(ROOT)
    # What images/build and make images write.
    (folder / "images.yaml").unlink(missing_ok=True)
    (folder / "images.yaml").write_text("images: {operator: operator:1, trainer: trainer:1, server: server:1}\n")
    return Reader(server, folder)


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml(block: Block, reader: Reader) -> None:
    (reader.folder / "shown.yaml").write_text(block.text)
    if block.text.startswith(VALUES):
        reader.succeed("helm", "template", "tuneyard", "charts/tuneyard", *IMAGES, "--values=shown.yaml")
    else:
        # A new object: what is not written is not there, as it would be with an apply.
        reader.succeed("kubectl", "replace", "--force", "--validate=strict", "--filename=shown.yaml")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands(block: Block, reader: Reader) -> None:
    found = list(commands(block))
    assert found, "no command: a block of output is `text`, and a command in `console` begins with `$ `"
    shown = [each.text for each in YAML if each.file == block.file and each.line < block.line]
    for words in found:
        check(words, reader._replace(shown=shown[-1] if shown else ""))


def check(words: list[str], reader: Reader) -> None:
    program = words[0]
    assert program in CHECKS, f"{program}: no check; add one to CHECKS"
    CHECKS[program](words, reader)


def kubectl(words: list[str], reader: Reader) -> None:
    """A write is a dry run on the server; a read may find nothing. `-f FILE` is the YAML that was shown last."""
    verb = words[1]
    if verb == "tuneyard":
        program(["kubectl-tuneyard", *words[2:]], reader)
        return
    for option, file in pairwise(words):
        if option == "-f" and "/" not in file:
            (reader.folder / file).write_text(reader.shown)
    if verb in ("create", "apply", "patch", "delete"):
        reader.succeed(*words, "--dry-run=server")
        return
    assert verb in ("get", "describe", "wait", "logs", "port-forward", "exec"), f"kubectl {verb}: no check"
    short = [re.sub("^--timeout=.*", "--timeout=1s", word) for word in words]
    code, output = reader.run(*short)
    assert code == 0 or CORRECT.search(output), f"{' '.join(words)}\n{output}"


def helm(words: list[str], reader: Reader) -> None:
    """An upgrade that reuses values is an installation here, where no release is."""
    assert words[1] in ("install", "upgrade"), f"helm {words[1]}: no check"
    if "--reuse-values" in words:
        words = [word for word in words if word != "--reuse-values"] + ["--install", *IMAGES]
    reader.succeed(*words, "--dry-run=server")


def make(words: list[str], reader: Reader) -> None:
    reader.succeed(*words, "--dry-run")


def program(words: list[str], reader: Reader) -> None:
    """One with argparse: its values are valid, and its help has every option."""
    text = reader.succeed(*words, "--help")
    unknown = [word for word in words if word.startswith("-") and not has_option(text, word.partition("=")[0])]
    assert not unknown, f"{' '.join(words)}: {unknown} not in\n{text}"


def has_option(text: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def images(words: list[str], reader: Reader) -> None:
    program(words, reader)


def python(words: list[str], reader: Reader) -> None:
    """A module, or a file or folder of the clone."""
    start = 3 if words[1] == "-m" else 2
    text = reader.succeed(sys.executable, *words[1:], "--help")
    unknown = [word for word in words[start:] if word.startswith("-") and not has_option(text, word)]
    assert not unknown, f"{' '.join(words)}: {unknown} not in\n{text}"


def uv(words: list[str], reader: Reader) -> None:
    """`uv run`, with its own options before the program."""
    assert words[1] == "run", f"uv {words[1]}: no check"
    rest = words[2:]
    while rest[0].startswith("-"):
        taken = UV_OPTIONS[rest[0]]
        rest = rest[1 + taken :]
    check(rest, reader)


UV_OPTIONS: Final = {"--frozen": 0, "--all-packages": 0, "--with": 1}


def pytest_(words: list[str], reader: Reader) -> None:
    missing = [word for word in words[1:] if not word.startswith("-") and not (ROOT / word.partition("::")[0]).exists()]
    assert not missing, f"{' '.join(words)}: {missing} not in the clone"


def pip(words: list[str], reader: Reader) -> None:
    assert words[1] == "install"
    missing = [word for word in words[2:] if not (ROOT / word / "pyproject.toml").exists()]
    assert not missing, f"{' '.join(words)}: {missing} is no package of the clone"


def syntax(words: list[str], reader: Reader) -> None:
    """Not run: it needs a network, a store or a terminal, or is the shell's own."""


CHECKS: Final[Mapping[str, Callable[[list[str], Reader], None]]] = {
    "kubectl": kubectl,
    "helm": helm,
    "make": make,
    "images/build": images,
    "tuneyard": program,
    "tuneyard-operator": program,
    "python": python,
    "python3": python,
    "uv": uv,
    "pytest": pytest_,
    "pip": pip,
    **dict.fromkeys(
        ("accelerate", "aws", "cat", "cd", "curl", "docker", "eval", "export", "git", "sed", "tensorboard"), syntax
    ),
    "tests/integration/run": syntax,
}


@pytest.mark.parametrize(
    "line",
    [
        "kubectl get finetunejobz",
        "kubectl get ftj --namespaces team-a",
        "kubectl drain node",
        "kubectl apply -f examples/nothing.yaml",
        "kubectl patch ftj support-bot --type=merge -p '{'",
        "kubectl tuneyard statsu x",
        "kubectl tuneyard wait x --timeout later",
        "helm install x charts/nothing",
        "helm install x charts/tuneyard --set nothing=1",
        "make nothing",
        "images/build --psuh registry.example.com",
        "python -m bench.nothing",
        "uv run --frozen python -m bench.scale --job 3",
        "python3 tests/cluster laod x",
        "uv run pytest tests/nothing",
        "pip install ./nothing",
        "tuneyard rnu x.yaml",
        "nothing",
        "cat <<EOF",
        "echo 'open",
    ],
)
def test_wrong_command_is_found(line: str, reader: Reader) -> None:
    with pytest.raises((AssertionError, ValueError)):
        for words in commands(Block("README.md", 1, "sh", line)):
            check(words, reader)


@pytest.mark.parametrize(
    "text",
    [
        "spec: {queueName: gpus}",
        "{apiVersion: tuneyard.dev/v1alpha1, kind: FineTuneJob, metadata: {name: x}, spec: {}}",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dta: {}}",
        "{apiVersion: example.com/v1, kind: Nothing, metadata: {name: x}}",
        f"{VALUES}nothing: 1",
    ],
)
def test_wrong_yaml_is_found(text: str, reader: Reader) -> None:
    with pytest.raises(AssertionError):
        test_yaml(Block("README.md", 1, "yaml", text), reader)
