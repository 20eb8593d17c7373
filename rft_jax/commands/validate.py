"""`rft validate`: grader and data checked together, and probed for rewards that need no skill."""

import argparse
import json
import sys
from pathlib import Path

from rft_jax.commands.arguments import Subparsers, add_grader, add_sandbox, host_options


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "validate", help="check grader and data together; probe for reward hacking"
    )
    add_grader(parser)
    parser.add_argument("--data", required=True, type=Path, help="training items as JSON lines")
    parser.add_argument(
        "--range", nargs=2, type=float, default=(0, 1), metavar=("LOW", "HIGH"),
        help="of the rewards; default: 0 1",
    )  # fmt: skip
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument(
        "--right", default="", metavar="FIELD", help="of the items: a right answer, as it is"
    )
    answers.add_argument(
        "--supervised", type=Path, help="JSON lines with right answers to the same prompts"
    )
    add_sandbox(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Probes, and prints warnings and one JSON object."""
    from rft_jax.evaluation.grading import validate_files

    low, high = options.range
    summary, warnings = validate_files(
        options.grader,
        options.data,
        low,
        high,
        host_options(options),
        options.right,
        options.supervised,
    )
    for sentence in warnings:
        print(f"rft validate: warning: {sentence}", file=sys.stderr)
    print(json.dumps({**summary, "warnings": warnings}, ensure_ascii=False))
