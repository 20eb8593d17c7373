"""`rft bench`: full RFT steps, timed."""

import argparse
from pathlib import Path

from rft_jax.commands.arguments import Subparsers
from rft_jax.commands.output import on_terminal, print_json
from rft_jax.utils.errors import InputError
from rft_jax.utils.tables import show_table

# Flag, name before version 0.2 that outside scripts use, default, least, meaning.
SIZES = (
    ("prompt-tokens", "prompt", 512, 1, "tokens of a prompt"),
    ("completion-tokens", "completion", 64, 2, "tokens of a completion, all of which are sampled"),
    ("num-prompts", "prompts", 8, 1, "prompts of a step"),
    ("group", None, 8, 2, "samples of a prompt"),
    ("steps", None, 8, 3, "steps, the first two of which do not count"),
)


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "bench", help="time full RFT steps; one JSON object where it is piped"
    )
    parser.add_argument("--model", required=True, type=Path, help="as for eval")
    for flag, older, default, _, what in SIZES:
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

    sizes = {}
    for flag, _, _, least, _ in SIZES:
        name = flag.replace("-", "_")
        sizes[name] = size = getattr(options, name)
        if size < least:
            raise InputError(f"--{flag}: must be at least {least}, got {size}")
    found = bench(options.model, **sizes)
    if on_terminal():
        rows = [[name.replace("_", " "), str(value)] for name, value in found.items()]
        show_table(["", "value"], rows)
    else:
        print_json(found)
