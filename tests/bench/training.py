"""Training beside TRL's SFTTrainer and Axolotl: python -m bench.training FOLDER --model DIR

All train the same tokens: LoRA of rank 16 on all linear layers, the same steps and rows of a step, on two threads of
the CPU. Each contestant is a process of its own, one after the other, in another order in each round. Two data sets:
the demo's rows, which are short, and rows of chat lengths made of them (log-normal, median 250 tokens, 95 % below 900).
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from bench.figures import number, table
from tuneyard_trainer.runtime.worker import allocator

ROOT: Final = Path(__file__).parents[2]
DEMO: Final = ROOT / "examples/data/kubernetes-fields.jsonl"
BATCH: Final = 8
MICRO: Final = 4
THREADS: Final = 2
MEDIAN, P95 = 250, 900
SIGMA: Final = math.log(P95 / MEDIAN) / 1.645  # the 95th percentile of a normal distribution
LONGEST: Final = 1024
IGNORED: Final = -100
BFLOAT16: Final = "bf16"

Row = dict[str, list[int]]

# The bars: at least, or for padding and memory at most.
PADDING: Final = 0.05
OF_TRL: Final = {"demo": 1.4, "chat": 1.7}
MEMORY_OF_TRL: Final = 0.7


class Figures(NamedTuple):
    """Of one run; seconds and tokens are those of the training alone, the memory is the whole process's."""

    tokens: int
    padding: float
    wall_seconds: float
    cpu_seconds: float
    loss: float
    steps: int
    peak_mib: float = 0.0

    @property
    def per_cpu_second(self) -> float:
        """Real tokens: padding is not counted."""
        return self.tokens / self.cpu_seconds


class Contestant(NamedTuple):
    name: str
    python: Path
    path: tuple[Path, ...] = ()
    """Of its packages."""
    variables: Mapping[str, str] = MappingProxyType({})
    """Of its environment."""


def chat_length(chance: random.Random) -> int:
    return min(LONGEST, max(20, round(MEDIAN * math.exp(SIGMA * chance.gauss(0, 1)))))


def chat_rows(rows: Sequence[Row], count: int, seed: int = 3) -> list[Row]:
    """Rows of chat lengths: those of the demo joined, and cut at a random length."""
    chance = random.Random(seed)  # noqa: S311 - an order, not a secret
    made: list[Row] = []
    for _ in range(count):
        wanted = chat_length(chance)
        row: Row = {"input_ids": [], "labels": []}
        while len(row["input_ids"]) < wanted:
            other = rows[chance.randrange(len(rows))]
            row = {name: values + other[name] for name, values in row.items()}
        made.append({name: values[:wanted] for name, values in row.items()})
    return [row for row in made if any(label != IGNORED for label in row["labels"])]


def demo_rows(model: Path, count: int) -> list[Row]:
    """The questions and answers of the demo by the model's chat template; the answers are trained."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - --help needs no transformers

    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = DEMO.read_text().splitlines()
    random.Random(1).shuffle(lines)  # noqa: S311
    rows: list[Row] = []
    for line in lines[:count]:
        fields = json.loads(line)
        turns = [{"role": "user", "content": fields["question"]}, {"role": "assistant", "content": fields["answer"]}]
        asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
        start = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        rows.append({"input_ids": ids, "labels": [IGNORED] * start + ids[start:]})
    return rows


def run(contestant: Contestant, folder: Path, options: argparse.Namespace) -> Figures:
    """Trains in a process of its own, which the kernel accounts for."""
    path = [
        Path(__file__).parents[1],
        *(ROOT / part / "src" for part in ("trainer", "crds", "store")),
        *contestant.path,
    ]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "HF_"))},
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)),
        **{"OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"},
        **{"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""},
        "AXOLOTL_DO_NOT_TRACK": "1",
        "PYTHONPATH": ":".join(map(str, path)),
        **contestant.variables,
    }
    log = folder / f"{contestant.name}.log"
    settings = [options.steps, options.micro, options.precision]
    command = [contestant.python, "-m", "bench.training_run", contestant.name, folder, *settings]
    with log.open("w") as output:
        process = subprocess.Popen([*map(str, command)], env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{contestant.name} ended with {process.returncode}: see {log}")
    figures = json.loads((folder / f"{contestant.name}.json").read_text())
    return Figures(**figures, peak_mib=usage.ru_maxrss / 1024)


def write_rows(folder: Path, model: Path, rows: Sequence[Row]) -> None:
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(model.resolve())
    (folder / "rows.json").write_text(json.dumps(list(rows)))


def measured(contestants: Sequence[Contestant], folder: Path, options: argparse.Namespace) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {contestant.name: [] for contestant in contestants}
    for number_of_round in range(options.rounds):
        for contestant in contestants if number_of_round % 2 == 0 else contestants[::-1]:
            load = os.getloadavg()[0]
            figures = run(contestant, folder, options)
            found[contestant.name].append(figures)
            print(f"{folder.name} {contestant.name} load {load:.1f}: {figures}", flush=True)
    return found


def rows_of_table(name: str, found: dict[str, list[Figures]]) -> Iterator[list[str]]:
    """A row of the table for each contestant, with its ratio to TRL without packing."""
    speed = {who: statistics.median(each.per_cpu_second for each in runs) for who, runs in found.items()}
    memory = {who: statistics.median(each.peak_mib for each in runs) for who, runs in found.items()}
    for who, runs in found.items():
        yield [
            name,
            who,
            f"{runs[0].tokens} in {runs[0].steps} steps",
            f"{100 * runs[0].padding:.1f} %",
            number(speed[who]),
            f"{speed[who] / speed['trl']:.2f}",
            f"{memory[who]:.0f} MiB",
            f"{memory[who] / memory['trl']:.2f}",
            f"{runs[0].loss:.4f}",
        ]


def missed(name: str, found: dict[str, list[Figures]]) -> Iterator[str]:
    """The bars that are missed, in words."""
    speed = {who: statistics.median(each.per_cpu_second for each in runs) for who, runs in found.items()}
    memory = {who: statistics.median(each.peak_mib for each in runs) for who, runs in found.items()}
    if (padding := found["tuneyard"][0].padding) > PADDING:
        yield f"{name}: padding {100 * padding:.1f} %, at most {100 * PADDING:.0f} %"
    for who in speed.keys() - {"tuneyard"}:
        wanted = OF_TRL[name] if who == "trl" else 1.0
        if (ratio := speed["tuneyard"] / speed[who]) < wanted:
            yield f"{name}: {ratio:.2f} times the tokens per CPU second of {who}, at least {wanted}"
    if (ratio := memory["tuneyard"] / memory["trl"]) > MEMORY_OF_TRL:
        yield f"{name}: {ratio:.2f} of the memory of trl, at most {MEMORY_OF_TRL}"


HEAD: Final = [
    "rows",
    "",
    "real tokens",
    "padding",
    "per CPU second",
    "/ TRL",
    "peak memory",
    "/ TRL",
    "loss at the end",
]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.training", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for rows, logs and figures")
    parser.add_argument("--model", type=Path, required=True, help="a directory with a model and its chat template")
    parser.add_argument("--packages", type=Path, help="a folder with trl and datasets for this Python; default: none")
    parser.add_argument("--axolotl", type=Path, help="a Python with axolotl; default: none")
    parser.add_argument("--only", choices=["demo", "chat"], help="one of the data sets")
    parser.add_argument("--steps", type=int, default=12, help=f"of {BATCH} rows; default: %(default)s")
    parser.add_argument("--micro", type=int, default=MICRO, help="rows of a forward pass; default: %(default)s")
    parser.add_argument(
        "--precision",
        choices=[BFLOAT16, "fp32"],
        default=BFLOAT16,
        help=f"default: {BFLOAT16}; fp32 for a CPU without its instructions",
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    return parser


def _contestants(options: argparse.Namespace) -> list[Contestant]:
    here, path = Path(sys.executable), tuple(Path(part) for part in os.environ.get("PYTHONPATH", "").split(":"))
    others = [Contestant(name, here, (*path, options.packages)) for name in ("trl", "trl-packed") if options.packages]
    axolotl = [Contestant("axolotl", options.axolotl)] if options.axolotl else []
    as_a_stage_starts_it = allocator(os.environ)
    return [Contestant("tuneyard", here, path, as_a_stage_starts_it), *others, *axolotl]


def main() -> int:
    options = _parser().parse_args()
    demo = demo_rows(options.model, 2000)
    sets: dict[str, list[Row]] = {"demo": demo[: options.steps * BATCH], "chat": chat_rows(demo, options.steps * BATCH)}
    lines: list[list[str]] = [HEAD]
    problems: list[str] = []
    for name, rows in sets.items():
        if options.only not in (None, name):
            continue
        write_rows(options.folder / name, options.model, rows)
        found = measured(_contestants(options), options.folder / name, options)
        if "trl" in found:
            lines += rows_of_table(name, found)
            problems += missed(name, found)
    if len(lines) > 1:
        print(table(lines), "\n".join(problems) or "All bars are met.", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
