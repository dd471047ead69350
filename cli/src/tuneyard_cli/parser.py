"""The options of the kubectl-tuneyard command."""

import argparse
import math
import sys
from importlib.metadata import version
from typing import Final, NoReturn

from tuneyard_api.stages import STAGES
from tuneyard_cli.durations import parse_duration
from tuneyard_cli.kubectl import Kubectl
from tuneyard_cli.serverlogs import CONTAINERS

FAILED: Final = 1
PASSED_ON: Final = ("kubeconfig", "context", "namespace", "as", "token")
EITHER: Final = "of a FineTuneJob or a ModelServer; ftj/NAME or ms/NAME where both have that name"


class Parser(argparse.ArgumentParser):
    """Exits with 1: argparse's 2 would look like a timeout of `wait`."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(FAILED, f"{self.prog}: {message}\n")


def kubectl_of(options: argparse.Namespace) -> Kubectl:
    """kubectl with the options that are passed on to it."""
    given = vars(options)
    return Kubectl(tuple(f"--{flag}={given[flag]}" for flag in PASSED_ON if flag in given))


def build_parser() -> Parser:
    """`options.name_of_command` is the command's name."""
    cluster = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    cluster.add_argument("-n", "--namespace", help="default: the context's")
    cluster.add_argument("--context", help="default: the kubeconfig's current one")
    cluster.add_argument("--kubeconfig", help="default: as for kubectl")
    cluster.add_argument("--as", metavar="USER", help="act as this user, as for kubectl")
    cluster.add_argument("--token", help="a bearer token, as for kubectl")
    output = Parser(add_help=False)
    output.add_argument("-o", "--output", choices=["text", "json"], default="text", help="default: %(default)s")

    parser = Parser(
        prog="kubectl tuneyard", description="FineTuneJobs and ModelServers on one screen.", parents=[cluster]
    )
    parser.add_argument("--version", action="version", version=f"kubectl-tuneyard {version('tuneyard-cli')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name_of_command")
    _add_reading(commands, [cluster, output], [cluster])
    _add_writing(commands, [cluster, output])
    return parser


def _add_reading(commands: "argparse._SubParsersAction[Parser]", parents: list[Parser], cluster: list[Parser]) -> None:
    look = commands.add_parser(
        "status", parents=parents, help="its stages and progress, why it waits or failed, its artifacts"
    )
    which = look.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", help="of a FineTuneJob or a ModelServer; without it a table of all")
    which.add_argument("-A", "--all-namespaces", action="store_true", help="the table of all namespaces")

    logs = commands.add_parser("logs", parents=parents, help="the logs of all its stages, in order, or of its replicas")
    logs.add_argument("name", help=EITHER)
    logs.add_argument("--stage", choices=list(STAGES), help="of a FineTuneJob: only this stage's")
    logs.add_argument("-c", "--container", choices=CONTAINERS, help="of a ModelServer: only this container's")
    logs.add_argument("-f", "--follow", action="store_true", help="as they come; of a ModelServer the engine's")

    wait = commands.add_parser(
        "wait",
        parents=parents,
        help="until it is published or served; exits with 0 it is, 1 it failed, 2 not decided in time",
    )
    wait.add_argument("name", help=f"{EITHER}; otherwise the FineTuneJob first, then the ModelServer")
    wait.add_argument(
        "--timeout", type=_seconds, default=math.inf, help="90s, 10m, 1h30m; default: as long as it takes"
    )

    report = commands.add_parser("report", parents=cluster, help="its evaluation, to paste into a pull request")
    report.add_argument("name", help="of a FineTuneJob")
    report.add_argument("-o", "--output", choices=["md", "json"], default="md", help="default: %(default)s")


def _add_writing(commands: "argparse._SubParsersAction[Parser]", parents: list[Parser]) -> None:
    for command, text, of in (
        ("suspend", "stops a FineTuneJob: the running stage writes a checkpoint", "of a FineTuneJob"),
        ("resume", "goes on with a suspended FineTuneJob", "of a FineTuneJob"),
        ("retry", "tries again what failed or was rolled back; finished stages are reused", EITHER),
    ):
        commands.add_parser(command, parents=parents, help=text).add_argument("name", help=of)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
