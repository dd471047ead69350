"""The fixtures of the other integration tests, for the axolotl image: tests/integration/run starts these in it."""

from integration.conftest import model, new_context, rows, store

__all__ = ["model", "new_context", "rows", "store"]
