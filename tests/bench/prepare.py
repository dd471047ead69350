"""CPU seconds of prepare, here and in another checkout in turn: python -m bench.prepare MODEL [--against DIR]

MODEL is a directory with a model; `make images` leaves the demo's. The store is memory, so neither network nor disk is
measured; the first run of a process, which imports everything, is told apart.

With --peer PYTHON: time, CPU and memory beside datasets.map, from the start of each program to the end of all of its
processes. PYTHON is an interpreter that has datasets and transformers, such as that of the quantizer image.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.processes import load_average
from bench.tree import Tree, run

ROOT: Final = Path(__file__).parents[2]
DATA: Final = ROOT / "examples/data/kubernetes-fields.jsonl"
# No step but reading, exact duplicates, rendering and tokens.
BARE: Final = {
    **dict.fromkeys(("conflictingAnswers", "controlCharacters", "encoding", "leakage", "pii"), "keep"),
    **dict.fromkeys(("placeholders", "refusals", "secrets"), "keep"),
    "nearDuplicates": 0,
}

# Runs in the environment of a checkout, which may be older than this file.
PROGRAM: Final = """
import json, sys, tempfile, time
from pathlib import Path
root, model, data, times, settings = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
length = int(sys.argv[6])
sys.path.insert(0, f"{root}/tests")
from support.memorystore import MemoryStore
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_store.store import ObjectInfo
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage

class Store(MemoryStore):
    def list(self, uri):  # without hashing the weights
        for name in sorted(self.objects):
            if name.startswith(uri):
                yield ObjectInfo(name, name.split("/", 3)[3], len(self.objects[name]), "etag", 0.0)

store = Store()
store.objects = {f"s3://models/m/{path.name}": path.read_bytes() for path in model.iterdir()}
store.objects[f"s3://data/{data.name}"] = data.read_bytes()
seconds = []
for number in range(times + 1):
    spec = {
        "model": {"uri": "s3://models/m"},
        "dataset": {"train": [{"uri": f"s3://data/{data.name}"}], "clean": json.loads(settings)},
        "training": {"maxLength": length},
        "output": {"uri": f"s3://out/{number}"},
    }
    with tempfile.TemporaryDirectory() as folder:
        spec = FineTuneJobSpec.model_validate(spec)
        context = StageContext(stage="prepare", name="bench", spec=spec, store=store, work=Path(folder))
        begin = time.process_time()
        outcome = run_stage(context)
        assert outcome.reason == "Completed", outcome
        seconds.append(time.process_time() - begin)
print(json.dumps(seconds))
"""


def write_chats(to: Path, count: int) -> None:
    """Chats of 1.1 KB in the words of the demo's answers, of which one in 20 repeats an earlier one."""
    chance = random.Random(7)  # noqa: S311
    words = [word for line in DATA.read_text().splitlines() for word in json.loads(line)["answer"].split()]

    def say(number: int) -> str:
        begin = chance.randrange(len(words) - number)
        return " ".join(words[begin : begin + number])

    lines: list[str] = []
    for number in range(count):
        question, answer = f"{number}: {say(39)}", say(chance.randint(45, 136))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        repeats = bool(lines) and chance.random() < 1 / 20
        lines.append(chance.choice(lines) if repeats else json.dumps({"messages": turns}) + "\n")
    to.write_text("".join(lines))


def measure(checkout: Path, arguments: argparse.Namespace) -> list[float]:
    """CPU seconds of each run; the first one imports."""
    given = [str(checkout), str(arguments.model), str(arguments.data), str(arguments.times), arguments.clean]
    given.append(str(arguments.max_length))
    command = [str(checkout / ".venv/bin/python"), "-c", PROGRAM, *given]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    seconds: list[Any] = json.loads(output.splitlines()[-1])
    return [float(second) for second in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--chats", type=int, default=0, help="instead of data: so many chats of 1.1 KB")
    parser.add_argument("--clean", default="{}", help="dataset.clean, as JSON")
    parser.add_argument(
        "--bare",
        action="store_const",
        dest="clean",
        const=json.dumps(BARE),
        help="reading, exact duplicates, rendering and tokens alone",
    )
    parser.add_argument("--max-length", type=int, default=192, help="training.maxLength, in tokens")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--against", type=Path, action="append", default=[])
    parser.add_argument("--peer", help="an interpreter with datasets and transformers; or none: prepare alone")
    parser.add_argument("--processes", type=int, default=2, help="with --peer: of each of both")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.chats:
            arguments.data = Path(folder) / "chats.jsonl"
            write_chats(arguments.data, arguments.chats)
        if arguments.peer:
            beside(arguments, Path(folder))
        else:
            compare(arguments)


def beside(arguments: argparse.Namespace, folder: Path) -> None:
    """Measures the stage and its peer in turn, each with as many processes; prints medians, and the parts of a run."""
    contestants = {"tuneyard": (sys.executable, "bench.prepare_run")}
    if arguments.peer != "none":
        contestants["datasets.map"] = (arguments.peer, "bench.prepare_datasets")
    given = {"clean": json.loads(arguments.clean), "maxLength": arguments.max_length, "threads": arguments.processes}
    found: dict[str, list[Tree]] = {name: [] for name in contestants}
    for number in range(arguments.rounds):
        names = [*contestants]
        for name in names if number % 2 == 0 else names[::-1]:
            python, module = contestants[name]
            work = folder / f"{name}-{number}"
            environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "HF_HOME": str(work), "TMPDIR": str(folder)}
            environment["PYTHONDONTWRITEBYTECODE"] = ""  # modules are compiled once, as in an image
            command = [python, "-m", module, str(arguments.model), str(arguments.data), str(work), json.dumps(given)]
            tree = run(command, environment)
            shutil.rmtree(work)
            found[name].append(tree)
            print(f"{name}: {told(tree)}; load average {load_average()}; {tree.output.strip().splitlines()[-1]}")
    for name, trees in found.items():
        print(f"{name}, medians: {told(Tree('', *map(statistics.median, list(zip(*trees, strict=True))[1:])))}")


def told(tree: Tree) -> str:
    return f"{tree.wall_seconds:.1f} s, {tree.cpu_seconds:.1f} s of CPU, {tree.peak_mib:.0f} MiB"


def compare(arguments: argparse.Namespace) -> None:
    """Measures all checkouts in turn."""
    checkouts = [ROOT, *(path.absolute() for path in arguments.against)]
    found: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    for number in range(arguments.rounds):
        for checkout in checkouts if number % 2 == 0 else reversed(checkouts):
            first, *others = measure(checkout, arguments)
            found[checkout] += others
            print(f"{checkout.name}: first {first:.2f}, then {' '.join(f'{second:.2f}' for second in others)}")
    base = statistics.median(found[ROOT])
    for checkout, seconds in found.items():
        median = statistics.median(seconds)
        print(f"{checkout.name}: median {median:.2f} s of CPU; this checkout takes {base / median:.2f} times that")


if __name__ == "__main__":
    main()
