"""llama.cpp's converter, which then also takes tokenizers that split as GPT-2 does, whatever their vocabulary.

The converter knows a byte-level tokenizer by the tokens that a text gives, and so only the published ones.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from tuneyard_trainer.model.llamacpp import GPT2_SPLIT, llamacpp_home, splits_as_gpt2


def main(home: Path) -> None:
    """Runs convert_hf_to_gguf.py with this process's arguments."""
    sys.path[:0] = [str(home / "gguf-py"), str(home)]
    import conversion.base  # noqa: PLC0415 - it is found on the path that was just set

    converter: Any = conversion.base.TextModel
    recognise = converter.get_vocab_base_pre

    def recognise_gpt2_too(model: Any, tokenizer: Any) -> str:
        try:
            return str(recognise(model, tokenizer))
        except NotImplementedError:
            if splits_as_gpt2(json.loads((Path(model.dir_model) / "tokenizer.json").read_text())):
                return GPT2_SPLIT
            raise

    converter.get_vocab_base_pre = recognise_gpt2_too
    runpy.run_path(str(home / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    found = llamacpp_home()
    if found is None:
        sys.exit("TUNEYARD_LLAMACPP is not set")
    main(found)
