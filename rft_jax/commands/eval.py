"""`rft eval`: models on a file of items, graded and compared."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rft_jax.commands.arguments import Subparsers, add_model, seed
from rft_jax.utils.errors import InputError

if TYPE_CHECKING:
    from rft_jax.evaluation.models import ModelResult


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "eval", help="grade models' answers; metrics as JSON, and of several their differences"
    )
    add_model(parser, "append")
    parser.add_argument("--data", help="items as JSON lines; default: the run's validation file")
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
    """Evaluates, and prints a JSON line a model, then a line a pair and metric."""
    from rft_jax.config import EvalStage
    from rft_jax.evaluation.models import evaluate_models, paired
    from rft_jax.parallel import distributed_session, is_first

    paths = [options.workdir] if options.workdir else options.model
    if options.num_samples < 1:
        raise InputError("--num-samples must be at least 1")
    settings = EvalStage(
        samples=options.num_samples,
        cluster_by=options.cluster_by,
        macro_by=options.macro_by,
        cases=0,
    )
    with distributed_session():
        models = []
        for result in evaluate_models(paths, options.data, settings, options.seed):
            if is_first():
                print(json.dumps(result.to_json()), flush=True)
            models.append(result)
        if is_first():
            differences = [difference.to_json() for difference in paired(models)]
            for difference in differences:
                print(json.dumps(difference), flush=True)
            _show(models, differences, paths, options.html)


def _show(
    models: list["ModelResult"], differences: list[dict], paths: list[Path], html: Path | None
) -> None:
    from rft_jax.evaluation.models import evaluation_file
    from rft_jax.report import compare, show_comparison, write_comparison

    name, file = Path(models[0].data).name, html or evaluation_file(paths)
    comparison = compare([model.to_json() for model in models], differences)
    show_comparison(name, comparison)
    try:
        write_comparison(file, "Evaluation", {name: comparison})
    except OSError as error:
        remedy = "name another file with --html"
        raise InputError(f"{file}: cannot be written ({error.strerror}); {remedy}") from None
    print(file, file=sys.stderr)
