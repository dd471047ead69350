"""How many of the assistant's answers are trained: told, and bounded by dataset.clean.minTrainedAnswers."""

from typing import Final

from tuneyard_api import reasons
from tuneyard_api.kinds.finetunejob_status import AnswersStatus
from tuneyard_trainer.data.tokenize.tokens import TRUNCATED, AnswerCounts
from tuneyard_trainer.data.tokenize.turns import ASKED_DIFFERENTLY, NOT_SHOWN
from tuneyard_trainer.runtime.errors import BadInput

ADVICE: Final = {
    TRUNCATED: "Raise training.maxLength: what comes before the answers fills it, so they are cut off.",
    NOT_SHOWN: "The chat template leaves these answers out: set model.chatTemplate to one that shows every turn.",
    ASKED_DIFFERENTLY: "The chat template shows these answers elsewhere than behind its generation prompt: set "
    "model.chatTemplate to one whose prompt is the beginning of every assistant's turn.",
}


def answers_status(counts: AnswerCounts) -> AnswersStatus:
    """The counts as the status shows them."""
    return AnswersStatus(
        given=counts.given,
        trained=counts.trained,
        left_out=dict(sorted(counts.left_out.items())),
        cut_short=counts.cut_short,
    )


def require_answers(counts: AnswerCounts, minimum: float) -> None:
    """Raises BadInput when a smaller share of the answers than dataset.clean.minTrainedAnswers is trained."""
    if counts.trained >= minimum * counts.given:
        return
    (most, _), *_ = counts.left_out.most_common(1)
    raise BadInput(
        reasons.ANSWERS_NOT_TRAINED,
        f"{answers_status(counts).text}; dataset.clean.minTrainedAnswers is {minimum:g}",
        f"{ADVICE[most]} Or lower dataset.clean.minTrainedAnswers.",
    )
