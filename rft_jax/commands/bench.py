"""`rft bench`: full RFT steps, timed."""

import argparse
import json
from pathlib import Path

from rft_jax.commands.arguments import Subparsers
from rft_jax.utils.errors import InputError

# Flag, name before version 0.2 that outside scripts use, default, meaning.
SIZES = (
    ("prompt-tokens", "prompt", 512, "tokens of a prompt"),
    ("completion-tokens", "completion", 64, "tokens of a completion, all of which are sampled"),
    ("num-prompts", "prompts", 8, "prompts of a step"),
    ("group", None, 8, "samples of a prompt"),
    ("steps", None, 8, "steps, the first two of which do not count"),
)


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser("bench", help="time full RFT steps; one JSON object")
    parser.add_argument("--model", required=True, type=Path, help="as for eval")
    for flag, older, default, what in SIZES:
        name = flag.replace("-", "_")
        help_text = f"{what}; default: {default}"
        parser.add_argument(f"--{flag}", dest=name, type=int, default=default, help=help_text)
        if older:
            hidden = argparse.SUPPRESS
            parser.add_argument(f"--{older}", dest=name, type=int, default=hidden, help=hidden)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Times the steps."""
    from rft_jax.evaluation.bench import bench

    sizes = {flag.replace("-", "_"): getattr(options, flag.replace("-", "_")) for flag, *_ in SIZES}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1")
    print(json.dumps(bench(options.model, **sizes)))
