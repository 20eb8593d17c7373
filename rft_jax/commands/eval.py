"""`rft eval`: models on a file of items, graded and compared."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rft_jax.commands.arguments import Subparsers, add_model, seed
from rft_jax.commands.output import on_terminal, print_json
from rft_jax.utils.errors import InputError

if TYPE_CHECKING:
    from rft_jax.evaluation.models import ModelResult


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "eval", help="grade models' answers, and compare them; JSON lines where it is piped"
    )
    add_model(parser, "append")
    parser.add_argument("--data", help="items as JSON lines; default: the run's validation file")
    parser.add_argument(
        "--answers", type=Path, action="append", default=[], metavar="FILE",
        help="answers from elsewhere, an output_text an item, as rft record writes; repeatable",
    )  # fmt: skip
    parser.add_argument("--num-samples", type=int, default=1, help="samples per item; default: 1")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--cluster-by", default="", metavar="KEY",
        help="intervals: items with the same KEY are resampled together",
    )  # fmt: skip
    parser.add_argument(
        "--macro-by", default="", metavar="KEY",
        help="means over the values of KEY as well, each value counting alike",
    )  # fmt: skip
    parser.add_argument(
        "--html", type=Path, help="table and chart; default: evaluation.html in the run's directory"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluates, and prints a table, or a JSON line a model, then a line a pair and metric."""
    from rft_jax.config import EvalStage
    from rft_jax.evaluation.models import evaluate_models, paired
    from rft_jax.parallel import distributed_session, is_first

    paths = [options.workdir] if options.workdir else options.model
    if options.num_samples < 1:
        raise InputError(f"--num-samples: must be at least 1, got {options.num_samples}")
    if repeated := [path for n, path in enumerate(paths) if path in paths[:n]]:
        raise InputError(f"--model: {repeated[0]} is named twice; leave one out")
    answers = {str(file): str(file) for file in options.answers}
    settings = EvalStage(
        samples=options.num_samples,
        cluster_by=options.cluster_by,
        macro_by=options.macro_by,
        cases=0,
    )
    if options.html:
        _check_place(options.html)
    with distributed_session():
        models = []
        results = evaluate_models(
            paths, options.data, settings, options.seed, answers=answers, best=True
        )
        for result in results:
            if is_first() and not on_terminal():
                print_json(result.to_json())
            models.append(result)
        if is_first():
            differences = [difference.to_json() for difference in paired(models)]
            if not on_terminal():
                for difference in differences:
                    print_json(difference)
            file = options.html or models[0].grader_workdir / "evaluation.html"
            _show(models, differences, file)


def _check_place(file: Path) -> None:
    """Refuses a file that cannot be written, before the models are sampled."""
    reason = ""
    if file.is_dir():
        reason = "it is a directory"
    elif not file.parent.is_dir():
        reason = f"there is no folder {file.parent}"
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        reason = "permission denied"
    if reason:
        raise InputError(f"{file}: cannot be written ({reason}); name another file with --html")


def _show(models: list["ModelResult"], differences: list[dict], file: Path) -> None:
    """The comparison on a terminal, and in a file."""
    from rich.console import Console

    from rft_jax.report import compare, show_comparison, write_comparison

    name = Path(models[0].data).name
    comparison = compare([model.to_json() for model in models], differences)
    if on_terminal():
        show_comparison(name, comparison, Console())
    try:
        write_comparison(file, "Evaluation", {name: comparison})
    except OSError as error:
        remedy = "name another file with --html"
        raise InputError(f"{file}: cannot be written ({error.strerror}); {remedy}") from None
    print(f"table and chart: {file}", file=sys.stderr)
