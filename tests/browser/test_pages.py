"""The reports in Chromium: no page is wider than its window, on a phone and on a desk. `make pages` runs it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tuneyard_trainer.reports import data_page, evaluation
from tuneyard_trainer.reports.data_document import DataDocument
from unit.test_evaluation_report import ARTIFACTS, RESULT, TRAINING
from unit.test_trainer_data_report import FIT, GIVEN

WORD = "s3://" + "a-long-word-without-any-space/" * 12
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None
)
# The page in a frame of a given width, which says how wide its content is.
FRAME = """<iframe src="{page}" style="width: {width}px; height: 2000px; border: 0" onload="
document.title = 'content ' + this.contentDocument.documentElement.scrollWidth"></iframe>"""


def pages() -> dict[str, str]:
    """Both reports, with the longest words."""
    sample = GIVEN["samples"][0].model_copy(update={"before": WORD, "where": WORD})
    reason = GIVEN["reasons"][0].model_copy(update={"where": WORD, "row": WORD})
    fit = FIT.model_copy(update={"device": WORD, "advice": WORD})
    data = DataDocument(**GIVEN | {"name": WORD, "samples": [sample], "reasons": [reason], "fit": fit})
    artifact = ARTIFACTS[1].model_copy(update={"notes": [WORD]})
    answers = evaluation.ComparedAnswers(question=WORD, wanted="So.", answers={"base": WORD, "tuned": WORD})
    evaluated = evaluation.EvaluationDocument.of(WORD, "d" * 64, RESULT, [artifact], TRAINING, [answers])
    return {"data": data_page.render_html(data), "evaluation": evaluation.render_html(evaluated)}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; CHROMIUM names one")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["data", "evaluation"])
def test_nothing_is_wider_than_the_window(name: str, width: int, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(pages()[name])
    (tmp_path / "frame.html").write_text(FRAME.format(page="page.html", width=width))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    assert CHROMIUM is not None
    shown = subprocess.run(
        [CHROMIUM, *options, "--virtual-time-budget=5000", f"--window-size={width + 50},2100", tmp_path / "frame.html"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search(r"<title>content (\d+)</title>", shown.stdout)
    assert found, shown.stderr
    assert int(found[1]) <= width
