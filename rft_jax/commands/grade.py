"""`rft grade`: a file of answers, graded."""

import argparse
import json
from pathlib import Path

from rft_jax.commands.arguments import Subparsers, add_grader, add_sandbox, host_options
from rft_jax.utils.errors import InputError


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser("grade", help="grade answers; one JSON object a sample")
    add_grader(parser)
    parser.add_argument("--data", type=Path, help="the items, as JSON lines")
    parser.add_argument("--answers", type=Path, help="JSON lines with output_text and item")
    parser.add_argument("--placement", choices=("auto", "device", "host"), default="auto")
    parser.add_argument("--explain", action="store_true", help="where each node runs, and why")
    add_sandbox(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Grades, and prints a JSON object a sample; or explains the grader."""
    from rft_jax.evaluation.grading import explain_grader, grade_files

    if options.explain:
        lines = explain_grader(options.grader, options.placement)
    elif options.data is None or options.answers is None:
        raise InputError("give --data and --answers, or --explain")
    else:
        host = host_options(options)
        files = options.data, options.answers
        lines = grade_files(options.grader, *files, options.placement, host)
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))
