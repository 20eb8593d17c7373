"""`rft grade`: a file of answers, graded."""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rft_jax.commands.arguments import Subparsers, add_grader, add_sandbox, host_options
from rft_jax.commands.output import on_terminal, print_json
from rft_jax.utils.errors import InputError, RunFailed
from rft_jax.utils.tables import show_table


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "grade", help="grade answers; a table, or one JSON object a sample where it is piped",
        epilog="Exit status: 1 if the grader itself failed on an answer.",
    )  # fmt: skip
    add_grader(parser)
    parser.add_argument("--data", type=Path, help="the items, as JSON lines")
    parser.add_argument("--answers", type=Path, help="JSON lines with output_text and item")
    parser.add_argument("--placement", choices=("auto", "device", "host"), default="auto")
    parser.add_argument("--explain", action="store_true", help="where each node runs, and why")
    add_sandbox(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Grades, and prints the samples and their mean; or explains the grader."""
    from rft_jax.evaluation.grading import explain_grader, grade_files

    if options.explain:
        lines = list(explain_grader(options.grader, options.placement))
        if on_terminal():
            _show_nodes(lines)
        else:
            for line in lines:
                print_json(line)
        return
    if options.data is None or options.answers is None:
        raise InputError("give --data and --answers, or --explain")
    host = host_options(options)
    files = options.data, options.answers
    lines, began = [], time.perf_counter()
    for line in grade_files(options.grader, *files, options.placement, host):
        if not on_terminal():
            print_json(line)
        lines.append(line)
    if on_terminal():
        _show_grades(lines, options.answers)
    _end(lines, time.perf_counter() - began)


def _show_nodes(lines: list[dict[str, str]]) -> None:
    columns = list(lines[0])
    rows = [[str(line[name]) for name in columns] for line in lines]
    show_table(columns, rows, texts=columns[-1:])


def _show_grades(lines: list[dict[str, Any]], answers: Path) -> None:
    from rft_jax import data
    from rft_jax.report.terminal import visible
    from rft_jax.utils.formats import number

    parts = list(lines[0]["sub_rewards"])
    errors = [_errors(line) for line in lines]
    columns = ["item", "reward", *parts, *(["errors"] if any(errors) else []), "answer"]
    rows = []
    for line, made, row in zip(lines, errors, data.load_rows(answers), strict=True):
        scores = [number(line["reward"]), *(number(line["sub_rewards"][name]) for name in parts)]
        text = visible(" ".join(row["output_text"].split()))
        named = [", ".join(made)] if any(errors) else []
        rows.append([str(line["item"]), *scores, *named, text])
    show_table(columns, rows, texts=("answer",))


def _errors(line: dict[str, Any]) -> list[str]:
    return [name for name, made in line["metadata"]["errors"].items() if made]


def _end(lines: list[dict[str, Any]], seconds: float) -> None:
    """The mean, what it took, and the answers on which the grader failed.

    Raises:
        RunFailed: There are such answers.
    """
    from rft_jax.graders.probe import FAILURES

    graded = [line["reward"] for line in lines if line["metadata"]["valid"]]
    mean = f"mean reward {sum(graded) / len(graded):.4f}" if graded else "no mean reward"
    count = f"{len(graded)} of {len(lines)} answers with a valid grade"
    print(f"{mean} over {count}, in {seconds:.1f} s", file=sys.stderr)
    failures = Counter(error for line in lines for error in _errors(line) if error in FAILURES)
    if failures:
        listed = ", ".join(f"{error} {count}" for error, count in failures.items())
        raise RunFailed(
            f"the grader itself failed ({listed}); correct the grader, and grade these answers "
            "again"
        )
