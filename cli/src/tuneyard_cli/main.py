"""The kubectl-tuneyard command."""

import os
import sys
from collections.abc import Sequence
from typing import Final

from tuneyard_cli.commands import COMMANDS
from tuneyard_cli.kubectl import KubectlError
from tuneyard_cli.parser import FAILED, build_parser, kubectl_of

INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 failed, 2 timed out."""
    options = build_parser().parse_args(arguments)
    try:
        code = COMMANDS[options.name_of_command](kubectl_of(options), options)
        sys.stdout.flush()
    except KubectlError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
