"""A model's tokenizer.json: whatever the tokenizers library raises over it is told with the file's name."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuneyard_api import reasons
from tuneyard_trainer.runtime.errors import BadInput, blamed_on
from tuneyard_trainer.runtime.userfiles import read_text

if TYPE_CHECKING:
    from tokenizers import Encoding

TOKENIZER_FILE: Final = "tokenizer.json"
SAVE_TOKENIZER: Final = (
    "Save its tokenizer with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)) there."
)


class ModelTokenizer:
    """The tokenizer of a model directory.

    Raises:
        BadInput: the model has no fast tokenizer, or the file is broken.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        # Here, so that importing this module stays cheap.
        from tokenizers import Tokenizer  # noqa: PLC0415

        path, self._name = directory / TOKENIZER_FILE, f"{uri}/{TOKENIZER_FILE}"
        if not path.is_file():
            raise BadInput(reasons.MODEL_NOT_FOUND, f"The model at {uri} has no {TOKENIZER_FILE}", SAVE_TOKENIZER)
        text = read_text(path, self._name)
        cannot = f"{self._name} cannot be read by tokenizers {version('tokenizers')}"
        with blamed_on(cannot, reasons.INVALID_MODEL, SAVE_TOKENIZER):
            self._tokenizer: Tokenizer = Tokenizer.from_str(text)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    def encode(self, text: str) -> "Encoding":
        """The tokens of a rendered text, special tokens included where the text has them.

        Raises:
            BadInput: the tokenizer fails, for example because it has no token for a character and no unknown token.
        """
        with blamed_on(f"{self._name} cannot tokenize a row", reasons.INVALID_MODEL, SAVE_TOKENIZER):
            return self._tokenizer.encode(text, add_special_tokens=False)
