"""`rft show`: a run's metrics and samples, on a terminal."""

import argparse
import sys
from pathlib import Path

from rft_jax.commands.arguments import Subparsers


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser("show", help="a run's metrics and samples, on a terminal")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument(
        "--num-samples", type=int, default=3, help="samples of the newest step; default: 3"
    )
    parser.add_argument("--html", action="store_true", help="write WORKDIR/report.html as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Shows the run."""
    from rft_jax.report import show_run, write_report

    show_run(options.workdir, samples=options.num_samples)
    if options.html:
        print(write_report(options.workdir), file=sys.stderr)
