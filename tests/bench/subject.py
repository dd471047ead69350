"""What is compared: programs that create a Job for each parent object."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from bench.processes import Program
from support.apiserver import Json


class Subject(NamedTuple):
    """`run` starts the programs and ends them with its block; the readiness of the first program counts."""

    name: str  # in reports
    namespace: str
    parents: str  # path of the collection of parent objects
    parent: Callable[[str], Json]  # builds the parent object of a name
    run: Callable[[], AbstractContextManager[list[Program]]]

    @property
    def jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
