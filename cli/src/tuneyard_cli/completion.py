"""Shell completion: kubectl calls `kubectl_complete-tuneyard` with the words that were typed, the last one unfinished.

It prints a candidate a line, and then how the shell treats them, in the notation of cobra, which kubectl is made with.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tuneyard_cli.kubectl import FINE_TUNE_JOBS, MODEL_SERVERS, Kubectl, KubectlError
from tuneyard_cli.objects import name
from tuneyard_cli.parser import build_parser, kubectl_of

NO_FILES: Final = ":4"  # cobra.ShellCompDirectiveNoFileComp

Names = Callable[[Sequence[str]], Iterable[str]]


def main() -> int:
    words = sys.argv[1:] or [""]
    print("\n".join([*candidates(words, _names), NO_FILES]))
    return 0


def candidates(words: Sequence[str], names: Names) -> list[str]:
    """What the last word may become.

    Args:
        names: the names of FineTuneJobs and ModelServers, by the words before, which may say the namespace.
    """
    *before, partial = words
    commands = _commands()
    command = next((word for word in before if word in commands), None)
    if command is None:
        found: Iterable[str] = commands
    elif choices := _choices(commands[command], before[-1]):
        found = choices
    elif partial.startswith("-"):
        found = [option for action in _actions(commands[command]) for option in action.option_strings]
    else:
        found = names([word for word in before if word != command])
    return sorted(word for word in found if word.startswith(partial))


def _commands() -> dict[str, argparse.ArgumentParser]:
    actions = _actions(build_parser())
    (subparsers,) = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    return dict(subparsers.choices)


def _choices(parser: argparse.ArgumentParser, option: str) -> list[str]:
    """The values of the option that was typed just before; empty where it has none."""
    return [
        str(choice) for action in _actions(parser) if option in action.option_strings for choice in action.choices or ()
    ]


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions


def _names(words: Sequence[str]) -> list[str]:
    """Nothing where kubectl fails: a message would be in the way of who types."""
    try:
        kubectl: Kubectl = kubectl_of(build_parser().parse_known_args(["status", *words])[0])
        return [name(obj) for kind in (FINE_TUNE_JOBS, MODEL_SERVERS) for obj in kubectl.find_all(kind)]
    except (KubectlError, SystemExit):
        return []


if __name__ == "__main__":
    sys.exit(main())
