"""The `tuneyard-server` command: one subcommand for each container of a model server's pod."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from tuneyard_api import names, reasons
from tuneyard_api.contracts.serving import EngineRequest
from tuneyard_api.contracts.termination import termination_message, write_termination_message
from tuneyard_api.registry import ENGINES
from tuneyard_server.engines import engine_command, load_engine, options_check
from tuneyard_server.fetch import Artifact, fetch
from tuneyard_server.proxy.config import Front
from tuneyard_server.proxy.serve import serve
from tuneyard_server.supervisor import Shutdown, Supervisor
from tuneyard_server.watchdog import Limits, start_seconds

log = logging.getLogger(__name__)

SOCKET: Final = Path(names.RUN_DIR, "engine.sock")
DRAINED: Final = Path(names.RUN_DIR, "drained")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    options = parser().parse_args()
    if options.verb == "fetch":
        return run_fetch(options)
    if options.verb == "proxy":
        front = Front(load_engine(options.engine).routes, options.served_name, options.allow_origin)
        return serve(front, options.socket, options.scratch, options.key_file, options.drained, options.drain_delay)
    shutdown = Shutdown(options.drained, options.drain_seconds)
    return run_engine(options.request, options.socket, shutdown, options.probes_port)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tuneyard-server", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("fetch", help="download and verify an artifact")
    verb.add_argument("--uri", required=True, help="s3://… of the artifact's directory")
    verb.add_argument("--digest", required=True, help="sha256:… of its manifest")
    verb.add_argument("--to", required=True, type=Path)
    verb.add_argument("--draft-uri", help="s3://… of the draft model of speculative decoding")
    verb.add_argument("--draft-digest", help="sha256:… of its manifest")
    verb.add_argument("--draft-to", type=Path, default=Path(names.DRAFT_DIR))
    verb.add_argument("--request", required=True, help="the engine's request: its options are checked meanwhile")
    verb.add_argument("--credentials", type=Path, default=Path(names.CREDENTIALS_DIR), help="a mounted Secret")

    verb = verbs.add_parser("engine", help="run the engine on a unix socket")
    verb.add_argument("--request", required=True, help="what to serve: an EngineRequest as JSON")
    verb.add_argument("--socket", type=Path, default=SOCKET)
    verb.add_argument("--drained", type=Path, default=DRAINED, help="the file that the proxy creates")
    verb.add_argument("--drain-seconds", type=float, default=90, help="the longest wait for running requests")
    verb.add_argument("--probes-port", type=int, help="where the kubelet asks whether the engine lives")

    verb = verbs.add_parser("proxy", help="run nginx in front of the engine")
    verb.add_argument("--engine", required=True, choices=sorted(ENGINES), help="whose routes are served")
    verb.add_argument("--served-name", required=True, help="the model's name in the OpenAI API")
    verb.add_argument("--allow-origin", action="append", default=[], help="an origin of web pages (CORS); *: all")
    verb.add_argument("--socket", type=Path, default=SOCKET)
    verb.add_argument("--drained", type=Path, default=DRAINED, help="the file to create when no request is left")
    verb.add_argument("--scratch", type=Path, default=Path("/tmp/proxy"), help="a writable folder")  # noqa: S108
    verb.add_argument("--key-file", type=Path, default=Path(names.API_KEY_FILE))
    verb.add_argument("--drain-delay", type=float, default=5, help="seconds until endpoints forget this pod")
    return top


def run_fetch(options: argparse.Namespace) -> int:
    """Fetches the model, and the draft model where there is one. Returns an exit code."""
    draft = Artifact(options.draft_uri, options.draft_digest, options.draft_to) if options.draft_uri else None
    try:
        request = EngineRequest.model_validate_json(options.request)
        check = options_check(request)
    except ValueError as error:
        return _invalid_request(error)
    model, on_cpu = Artifact(options.uri, options.digest, options.to), request.gpus == 0
    return fetch(model, draft, options.credentials, request.engine, check, on_cpu=on_cpu)


def run_engine(text: str, socket: Path, shutdown: Shutdown, probes_port: int | None) -> int:
    """Runs the engine that a request asks for. Returns an exit code: 65 when the request is not valid."""
    try:
        request = EngineRequest.model_validate_json(text)
        command = engine_command(request, socket)
    except ValueError as error:
        return _invalid_request(error)
    engine, limits = load_engine(request.engine), Limits(start_seconds(directory_bytes(request.model)))
    engine.before_start()
    return Supervisor(command, engine, socket, shutdown, limits).run(probes_port)


def directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _invalid_request(error: ValueError) -> int:
    message = f"The engine's request is not valid: {_explained(error)}"
    log.error("%s", message)
    advice = "Use operator and server images of the same version."
    write_termination_message(termination_message(reasons.INVALID_SPEC, message, advice))
    return names.EXIT_BAD_INPUT


def _explained(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, detail['loc'])) or 'request'}: {detail['msg']}" for detail in error.errors())


if __name__ == "__main__":
    sys.exit(main())
