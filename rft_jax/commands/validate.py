"""`rft validate`: grader and data checked together, and probed for rewards that need no skill."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rft_jax.commands.arguments import Subparsers, add_grader, add_sandbox, host_options
from rft_jax.commands.output import on_terminal, print_json
from rft_jax.utils.errors import RunFailed
from rft_jax.utils.tables import show_table


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "validate", help="check grader and data together; probe for reward hacking",
        epilog="Exit status: 1 if the grader itself failed on a probe, or a reward left its range.",
    )  # fmt: skip
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
    """Probes, and prints what they earn, and warnings.

    Raises:
        RunFailed: The grader failed, or a reward left its range.
    """
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
    if on_terminal():
        _show(summary)
    else:
        print_json({**summary, "warnings": warnings})
    for sentence in warnings:
        print(f"rft validate: warning: {sentence}", file=sys.stderr)
    if failures := summary["failures"]:
        listed = ", ".join(f"{error} {count}" for error, count in failures.items())
        raise RunFailed(f"the grader itself failed on answers of the probes ({listed}); correct it")
    outside = [
        name
        for name, found in summary["probes"].items()
        if found["mean"] is not None and (found["min"] < low or found["max"] > high)
    ]
    if outside:
        raise RunFailed(
            f"rewards leave the range {low:g} .. {high:g} ({', '.join(outside)}); rescale the "
            "reward or state its range with --range"
        )


def _show(summary: dict[str, Any]) -> None:
    """What each probe earns, as a table."""
    from rft_jax.utils.formats import number

    rows = [
        [name, *(number(found[part]) for part in ("mean", "min", "max"))]
        for name, found in summary["probes"].items()
    ]
    show_table([f"always answering, over {summary['items']} items", "mean", "min", "max"], rows)
