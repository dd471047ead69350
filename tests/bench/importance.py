"""What an importance matrix of the job's own rows is worth: python -m bench.importance MODEL ROWS FOLDER

Run it in the trainer image, which has llama.cpp. ROWS is JSON Lines with question and answer. The figures are of held
out answers, against the model in full precision by transformers.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Final

from transformers import AutoTokenizer

from bench.figures import table
from tuneyard_api.contracts.requests import GgufRequest, Score, ScoreRequest
from tuneyard_trainer.data.columns import IGNORED
from tuneyard_trainer.exporters.llamacpp_worker import export
from tuneyard_trainer.metrics import perplexity
from tuneyard_trainer.metrics.llamacpp_worker import score as score_gguf
from tuneyard_trainer.metrics.score_worker import score as score_transformers
from tuneyard_trainer.metrics.tally import Row

QUANTIZATIONS: Final = ("Q4_K_M", "Q5_K_M")
HELD_OUT: Final = 40
CALIBRATION: Final = 256
FULL: Final = "bf16"


def tokenized(model: Path, lines: list[str]) -> list[Row]:
    """Tokens and labels of each row, rendered with the model's chat template."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows: list[Row] = []
    for line in lines:
        row = json.loads(line)
        asked = [{"role": "user", "content": row["question"]}]
        answered = [*asked, {"role": "assistant", "content": row["answer"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = tokenizer.apply_chat_template(answered, return_dict=True)["input_ids"]
        rows.append((ids, [IGNORED] * len(prompt) + ids[len(prompt) :]))
    return rows


def quantized(model: Path, folder: Path, calibration: Path) -> dict[str, Path]:
    """The directory of each file, by what it is."""
    found = {}
    for quantization in QUANTIZATIONS:
        for name, importance in (("own rows", True), ("none", False)):
            output = folder / f"{quantization}-{importance}"
            output.mkdir()
            request = GgufRequest(
                model=model,
                name="bench",
                quantization=quantization,
                rows=calibration,
                importance=importance,
                shared=folder / "shared",
                output=output / "model.gguf",
                threads=2,
            )
            export(request)
            found[f"{quantization}, {name}"] = output
    return found


def report(scores: dict[str, Score]) -> str:
    rows = [["type, importance matrix", "perplexity", "KL, nats per token", "other most likely tokens"]]
    for name, score in scores.items():
        kl = "" if score.kl is None else f"{score.kl:.4f}"
        changed = "" if score.changed_top1 is None else f"{100 * score.changed_top1:.1f} %"
        rows.append([name, f"{perplexity.value(score):.3f}", kl, changed])
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("folder", type=Path, help="An empty directory.")
    given = parser.parse_args()
    lines = given.rows.read_text().splitlines()
    random.Random(1).shuffle(lines)  # noqa: S311
    rows = tokenized(given.model, lines[: HELD_OUT + CALIBRATION])
    folder: Path = given.folder
    (folder / "shared").mkdir(parents=True)
    calibration, held_out = folder / "calibration.json", folder / "held-out.json"
    calibration.write_text(json.dumps([ids for ids, _ in rows[HELD_OUT:]]))
    held_out.write_text(json.dumps(rows[:HELD_OUT]))
    asked = ScoreRequest(
        models={FULL: given.model},
        rows=held_out,
        reference=FULL,
        compared=list(range(HELD_OUT)),
        logits=folder / "logits",
        threads=2,
    )
    scores = score_transformers(asked).scores
    scores |= score_gguf(asked.model_copy(update={"models": quantized(given.model, folder, calibration)})).scores
    print(report(scores))


if __name__ == "__main__":
    main()
