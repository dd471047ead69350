"""The command line: `python3 tests/cluster <verb>`."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tuneyard_cluster import cluster, engine, host, load, nodeimage, tools
from tuneyard_cluster.settings import Settings, from_environment
from tuneyard_cluster.shell import Failed, Refused, at_once, say, step, succeeds


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = from_environment()
    try:
        host.check_kind_of_host()
        with _exclusive(settings):
            options.verb(settings, options)
    except Refused as rejection:
        say(f"Cannot do this here. {rejection}")
        return 2
    except Failed as failure:
        say(f"Failed: {failure}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/cluster",
        description="tuneyard's test cluster.",
        epilog="Environment: TUNEYARD_CLUSTER (name), TUNEYARD_CACHE (directory), TUNEYARD_NODE_IMAGE, "
        "TUNEYARD_DEBIAN_MIRROR, GOPROXY.",
    )
    verbs = parser.add_subparsers(required=True, metavar="verb")

    def verb(name: str, function: object, about: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(verb=function)
        return added

    verb("up", _up, "create the cluster or keep a healthy one; prints exports for a shell")
    down = verb("down", _down, "delete the cluster and keep the caches")
    down.add_argument(
        "--purge", action="store_true", help="also delete the caches and stop the dockerd that `up` started"
    )
    verb("load", _load, "load images of docker into the node").add_argument("image", nargs="+")
    subset = verb("tools", _tools, "install kind, helm, kubectl, versitygw, kueue, node and print their paths")
    subset.add_argument("tool", nargs="*", help="only these")
    verb("engine", _engine, "start a Docker engine if none runs")
    verb("env", _env, "print exports for a shell: eval $(python3 tests/cluster env)")
    return parser


def _up(settings: Settings, _: argparse.Namespace) -> None:
    with step("the cluster"):
        engine.ensure(settings)
        if not succeeds("docker", "container", "inspect", settings.node):
            host.check_disk(engine.data_root(), settings.cache)
        tools.ensure("kind", settings)
        image = nodeimage.ensure(settings)
        tools.ensure("kubectl", settings)
        # helm is compiled while the cluster starts, which is mostly waiting.
        at_once(lambda: cluster.ensure(image, settings), lambda: tools.ensure("helm", settings))
        nodeimage.forget(keep=image.name)
    _env(settings)


def _down(settings: Settings, options: argparse.Namespace) -> None:
    if engine.answers():
        cluster.delete(settings)
        if options.purge:
            nodeimage.forget()
    if options.purge:
        engine.stop(settings)
        shutil.rmtree(settings.cache, ignore_errors=True)


def _load(settings: Settings, options: argparse.Namespace) -> None:
    if not succeeds("docker", "container", "inspect", settings.node):
        raise Refused(f"There is no cluster {settings.name}; create it with `python3 tests/cluster up`.")
    load.load(options.image, settings)


def _tools(settings: Settings, options: argparse.Namespace) -> None:
    if unknown := set(options.tool) - set(tools.NAMES):
        raise Refused(f"There is no tool {', '.join(sorted(unknown))}; there are {', '.join(tools.NAMES)}.")
    for name in options.tool or tools.NAMES:
        print(name, tools.ensure(name, settings))


def _engine(settings: Settings, _: argparse.Namespace) -> None:
    engine.ensure(settings)


def _env(settings: Settings, _: argparse.Namespace | None = None) -> None:
    print(f"export KUBECONFIG={settings.kubeconfig}")
    print(f'export PATH="$PATH:{settings.bin}"')


@contextmanager
def _exclusive(settings: Settings) -> Iterator[None]:
    """Locks the cache, because two runs at once would build the same files."""
    try:
        settings.cache.mkdir(parents=True, exist_ok=True)
        lock = (settings.cache.parent / f".{settings.cache.name}.lock").open("w")
    except OSError as error:
        raise Refused(f"{settings.cache} cannot be written ({error.strerror}). Set TUNEYARD_CACHE.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("    another run has the lock; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
