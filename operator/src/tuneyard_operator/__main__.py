"""Starts the operator's process."""

import gc
import sys
from typing import Final

# Containers that are created before the garbage collector looks for cycles. Modules and decoded JSON have none: the
# searches took a fifth of the imports' time, and more than half of the first lists'.
GC_THRESHOLD: Final = 200_000


def main() -> int:
    gc.set_threshold(GC_THRESHOLD)
    from tuneyard_operator.main import main as operator  # noqa: PLC0415 - after the threshold is set

    gc.freeze()
    return operator()


if __name__ == "__main__":
    sys.exit(main())
