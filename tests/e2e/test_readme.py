"""The commands of "Your first model" in the README, run as they are written, on a smaller model and fewer steps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from demo.kubectl import kubectl
from demo.objectstore import PORT, ObjectStore
from e2e.conftest import DATA, STORE_NAMESPACE, NamespaceFactory
from e2e.jobs import CPU, small_training
from support.docs import FENCE, ROOT, section

NAMESPACE = "e2e-readme"
SMALLER = {
    "FineTuneJob": {"training": small_training(10), "evaluation": {"maxRows": 8, "gates": []}, "resources": CPU},
    "ModelServer": {"vllm": {"maxModelLen": 512}, "resources": CPU},
}
# kubectl port-forward ends when a connection through it is reset. Then the upload is made again, through another one.
TUNEYARD = f"""#!{sys.executable}
import os, subprocess, sys
sys.path.insert(0, {str(ROOT / "examples")!r})
from demo.kubectl import port_forward

command = [{str(Path(sys.executable).parent / "tuneyard")!r}, *sys.argv[1:]]
for attempt in range(5):
    with port_forward("svc/s3", {PORT}, {STORE_NAMESPACE!r}) as port:
        place = {{"AWS_ENDPOINT_URL": f"https://localhost:{{port}}", "AWS_CA_BUNDLE": "my-ca.pem"}}
        uploaded = subprocess.run(command, env=os.environ | place).returncode == 0
    if uploaded:
        sys.exit(0)
sys.exit(1)
"""


def steps() -> list[tuple[str, str]]:
    """The (language, text) of each code block after the installation."""
    text = section(ROOT / "README.md", "## Your first model, on your cluster")
    return [(found[2], found[3]) for found in FENCE.finditer(text.partition("**1. Store access.**")[2])]


@pytest.fixture
def folder(small: Path, store: ObjectStore, tmp_path: Path) -> Path:
    """A directory with the files of a user: a model, data, the store's CA."""
    shutil.copytree(small, tmp_path / "my-model")
    rows = DATA.read_text().splitlines(keepends=True)[:400]
    (tmp_path / "my-data.jsonl").write_text("".join(rows))
    (tmp_path / "my-ca.pem").write_text(store.authority.certificate_pem)
    return tmp_path


@pytest.fixture
def environment(folder: Path, store: ObjectStore, new_namespace: NamespaceFactory) -> dict[str, str]:
    """The environment of a user's shell: a kubeconfig with a namespace, the keys of the store, and `tuneyard`."""
    new_namespace(NAMESPACE)
    kubectl("delete", "secret", "s3-credentials", "-n", NAMESPACE)
    kubeconfig = folder / "kubeconfig"
    shutil.copy(os.environ["KUBECONFIG"], kubeconfig)
    kubectl("config", "set-context", "--current", f"--namespace={NAMESPACE}", f"--kubeconfig={kubeconfig}")
    program = folder / "bin" / "tuneyard"
    program.parent.mkdir()
    program.write_text(TUNEYARD)
    program.chmod(0o755)
    files = store.credential_files(store.endpoint())
    return os.environ | {
        "KUBECONFIG": str(kubeconfig),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        **{key: value for key, value in files.items() if key.startswith("AWS_")},
    }


def run_block(text: str, folder: Path, environment: dict[str, str]) -> str:
    """Runs a code block and returns its output; processes that it started in the background are killed at its end."""
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{text}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def smaller(text: str) -> str:
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        document["spec"] |= SMALLER[document["kind"]]
    return yaml.safe_dump_all(documents)


def test_first_model(folder: Path, environment: dict[str, str]) -> None:
    printed = ""
    for language, text in steps():
        if language == "yaml":
            (folder / "my-bot.yaml").write_text(smaller(text))
            continue
        private_ca = " --from-file=ca.crt=my-ca.pem" if "create secret" in text else ""
        printed = run_block(text.rstrip("\n") + private_ca + "\n", folder, environment)
    answer = json.loads(printed.partition("{")[1] + printed.partition("{")[2])
    assert answer["model"] == "my-bot"
    assert answer["choices"][0]["message"]["content"]
