"""`rft sample`: answers to a prompt."""

import argparse
import json

from rft_jax.commands.arguments import Subparsers, add_model, seed
from rft_jax.utils.errors import InputError


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser("sample", help="answers to a prompt, one JSON object a sample")
    add_model(parser)
    parser.add_argument("--prompt", required=True, help="the user's message")
    parser.add_argument("--max-tokens", type=int, help="default: the stage's max_completion_tokens")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: greedy")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--num-samples", "--n", type=int, default=1, help="samples of the prompt; default: 1"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Samples, and prints a JSON object a sample."""
    from rft_jax.evaluation.sample import sample_model

    if options.num_samples < 1:
        raise InputError("--num-samples must be at least 1")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise InputError("--max-tokens must be at least 1")
    for line in sample_model(
        options.workdir or options.model,
        options.prompt,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        samples=options.num_samples,
    ):
        print(json.dumps(line, ensure_ascii=False))
