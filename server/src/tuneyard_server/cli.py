"""The `tuneyard-server` command: one verb a container of a model server's pod."""

import argparse
import logging
import os
import sys
from pathlib import Path

from tuneyard_server.engines import ENGINES
from tuneyard_server.engines.base import EngineOptions
from tuneyard_server.fetch import fetch
from tuneyard_server.proxy.serve import serve
from tuneyard_server.supervisor import supervise

RUN = Path("/run/tuneyard")
SOCKET, DRAINED = RUN / "engine.sock", RUN / "drained"


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    options = parser().parse_args()
    if options.verb == "fetch":
        return fetch(options.uri, options.digest, options.to, options.credentials)
    if options.verb == "proxy":
        return serve(options.socket, options.scratch, options.key_file, options.drained, options.drain_delay)
    command = ENGINES[options.engine](engine_options(options))
    return supervise(command, options.socket, options.drained, options.drain_seconds)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tuneyard-server", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("fetch", help="download and verify an artifact")
    verb.add_argument("--uri", required=True, help="s3://… of the artifact's directory")
    verb.add_argument("--digest", required=True, help="sha256:… of its manifest")
    verb.add_argument("--to", required=True, type=Path)
    verb.add_argument("--credentials", type=Path, default=Path("/etc/tuneyard/s3"), help="a mounted Secret")

    verb = verbs.add_parser("engine", help="start the engine on a unix socket")
    verb.add_argument("--engine", choices=sorted(ENGINES), default="vllm")
    verb.add_argument("--model", required=True, type=Path)
    verb.add_argument("--served-name", required=True)
    verb.add_argument("--max-model-len", type=int)
    verb.add_argument("--tensor-parallel-size", type=int)
    verb.add_argument("--gpu-memory-utilization", type=float)
    verb.add_argument("--threads", type=int, default=os.environ.get("TUNEYARD_THREADS"), help="on a CPU")
    verb.add_argument("--extra", action="append", default=[], metavar="OPTION=VALUE", help="the engine's own")
    verb.add_argument("--socket", type=Path, default=SOCKET)
    verb.add_argument("--drained", type=Path, default=DRAINED)
    verb.add_argument("--drain-seconds", type=float, default=90, help="the longest wait for running requests")

    verb = verbs.add_parser("proxy", help="nginx in front of the engine")
    verb.add_argument("--socket", type=Path, default=SOCKET)
    verb.add_argument("--drained", type=Path, default=DRAINED)
    verb.add_argument("--scratch", type=Path, default=Path("/tmp/proxy"), help="a writable folder")  # noqa: S108
    verb.add_argument("--key-file", type=Path, default=Path("/etc/tuneyard/auth/key"))
    verb.add_argument("--drain-delay", type=float, default=5, help="seconds until endpoints forget this pod")
    return top


def engine_options(options: argparse.Namespace) -> EngineOptions:
    extra = dict(each.partition("=")[::2] for each in options.extra)
    return EngineOptions(
        model=options.model,
        served_name=options.served_name,
        socket=options.socket,
        max_model_len=options.max_model_len,
        tensor_parallel_size=options.tensor_parallel_size,
        gpu_memory_utilization=options.gpu_memory_utilization,
        threads=options.threads,
        extra=extra,
    )


if __name__ == "__main__":
    sys.exit(main())
