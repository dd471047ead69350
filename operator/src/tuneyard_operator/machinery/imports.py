"""Keeps optional packages out of a process that does not use them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Within the block an import of that package fails as if it were not installed, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = cast(Any, None)  # which makes an import raise ModuleNotFoundError
    try:
        yield
    finally:
        del sys.modules[package]
