"""The identity of a run: what it depends on, and nothing else, gives it its name."""

from tuneyard_api.kinds.finetunejob import CHANGEABLE
from tuneyard_operator.machinery.objects import Json, hash8, uid


def revision(job: Json) -> str:
    """The run that a FineTuneJob asks for; no other spec, and no namesake, asks for the same."""
    return hash8([uid(job), run_spec(job)])


def run_spec(job: Json) -> Json:
    """The spec without what says only when it runs and how long it stays."""
    return {field: value for field, value in job["spec"].items() if field not in CHANGEABLE}
