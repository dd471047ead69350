"""General rows are scored beside the job's own, by themselves."""

import json
from pathlib import Path

from support.tinymodel import write_model
from tuneyard_api.contracts.requests import Score, ScoreRequest
from tuneyard_trainer.data.columns import IGNORED
from tuneyard_trainer.metrics.score_worker import score

Row = tuple[list[int], list[int]]


def row(step: int) -> Row:
    ids = [1 + (number * step) % 200 for number in range(20)]
    return ids, [IGNORED] * 8 + ids[8:]


def scored(folder: Path, rows: list[Row], general: list[Row] | None = None) -> Score:
    model = folder / "model"
    if not model.exists():
        write_model(model)
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "general.json").write_text(json.dumps(general))
    asked = ScoreRequest(
        models={"base": model},
        rows=folder / "rows.json",
        general=folder / "general.json" if general else None,
        reference="base",
        logits=folder / "logits",
    )
    return score(asked).scores["base"]


def test_general_rows_are_scored_apart(tmp_path: Path) -> None:
    own, general = [row(3), row(7)], [row(5), row(11), row(13)]
    both, alone = scored(tmp_path, own, general), scored(tmp_path, general)
    assert both.general is not None
    assert (both.general.nll, both.general.tokens) == (alone.nll, alone.tokens)
    assert (both.tokens, both.general.tokens) == (24, 36)
    without = scored(tmp_path, own)
    assert (without.nll, without.general) == (both.nll, None)
