"""What the peers share: the job's shape, its prompts, its reward and the line that they print."""

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from typing import Any

WARM_UP = 2  # steps left out of the median, as in `rft bench`


def parse_args(description: str) -> argparse.Namespace:
    """The command line of a peer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint")
    parser.add_argument("--prompt", type=int, default=64, help="tokens per prompt")
    parser.add_argument("--completion", type=int, default=64, help="tokens per completion")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per step")
    parser.add_argument("--group", type=int, default=8, help="samples per prompt")
    parser.add_argument("--steps", type=int, default=8)
    return parser.parse_args()


def make_prompts(tokenizer: Any, length: int, count: int = 200) -> list[str]:
    """Random text that re-encodes to `length` tokens, give or take a few."""
    rng = random.Random(0)
    prompts = []
    for _ in range(count):
        ids = [rng.randint(300, len(tokenizer) - 1) for _ in range(length)]
        text = tokenizer.decode(ids)
        prompts.append(tokenizer.decode(tokenizer.encode(text)[:length]))
    return prompts


def vowel_share(prompts: Any = None, completions: Sequence[str] = (), **_: Any) -> list[float]:
    """The reward."""
    del prompts
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in completions]


def report(name: str, args: argparse.Namespace, step_seconds: Sequence[float]) -> None:
    """Prints the result as `rft bench` does."""
    seconds = statistics.median(step_seconds[WARM_UP:])
    completions = args.prompts * args.group
    result = {
        "name": name,
        "prompt": args.prompt,
        "completion": args.completion,
        "prompts": args.prompts,
        "group": args.group,
        "step_s": round(seconds, 4),
        "completions_per_s": round(completions / seconds, 3),
        "completion_tokens_per_s": round(completions * args.completion / seconds, 1),
    }
    print(json.dumps(result), flush=True)
