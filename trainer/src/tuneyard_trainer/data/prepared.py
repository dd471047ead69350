"""What the prepare stage has left in the store."""

from pathlib import Path

from tuneyard_trainer.runtime.context import StageContext


def fetch_rows(context: StageContext, split: str) -> Path:
    """Downloads the tokenized rows of a split (train or validation) and returns their directory."""
    directory = context.work / "rows" / split
    directory.mkdir(parents=True, exist_ok=True)
    for item in context.store.list(context.uri("prepare", split) + "/"):
        context.store.download(item.uri, directory / item.uri.rsplit("/", 1)[1])
    return directory
