"""`rft`: a thin face over the package's functions.

Machine-readable output goes to stdout, one JSON value a line; progress and errors go to stderr.
Exit status: 0 when the thing asked for was done, 2 for a usage or input error.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rft_jax.config import Config, apply_overrides
from rft_jax.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs one command."""
    arguments, overrides = _split_overrides(sys.argv[1:] if argv is None else list(argv))
    parser = _parser()
    options = parser.parse_args(arguments)
    if overrides and "config" not in options:
        parser.error(f"{options.command} takes no --config.* settings")
    options.overrides = overrides
    try:
        options.run(options)
    except InputError as error:
        print(f"rft {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def load_config(path: str, overrides: dict[str, str]) -> Config:
    """The configuration of an experiment file, with settings replaced.

    Raises:
        InputError: if the file is no experiment or a setting does not exist.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: there is no such experiment file")
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if spec is None:
        raise InputError(f"{path}: an experiment is a Python file; its name ends with .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path}: an experiment file defines get_config(); this one does not")
    return apply_overrides(module.get_config(), overrides)


def _split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
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

    train = commands.add_parser("train", help="run an experiment, or go on with it")
    train.add_argument("--config", required=True, help="experiment file with get_config()")
    train.add_argument("--workdir", required=True, type=Path)
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("eval", help="grade a model's answers; metrics as JSON")
    _add_model(evaluate)
    evaluate.add_argument("--data", help="items as JSON lines; default: the run's validation file")
    evaluate.add_argument("--samples", type=int, default=1, help="samples per item")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.set_defaults(run=_eval)

    sample = commands.add_parser("sample", help="answers to a prompt, one JSON object a sample")
    _add_model(sample)
    sample.add_argument("--prompt", required=True, help="the user's message")
    sample.add_argument("--max-tokens", type=int, help="default: the stage's completion_tokens")
    sample.add_argument("--temperature", type=float, default=1.0, help="0: greedy")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--n", type=int, default=1, help="number of samples")
    sample.set_defaults(run=_sample)

    bench = commands.add_parser("bench", help="time full RFT steps; one JSON object")
    bench.add_argument("--model", required=True, type=Path, help="as for eval")
    for name, default in {
        "prompt": 512, "completion": 64, "prompts": 8, "group": 8, "steps": 8,
    }.items():  # fmt: skip
        bench.add_argument(f"--{name}", type=int, default=default)
    bench.set_defaults(run=_bench)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--workdir", type=Path, help="a run; its last stage's model")
    place.add_argument("--model", type=Path, help="a run, or a stage of it: WORKDIR/STAGE")


def _train(options: argparse.Namespace) -> None:
    from rft_jax.train import train

    train(load_config(options.config, options.overrides), options.workdir)


def _eval(options: argparse.Namespace) -> None:
    from rft_jax.evaluate import evaluate_model

    path = options.workdir or options.model
    source, summary = evaluate_model(path, options.data, options.samples, options.seed)
    print(json.dumps({"model": str(path), "data": source, **summary}))


def _sample(options: argparse.Namespace) -> None:
    from rft_jax.evaluate import sample_model

    for line in sample_model(
        options.workdir or options.model,
        options.prompt,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        samples=options.n,
    ):
        print(json.dumps(line, ensure_ascii=False))


def _bench(options: argparse.Namespace) -> None:
    from rft_jax.bench import bench

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
