"""GGUF Q8_0: 8-bit weights in blocks of 32."""

from typing import Final

from tuneyard_trainer.exporters.llamacpp import gguf

FORMAT: Final = gguf("Q8_0", importance=False)
