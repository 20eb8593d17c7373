"""`rft record`: what a model behind an API answers, recorded to be compared with."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rft_jax.commands.arguments import Subparsers
from rft_jax.utils.errors import InputError

if TYPE_CHECKING:  # it brings jax
    from rft_jax.utils.types import JsonObject


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "record",
        help="record a model's answers over OpenAI's API, to compare with",
        epilog="The key is OPENAI_API_KEY. After an end of any kind the same command goes on.",
    )
    parser.add_argument("--model", required=True, help="as the server calls it, such as ft:...")
    parser.add_argument("--data", type=Path, required=True, help="items as JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="the answers, as JSON lines")
    parser.add_argument(
        "--base-url", default="", metavar="URL",
        help="the server's, with /v1; default: OPENAI_BASE_URL, or else OpenAI",
    )  # fmt: skip
    parser.add_argument("--requests", type=int, default=8, help="at once; default: 8")
    parser.add_argument("--temperature", type=float, help="default: the server's")
    parser.add_argument("--reasoning-effort", metavar="EFFORT", help="default: the server's")
    parser.add_argument("--max-completion-tokens", type=int, metavar="N", help="thought included")
    parser.add_argument(
        "--response-format", type=Path, metavar="FILE", help="JSON, as in a request"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Records, and says what can be done with the file."""
    from rft_jax.serve.record import Recording, record

    if options.requests < 1:
        raise InputError(f"--requests: must be at least 1, got {options.requests}")
    recording = Recording(
        model=options.model,
        base_url=options.base_url,
        temperature=options.temperature,
        reasoning_effort=options.reasoning_effort,
        response_format=_read_format(options.response_format),
        max_completion_tokens=options.max_completion_tokens,
    )
    refused = record(recording, options.data, options.out, options.requests)
    if refused:
        print(f"{refused} answers were refused, and are empty", file=sys.stderr)
    print(
        f"answers: {options.out}; next: rft eval --workdir RUN --data {options.data} "
        f"--answers {options.out}",
        file=sys.stderr,
    )


def _read_format(file: Path | None) -> "JsonObject | None":
    if file is None:
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--response-format {file}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f'--response-format {file}: must be an object such as {{"type": "text"}}')
    return found
