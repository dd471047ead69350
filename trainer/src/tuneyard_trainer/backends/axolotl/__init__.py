"""Training with Axolotl, in its own image.

Axolotl's core is under the Apache License 2.0. Its folder `integrations` has a licence of its own, and nothing of it is
used here: what the stage needs to know of a run comes from callbacks of transformers' Trainer.
"""
