"""`rft`: a thin face over the package's functions.

Machine-readable output goes to stdout, one JSON value a line; progress and errors go to stderr.
Exit status: 0 when the thing asked for was done, 2 for a usage or input error.
"""

import argparse
import importlib.util
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft_jax.config import GPU_MEMORY_FRACTION, Config, HostOptions
from rft_jax.config.overrides import apply_overrides
from rft_jax.utils.errors import InputError, Interrupted, RunFailed


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs one command."""
    began = time.perf_counter()
    arguments, overrides = split_overrides(sys.argv[1:] if argv is None else list(argv))
    parser = _parser()
    sys.path.insert(0, os.getcwd())  # for modules that an experiment or a grader names
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises what it logs
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the older name, refused beside it
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(GPU_MEMORY_FRACTION))
    try:
        options = parser.parse_args(arguments)
        if overrides and "config" not in options:
            parser.error(f"{options.command} takes no --config.* settings")
        options.overrides, options.began = overrides, began
        options.run(options)
    except InputError as error:
        print(f"rft {options.command}: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"rft {options.command}: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"rft {options.command}: {error}; start the same command to go on", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:  # before there is anything to save
        print(f"rft {options.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def load_config(path: str, overrides: dict[str, str]) -> Config:
    """The configuration of an experiment file, with settings replaced.

    Args:
        path: The file, or `FILE.py:VARIANT` for `get_config("VARIANT")`.

    Raises:
        InputError: if the file is no experiment or a setting does not exist.
    """
    name, _, variant = path.partition(".py:")
    file = Path(f"{name}.py" if variant else path)
    if not file.is_file():
        raise InputError(f"{path}: there is no such experiment file")
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if spec is None:
        raise InputError(f"{path}: an experiment is a Python file; its name ends with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for `config_text.from_json` of data classes of its own
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(f"{path}: an experiment file defines get_config(); this one does not")
        config = module.get_config(variant) if variant else module.get_config()
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: not Python ({error.msg})") from None
    except InputError:
        raise
    except Exception as error:  # whatever a user's file raises
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((frame.lineno for frame in frames if frame.filename == spec.origin), "?")
        raise InputError(
            f"{path}: failed at line {line} ({type(error).__name__}: {error}); correct it"
        ) from None
    if not isinstance(config, Config):
        raise InputError(f"{path}: get_config() must return a rft_jax.config.Config")
    return apply_overrides(config, overrides)


def _seed(text: str) -> int:
    """A seed, for argparse."""
    if not 0 <= (seed := int(text)) < 2**32:
        raise argparse.ArgumentTypeError("must lie in 0 .. 2**32 - 1")
    return seed


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--config.a.b=value` (or `--config.a.b value`) out of the command line."""
    rest, overrides = [], {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--config.").partition("=")
        overrides[name] = value if equals else next(words, "")
    return rest, overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rft", description="Reinforcement fine-tuning in JAX.")
    commands = parser.add_subparsers(dest="command", required=True)

    quickstart = commands.add_parser(
        "quickstart", help="the embedded demonstration, in minutes on a laptop's CPU"
    )
    quickstart.add_argument("--workdir", type=Path, default=Path("runs/quickstart"))
    quickstart.add_argument("--seed", type=_seed, default=0)
    quickstart.set_defaults(run=_quickstart, config=None)

    train = commands.add_parser(
        "train", help="run an experiment, or go on with it", add_help=False,
        usage="rft train --config FILE --workdir DIR [--config.SETTING=VALUE ...]",
    )  # fmt: skip
    train.add_argument("-h", "--help", action=_HelpWithSettings, nargs=0)
    train.add_argument("--config", required=True, help="experiment file with get_config()")
    train.add_argument("--workdir", required=True, type=Path)
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "eval", help="grade models' answers; metrics as JSON, and of several their differences"
    )
    _add_model(evaluate, "append")
    evaluate.add_argument("--data", help="items as JSON lines; default: the run's validation file")
    evaluate.add_argument("--samples", type=int, default=1, help="samples per item")
    evaluate.add_argument("--seed", type=_seed, default=0)
    evaluate.add_argument(
        "--cluster-by", default="", metavar="KEY",
        help="intervals: items with the same KEY are resampled together",
    )  # fmt: skip
    evaluate.add_argument(
        "--macro-by", default="", metavar="KEY",
        help="means over the values of KEY as well, each value counting alike",
    )  # fmt: skip
    evaluate.add_argument(
        "--html", type=Path, help="table and chart; default: evaluation.html in the run's directory"
    )
    evaluate.set_defaults(run=_eval)

    sample = commands.add_parser("sample", help="answers to a prompt, one JSON object a sample")
    _add_model(sample)
    sample.add_argument("--prompt", required=True, help="the user's message")
    sample.add_argument("--max-tokens", type=int, help="default: the stage's max_completion_tokens")
    sample.add_argument("--temperature", type=float, default=1.0, help="0: greedy")
    sample.add_argument("--seed", type=_seed, default=0)
    sample.add_argument("--n", type=int, default=1, help="number of samples")
    sample.add_argument(
        "--schema",
        metavar="FILE",
        default="",
        help="JSON schema, response_format or pattern of the answers; default: the stage's",
    )
    sample.set_defaults(run=_sample)

    export = commands.add_parser("export", help="write a model for other programs")
    _add_model(export)
    export.add_argument(
        "--format", choices=("hf", "peft"), required=True,
        help="a directory for transformers, adapters merged; or the adapter for PEFT",
    )  # fmt: skip
    export.add_argument("--out", required=True, type=Path, help="new directory")
    export.add_argument("--dtype", choices=("bfloat16", "float32"))
    export.set_defaults(run=_export)

    grade = commands.add_parser("grade", help="grade answers; one JSON object a sample")
    _add_grader(grade)
    grade.add_argument("--items", type=Path, help="the items, as JSON lines")
    grade.add_argument("--samples", type=Path, help="JSON lines with output_text and item")
    grade.add_argument("--placement", choices=("auto", "device", "host"), default="auto")
    grade.add_argument("--explain", action="store_true", help="where each node runs, and why")
    _add_sandbox(grade)
    grade.set_defaults(run=_grade)

    validate = commands.add_parser(
        "validate", help="check grader and data together; probe for reward hacking"
    )
    _add_grader(validate)
    validate.add_argument("--data", required=True, type=Path, help="training items as JSON lines")
    validate.add_argument(
        "--range", nargs=2, type=float, default=(0, 1), metavar=("LOW", "HIGH"),
        help="of the rewards; default: 0 1",
    )  # fmt: skip
    _add_sandbox(validate)
    validate.set_defaults(run=_validate)

    plan = commands.add_parser(
        "plan", help="what a step takes of TPUs or GPUs, without them: bytes, seconds, collectives",
        usage="rft plan --config FILE --topology v5e:4x4 [--search] [--config.SETTING=VALUE ...]",
    )  # fmt: skip
    plan.add_argument("--config", required=True, help="experiment file with get_config()")
    plan.add_argument(
        "--topology", required=True, action="append",
        help="GENERATION:SHAPE, such as v5e:4x4, v5p:2x2x2 or h100:8; with --search several, or a "
        "generation alone for all of its slices",
    )  # fmt: skip
    plan.add_argument("--search", action="store_true", help="try all meshes and micro-batches")
    plan.add_argument(
        "--compile", type=int, default=2, metavar="N", help="of --search; default: the 2 best"
    )
    plan.add_argument("--estimate", action="store_true", help="closed form, compile nothing")
    plan.set_defaults(run=_plan)

    show = commands.add_parser("show", help="a run's metrics and samples, on a terminal")
    show.add_argument("--workdir", required=True, type=Path)
    show.add_argument("--samples", type=int, default=3, help="samples of the newest step")
    show.add_argument("--html", action="store_true", help="write WORKDIR/report.html as well")
    show.set_defaults(run=_show)

    bench = commands.add_parser("bench", help="time full RFT steps; one JSON object")
    bench.add_argument("--model", required=True, type=Path, help="as for eval")
    for name, default, what in (
        ("prompt", 512, "tokens of a prompt"),
        ("completion", 64, "tokens of a completion, all of which are sampled"),
        ("prompts", 8, "prompts of a step"),
        ("group", 8, "samples of a prompt"),
        ("steps", 8, "steps, the first two of which do not count"),
    ):
        help_text = f"{what}; default: {default}"
        bench.add_argument(f"--{name}", type=int, default=default, help=help_text)
    bench.set_defaults(run=_bench)
    return parser


class _HelpWithSettings(argparse.Action):
    """`--help` with every setting at its end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from rft_jax.config.help import settings_text

        parser.print_help()
        print(f"\n{settings_text()}", flush=True)
        parser.exit()


def _add_model(parser: argparse.ArgumentParser, action: str = "store") -> None:
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--workdir", type=Path, help="a run; its last stage's model")
    place.add_argument(
        "--model", type=Path, action=action,
        help="a run, a stage WORKDIR/STAGE, WORKDIR/STAGE/checkpoints/STEP (or best), or a Hugging "
        "Face checkpoint, a directory or hf:Owner/Name",
    )  # fmt: skip


def _add_grader(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grader", required=True, help="JSON in OpenAI's format, or MODULE:NAME of a device_grader"
    )


def _add_sandbox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-sandbox", dest="sandbox", action="store_false",
        help="run Python graders without isolation, where the kernel offers none",
    )  # fmt: skip


def _quickstart(options: argparse.Namespace) -> None:
    from rft_jax.quickstart import get_config
    from rft_jax.report import show_run
    from rft_jax.training import train

    train(apply_overrides(get_config(options.seed), options.overrides), options.workdir)
    show_run(options.workdir)


def _train(options: argparse.Namespace) -> None:
    from rft_jax.parallel import distributed_session, raise_on_all_hosts
    from rft_jax.training import train

    with distributed_session():
        with raise_on_all_hosts():
            config = load_config(options.config, options.overrides)
        train(config, options.workdir, options.began)


def _eval(options: argparse.Namespace) -> None:
    from rft_jax.config import EvalStage
    from rft_jax.evaluation.models import evaluate_models
    from rft_jax.parallel import distributed_session, is_first

    paths, lines = [options.workdir] if options.workdir else options.model, []
    settings = EvalStage(
        samples=options.samples,
        cluster_by=options.cluster_by,
        macro_by=options.macro_by,
        cases=0,
    )
    with distributed_session():
        for line in evaluate_models(paths, options.data, settings, options.seed):
            if is_first():
                print(json.dumps(line), flush=True)
            lines.append(line)
        if is_first():
            _show_evaluation(lines, paths, options.html)


def _show_evaluation(lines: list[dict[str, Any]], paths: list[Path], html: Path | None) -> None:
    from rft_jax.evaluation.models import evaluation_file
    from rft_jax.report import compare, show_comparison, write_comparison

    name, file = Path(lines[0]["data"]).name, html or evaluation_file(paths)
    comparison = compare(lines)
    show_comparison(name, comparison)
    try:
        write_comparison(file, "Evaluation", {name: comparison})
    except OSError as error:
        remedy = "name another file with --html"
        raise InputError(f"{file}: cannot be written ({error.strerror}); {remedy}") from None
    print(file, file=sys.stderr)


def _sample(options: argparse.Namespace) -> None:
    from rft_jax.evaluation.models import sample_model

    for line in sample_model(
        options.workdir or options.model,
        options.prompt,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        samples=options.n,
        response_format=options.schema,
    ):
        print(json.dumps(line, ensure_ascii=False))


def _export(options: argparse.Namespace) -> None:
    from rft_jax.runs.export import export_model

    export_model(options.workdir or options.model, options.out, options.format, options.dtype)


def _grade(options: argparse.Namespace) -> None:
    from rft_jax.evaluation.grading import explain_grader, grade_files

    if options.explain:
        lines = explain_grader(options.grader, options.placement)
    elif options.items is None or options.samples is None:
        raise InputError("give --items and --samples, or --explain")
    else:
        host = HostOptions(sandbox=options.sandbox)
        lines = grade_files(options.grader, options.items, options.samples, options.placement, host)
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))


def _validate(options: argparse.Namespace) -> None:
    from rft_jax.evaluation.grading import validate_files

    host = HostOptions(sandbox=options.sandbox)
    summary, warnings = validate_files(options.grader, options.data, *options.range, host)
    for sentence in warnings:
        print(f"rft validate: warning: {sentence}", file=sys.stderr)
    print(json.dumps({**summary, "warnings": warnings}, ensure_ascii=False))


def _plan(options: argparse.Namespace) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported; a TPU that is here stays free
    from rft_jax import plan

    config = load_config(options.config, options.overrides)
    names = options.topology
    if not options.search:
        if len(names) > 1:
            raise InputError("--topology: several are for --search; name one")
        compute = plan.estimate_plan if options.estimate else plan.compile_plan
        found = compute(config, plan.parse_topology(names[0]))
        plan.show_plan(found)
        print(json.dumps(found.to_json()))
        return
    slices = [
        topology
        for name in names
        for topology in (
            plan.topologies(plan.CHIPS[name]) if name in plan.CHIPS else [plan.parse_topology(name)]
        )
    ]
    ranking = plan.search(config, slices, 0 if options.estimate else options.compile)
    plan.show_ranking("By time, estimated", ranking.by_time[:10])
    plan.show_ranking("By chips x time, estimated", ranking.by_chip_seconds[:10])
    for found in ranking.by_time:
        print(json.dumps(found.to_json()))


def _show(options: argparse.Namespace) -> None:
    from rft_jax.report import show_run, write_report

    show_run(options.workdir, samples=options.samples)
    if options.html:
        print(write_report(options.workdir), file=sys.stderr)


def _bench(options: argparse.Namespace) -> None:
    from rft_jax.evaluation.bench import bench

    print(
        json.dumps(
            bench(
                options.model,
                prompt=options.prompt,
                completion=options.completion,
                prompts=options.prompts,
                group=options.group,
                steps=options.steps,
            )
        )
    )


if __name__ == "__main__":
    sys.exit(main())
