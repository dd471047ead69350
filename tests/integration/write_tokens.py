"""Writes models and what prepare makes of chats with them, for the tests in the server's image: write_tokens DIRECTORY.

<name>/model is the base model, <name>/published what export publishes of its tokenizer, <name>/rows.json has
[messages, token ids] of each chat.
"""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

from support.families import FAMILIES, TEMPLATES, random_chat
from support.models_made import CHATS, MODELS
from support.tokenizers_made import KINDS, write_tokenizer
from tuneyard_api.contracts.requests import TokenizerRequest
from tuneyard_trainer.data.columns import INPUT_IDS
from tuneyard_trainer.data.examples import Chat, Messages
from tuneyard_trainer.data.readers.row import Place
from tuneyard_trainer.data.source import SourceRow
from tuneyard_trainer.data.template import TEMPLATE_FILE, TODAY, ChatTemplate, require_template
from tuneyard_trainer.data.tokenize import ExampleTokenizer
from tuneyard_trainer.data.tokenize.tokenizer import TOKENIZER_CONFIG, WORKER, ModelTokenizer, make_generic

FAMILY_CHATS: Final = 200


def main(to: Path) -> None:
    for name, make in MODELS.items():
        make(to / name / "model")
        write_rows(to / name, list(CHATS))
    for name, family in FAMILIES.items():
        for kind in ("byte-level", "sentencepiece"):
            directory = to / f"{name}-{kind}"
            model = write_tokenizer(
                directory / "model", KINDS[kind](family.marks), bos_token=family.bos, eos_token=family.eos
            )
            # The server would say which day it is.
            source = (TEMPLATES / f"{name}.jinja").read_text()
            (model / TEMPLATE_FILE).write_text(source.replace('strftime_now("%Y-%m-%d")', f"'{TODAY}'"))
            chance = random.Random(f"{name}/{kind}")  # noqa: S311
            chats = [random_chat(chance, has_system=family.has_system) for _ in range(FAMILY_CHATS)]
            write_rows(directory, chats)


def write_rows(directory: Path, chats: list[Messages]) -> None:
    """Tokenizes the chats as prepare does."""
    model, published = directory / "model", directory / "published"
    published.mkdir()
    request = TokenizerRequest(model=model, model_uri="s3://models/x", output=published)
    request_file = directory / "request.json"
    request_file.write_text(request.model_dump_json(by_alias=True))
    subprocess.run(WORKER.command(request_file), check=True, stdout=subprocess.DEVNULL)
    tokenizer = ModelTokenizer(published, "s3://models/x")
    make_generic(published / TOKENIZER_CONFIG, tokenizer)
    template = ChatTemplate(require_template(model, None, "s3://models/x"), tokenizer.special_tokens)
    (published / TEMPLATE_FILE).write_text(template.source)
    (published / "config.json").write_bytes((model / "config.json").read_bytes())
    rows = ExampleTokenizer(template, tokenizer, "the template").tokenize(
        [SourceRow(Chat(chat), Place("", 1), "train", b"") for chat in chats]
    )
    written = [
        [[message.to_json() for message in chat], row.tokens[INPUT_IDS].tolist()]
        for chat, row in zip(chats, rows, strict=True)
    ]
    (directory / "rows.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
