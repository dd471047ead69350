"""GGUF Q5_K_M: 5-bit K quants, with the most sensitive tensors at 6 bits."""

from typing import Final

from tuneyard_trainer.exporters.llamacpp import gguf

FORMAT: Final = gguf("Q5_K_M", importance=True)
