"""GGUF Q4_K_M: 4-bit K quants, with the most sensitive tensors at 6 bits."""

from typing import Final

from tuneyard_trainer.exporters.llamacpp import gguf

FORMAT: Final = gguf("Q4_K_M", importance=True)
