"""What replay keeps of what a model could do: python -m bench.forgetting MODEL [--replay 0.000001 0.1 0.2]

Trains a part of the demo's rows with a learning rate that is too high on purpose, once for each share of replayed
rows, and prints both perplexities before and after. MODEL is a directory with SmolLM2-135M-Instruct. Runs where train
and evaluate do: in the trainer image.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.figures import table
from support.memorystore import MemoryStore
from tuneyard_api.contracts.results import EvaluateResult, PrepareResult
from tuneyard_api.kinds.finetunejob import FineTuneJobSpec
from tuneyard_api.kinds.finetunejob_status import ReplayStatus
from tuneyard_api.names import Stage
from tuneyard_trainer.runtime.context import StageContext
from tuneyard_trainer.stages import run_stage

DATA: Final = Path(__file__).parents[2] / "examples/data/kubernetes-fields.jsonl"
ROWS: Final = 500
CHAIN: Final[tuple[Stage, ...]] = ("prepare", "train", "export", "evaluate")
TRAINING: Final = {
    "maxSteps": 40,
    "effectiveBatchSize": 4,
    "microBatchSize": 4,
    "learningRate": 3e-3,
    "maxLength": 192,
}


def spec_of(fraction: float) -> FineTuneJobSpec:
    given: dict[str, Any] = {
        "model": {"uri": "s3://models/m"},
        "dataset": {"train": [{"uri": "s3://data/rows.jsonl"}], "replay": {"fraction": fraction}},
        "training": TRAINING,
        "resources": {"gpus": 0},
        "export": {"formats": ["bf16"]},
        "evaluation": {"maxRows": 30, "onGateFailure": "Warn"},
        "output": {"uri": "s3://out/put"},
    }
    return FineTuneJobSpec.model_validate(given)


def run(model: Path, fraction: float, work: Path) -> tuple[ReplayStatus, EvaluateResult]:
    """Runs the chain in this process, with a store in memory."""
    store = MemoryStore()
    store.objects = {f"s3://models/m/{path.name}": path.read_bytes() for path in model.iterdir()}
    store.objects["s3://data/rows.jsonl"] = b"".join(DATA.read_bytes().splitlines(keepends=True)[:ROWS])
    digests: dict[Stage, str] = {}
    for stage in CHAIN:
        (work / stage).mkdir()
        context = StageContext(
            stage=stage,
            name="bench",
            spec=spec_of(fraction),
            store=store,
            work=work / stage,
            digests=digests,
            threads=2,
        )
        outcome = run_stage(context)
        digests = context.digests
        assert not outcome.exit_code, outcome
    replay = context.result_of(PrepareResult).dataset.replay
    assert replay is not None
    return replay, context.result_of(EvaluateResult)


def told(replay: ReplayStatus, result: EvaluateResult) -> list[str]:
    """A line of the table."""
    found = {(item.metric, item.subject): item.value for item in result.measurements}
    pairs = [(found[metric, "base"], found[metric, "tuned"]) for metric in ("perplexity", "generalPerplexity")]
    before, after = pairs[1]
    gate = "passes" if result.passed else "fails"
    return [
        f"{replay.rows} rows ({replay.fraction:.1%} of the trained tokens)",
        *(f"{base:.2f}, {tuned:.2f}" for base, tuned in pairs),
        f"{after / before - 1:+.0%}",
        gate,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--replay", type=float, nargs="+", default=[1e-6, 0.1, 0.2], help="shares of trained tokens")
    arguments = parser.parse_args()
    rows = [["replay", "perplexity: base, tuned", "generalPerplexity: base, tuned", "general", "gates"]]
    for fraction in arguments.replay:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(told(*run(arguments.model, fraction, Path(folder))))
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
