"""What is compared: programs that turn a parent object into a Job."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from bench.processes import Program
from support.apiserver import Json


class Subject(NamedTuple):
    """`run` starts the programs and ends them with its block; the first is asked whether it is ready."""

    name: str
    namespace: str
    parents: str  # the path of the collection
    collections: tuple[str, ...]  # paths of all that it makes, and of the parents
    parent: Callable[[str], Json]
    run: Callable[[], AbstractContextManager[list[Program]]]

    @property
    def jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
