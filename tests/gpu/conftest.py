"""The fixtures of the integration tests, for machines with a GPU."""

import pytest

from integration.conftest import model, new_context, rows, store

__all__ = ["model", "new_context", "rows", "store"]


def pytest_configure(config: pytest.Config) -> None:
    """These tests run without pyproject.toml, which declares the marker."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
