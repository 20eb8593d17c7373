"""`rft sample`: answers to a prompt, a conversation or a file of them."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft_jax.commands.arguments import Subparsers, add_model, seed
from rft_jax.commands.output import on_terminal, print_json
from rft_jax.utils.errors import InputError

if TYPE_CHECKING:  # it brings jax
    from rft_jax.utils.types import JsonObject


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "sample", help="answers to prompts; one JSON object a sample where it is piped"
    )
    add_model(parser)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", metavar="TEXT", help="the user's message")
    prompts.add_argument(
        "--messages", metavar="JSON",
        help='a conversation in OpenAI\'s format: [{"role": "user", "content": "..."}]',
    )  # fmt: skip
    prompts.add_argument(
        "--data", metavar="FILE", help="items as JSON lines; each sample has its item's number"
    )
    parser.add_argument("--system", metavar="TEXT", default="", help="a system message before it")
    parser.add_argument("--max-tokens", type=int, help="default: the stage's max_completion_tokens")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: greedy")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--num-samples", "--n", type=int, default=1, help="samples of a prompt; default: 1"
    )
    parser.add_argument(
        "--schema", metavar="FILE", default="",
        help="JSON schema, response_format or pattern of the answers; default: the stage's",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Samples, and prints the samples."""
    from rft_jax import data
    from rft_jax.evaluation.sample import SampleOptions, sample_items

    if options.num_samples < 1:
        raise InputError(f"--num-samples: must be at least 1, got {options.num_samples}")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise InputError(f"--max-tokens: must be at least 1, got {options.max_tokens}")
    if options.data:
        items = data.load_items(options.data)
    elif options.messages is not None:
        items = [{"messages": _messages(options.messages)}]
    else:
        items = [{"messages": [{"role": "user", "content": options.prompt}]}]
    chosen = SampleOptions(
        system=options.system,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        samples=options.num_samples,
        response_format=options.schema,
    )
    path = options.workdir or options.model
    for line in sample_items(path, items, chosen, source=options.data or ""):
        if not options.data:
            del line["item"]
        if on_terminal():
            _show(line)
        else:
            print_json(line)


def _messages(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = 'write [{"role": "user", "content": "..."}]'
        if Path(text).is_file():
            remedy = "name a file of conversations, one a line, with --data"
        raise InputError(f"--messages: is not JSON ({error}); {remedy}") from None


def _show(sample: "JsonObject") -> None:
    """One sample on a terminal."""
    from rich.console import Console
    from rich.rule import Rule

    from rft_jax.report.terminal import visible

    item = f"item {sample['item']}, " if "item" in sample else ""
    cut = ", cut" if sample["stop_reason"] == "length" else ""
    console = Console(highlight=False)
    console.print(Rule(f"{item}{len(sample['token_ids'])} tokens{cut}", align="left"))
    if sample["thought"]:
        console.print(visible(sample["thought"], "dim"))
    console.print(visible(sample["text"]))
