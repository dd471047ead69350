"""The verdict on an object that somebody applies: what is wrong with it, and what may still come true."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tuneyard_api.kind import Kind
from tuneyard_api.validation import Problem, problems
from tuneyard_operator.admission.lookup import Lookup
from tuneyard_operator.admission.references import Reference, advice, references
from tuneyard_operator.machinery.errors import ApiError

Json = Mapping[str, Any]

LOOKUP_SECONDS: Final = 0.7  # of all lookups together: whoever applies a file waits for them

logger = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """An object with problems is refused; warnings are shown, and the object is stored."""

    problems: list[Problem] = []
    warnings: list[str] = []

    @property
    def message(self) -> str:
        """All problems, as kubectl shows them."""
        if len(self.problems) == 1:
            return str(self.problems[0])
        return "\n".join([f"{len(self.problems)} problems:", *(f"  {problem}" for problem in self.problems)])


ALLOWED: Final = Verdict()


class Admission:
    """Judges FineTuneJobs and ModelServers. Until `lookup` is set it does not warn of missing objects."""

    def __init__(self) -> None:
        self.lookup: Lookup | None = None

    async def review(self, kind: Kind, new: Json, old: Json | None) -> Verdict:
        """Never raises, and takes a second at most: what cannot be judged is allowed.

        `old` is the stored object, None on creation. An object that is being deleted, and one whose spec stays as it
        is, is allowed in any case: its finalizers and labels have to change even if today's rules reject its spec.
        """
        if "deletionTimestamp" in new.get("metadata", {}) or (old and old.get("spec") == new.get("spec")):
            return ALLOWED
        try:
            if found := problems(kind, new):
                return Verdict(found)
            spec = kind.spec.model_validate(new["spec"])
            missing = await self._missing(references(spec), new["metadata"].get("namespace", ""))
            return Verdict(warnings=[*advice(spec), *(_missing_message(each) for each in missing)])
        except Exception:  # whatever it is: the webhook must not keep anybody from working
            logger.exception("A %s could not be reviewed, and was allowed", kind.kind)
            return ALLOWED

    async def _missing(self, found: list[Reference], namespace: str) -> list[Reference]:
        """The references whose object certainly does not exist."""
        if self.lookup is None:
            return []
        lookup = self.lookup
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                known = await asyncio.gather(*(lookup.exists(each.kind, namespace, each.name) for each in found))
        except (ApiError, TimeoutError) as error:
            logger.warning("The objects that a spec names could not be looked up: %s", str(error) or "too slow")
            return []
        return [reference for reference, exists in zip(found, known, strict=True) if exists is False]


def _missing_message(reference: Reference) -> str:
    absent = f"there is no {reference.kind} {reference.name} yet"
    return f"{reference.path}: {absent}. Create it: without it {reference.missing}"
