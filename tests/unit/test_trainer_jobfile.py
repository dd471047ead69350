"""FineTuneJob files and the tuneyard command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuneyard_trainer.commands.cli import main
from tuneyard_trainer.commands.jobfile import parse_job, read_job_yaml
from tuneyard_trainer.runtime.errors import BadInput

Json = dict[str, Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune.yaml"


def job(**spec: Any) -> Json:
    minimal = {
        "model": {"uri": "s3://models/a"},
        "dataset": {"train": [{"uri": "s3://data/a.jsonl"}]},
        "output": {"uri": "s3://artifacts/a"},
    }
    metadata = {"name": "a"}
    return {"apiVersion": "tuneyard.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": minimal | spec}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"training": {"lora": {"rank": 0}}}, ["spec.training.lora.rank", "from 1 to 512", "0 is not valid"]),
        ({"training": {"backend": "magic"}}, ["spec.training.backend", "write peft", '"magic"']),
        ({"training": {"learningrate": 1}}, ["spec.training.learningrate", "no such field"]),
        ({"model": {}}, ["spec.model.uri", "required"]),
        ({"dataset": {"train": [{"uri": "/data"}]}}, ["spec.dataset.train[0].uri", '"/data"']),
        ({"training": {"epochs": 1, "maxSteps": 5}}, ["spec.training", "epochs or maxSteps"]),
        (
            {"dataset": {"train": [{"uri": "s3://data/a"}], "validation": {}}},
            ["spec.dataset.validation", "exactly one of uri and fraction"],
        ),
        ({"model": {}, "output": {}}, ["spec.model.uri", "spec.output.uri"]),
    ],
)
def test_mistakes_have_a_path(spec: Json, says: list[str]) -> None:
    with pytest.raises(BadInput) as raised:
        parse_job(job(**spec), "x.yaml")
    for words in ["x.yaml", *says]:
        assert words in raised.value.message


def test_other_documents(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump_all([{"kind": "Secret"}, None, job()]))
    assert read_job_yaml(path).name == "a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: Secret\n", "0 documents of kind FineTuneJob"),
        (yaml.safe_dump_all([job(), job()]), "2 documents"),
        ("a: [", "not YAML"),
        ("a: 2001-99-99", "not YAML"),
        ("[" * 3000, "not YAML"),
        (yaml.safe_dump(job() | {"metadata": [1], "spec": None}), "spec"),
        ("kind: FineTuneJob\napiVersion: tuneyard.dev/v2\n", "apiVersion is tuneyard.dev/v2"),
        ("", "0 documents"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=says):
        read_job_yaml(path)


def test_validate_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(EXAMPLE)]) == 0
    assert "kubernetes-fields is valid" in capsys.readouterr().out


def test_validate_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(tmp_path / "none.yaml")]) == 65
    assert "none.yaml cannot be read: No such file or directory" in capsys.readouterr().err


def run_stage(stage: str, directory: Path) -> tuple[int, Json]:
    """`tuneyard stage` as in a pod, in a process of its own; its exit code and termination message."""
    message = directory / "termination-log"
    environment = {"TUNEYARD_TERMINATION_LOG": str(message), "TUNEYARD_PROGRESS_PORT": "0", "PATH": "/usr/bin"}
    places = ["--job", str(directory / "job.json"), "--credentials", str(directory / "s3"), "--workdir", str(directory)]
    command = [sys.executable, "-m", "tuneyard_trainer.commands.cli", "stage", stage, *places]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, json.loads(message.read_text())


def test_stage_without_credentials(tmp_path: Path) -> None:
    output = {"uri": "s3://artifacts/a", "secretRef": {"name": "s3-credentials"}}
    (tmp_path / "job.json").write_text(json.dumps(job(output=output)))
    code, message = run_stage("prepare", tmp_path)
    assert (code, message["reason"]) == (65, "CredentialsMissing")
    assert "s3-credentials" in message["message"]
    assert "AWS_ACCESS_KEY_ID" in message["advice"]


def test_stage_without_a_job_file(tmp_path: Path) -> None:
    """A missing job.json is not the user's mistake, and is reported too."""
    code, message = run_stage("prepare", tmp_path)
    assert (code, message["reason"]) == (1, "StageCrashed")
    assert "job.json" in message["message"]


def test_cli_imports_no_heavy_library() -> None:
    heavy = ["torch", "transformers", "tokenizers", "numpy", "peft"]
    program = f"import sys, tuneyard_trainer.commands.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stages_import_no_torch() -> None:
    imported = "from tuneyard_trainer.stages import prepare, train, export, evaluate, publish"
    program = f"import sys\n{imported}\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
