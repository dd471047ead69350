"""Records all that the API server stores of our kinds, so that invariants can be checked over the whole run."""

import asyncio
from pathlib import Path
from typing import Final

from chaos.api import Api
from chaos.watching import Record, follow

OURS: Final = "app.kubernetes.io/managed-by=tuneyard"
SELECTORS: Final = {
    "FineTuneJob": "",
    "ModelServer": "",
    "Job": OURS,
    "Pod": OURS,
    "Deployment": OURS,
    "Service": OURS,
}


class Recorder:
    """`records` grows while `run` runs; each also goes into `file` as a line of JSON."""

    def __init__(self, api: Api, file: Path, namespace: str) -> None:
        self.records: list[Record] = []
        self._api = api
        self._file = file
        self._namespace = namespace

    async def run(self) -> None:
        """Until it is cancelled."""
        with self._file.open("w") as file:

            def tell(record: Record) -> None:
                self.records.append(record)
                file.write(record.line() + "\n")

            async with asyncio.TaskGroup() as group:
                for kind, labels in SELECTORS.items():
                    group.create_task(follow(self._api, kind, self._namespace, labels, tell))

    def history(self) -> list[Record]:
        """In the order of the API server."""
        return sorted(self.records, key=lambda record: record.order)


def read(file: Path) -> list[Record]:
    """The history of an earlier run."""
    return sorted(map(Record.parse, file.read_text().splitlines()), key=lambda record: record.order)
