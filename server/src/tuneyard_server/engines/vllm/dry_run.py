"""Parses the command line of `vllm serve` with vLLM's own parser: exits with 65 where it is wrong, after saying how.

It runs in a process of its own, because importing vLLM takes seconds and 800 MB.
"""

import re
import sys
from argparse import Namespace
from difflib import get_close_matches
from typing import Any

from vllm.config.attention import AttentionConfig
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.reasoning import ReasoningParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tuneyard_api import names


def with_nearest(parser: Any) -> Any:
    """The parser, whose error about an unknown option also names the nearest one."""
    report = parser.error
    options = [name for action in parser._actions for name in action.option_strings]

    def error(message: str) -> None:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        near = get_close_matches(unknown[1], options, n=1) if unknown else []
        report(f"{message}. Did you mean {near[0]}?" if near else message)

    parser.error = error
    return parser


def main(words: list[str]) -> int:
    parser = with_nearest(make_arg_parser(FlexibleArgumentParser(prog="vllm serve")))
    try:
        options = parser.parse_args(words)
    except SystemExit:  # argparse has printed why
        return names.EXIT_BAD_INPUT
    try:
        options.subparser = "serve"
        validate_parsed_serve_args(options)
        validate_api_server_args(options)
        _check_names(options)
    except (ValueError, TypeError, KeyError) as error:
        print(f"vllm serve: error: {str(error.args[0]).removeprefix('Error: ')}")
        return names.EXIT_BAD_INPUT
    return 0


def _check_names(options: Namespace) -> None:
    """What vLLM finds only when it loads the model."""
    if options.quantization is not None and options.quantization not in QUANTIZATION_METHODS:
        raise ValueError(f"argument --quantization: invalid choice: {options.quantization!r}")
    parsers = ReasoningParserManager.list_registered()
    if options.reasoning_parser and options.reasoning_parser not in parsers:
        raise ValueError(f"argument --reasoning-parser: invalid choice: {options.reasoning_parser!r}")
    if options.attention_backend:
        try:
            AttentionConfig(backend=options.attention_backend)
        except ValueError as error:
            choice = f"invalid choice: {options.attention_backend!r}"
            raise ValueError(f"argument --attention-backend: {choice}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
