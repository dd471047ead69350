"""What the operator's controllers declare, for tests that use parts of its machinery."""

from typing import Final

from tuneyard_operator.machinery.declared import cached_kinds, resources, sources
from tuneyard_operator.main import CONTROLLERS

RESOURCES: Final = resources(CONTROLLERS)
SOURCES: Final = sources(CONTROLLERS)
KINDS: Final = cached_kinds(CONTROLLERS)
