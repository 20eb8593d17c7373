"""How fast `rft serve` answers: its engine beside the rollout, and requests over the network.

    python experiments/benchmarks/serve.py engine --model runs/claims/sft
    python experiments/benchmarks/serve.py server --base-url http://127.0.0.1:8000/v1 --model NAME

`engine` answers 64 prompts, one sample each, once as 64 queued requests and once by `rollout` with
as many slots, in alternation. `server` (the key in OPENAI_API_KEY) asks what has been compiled: the
time to the first token of a stream, eight answers at once, and `GET /models` one after the other;
run it beside a job for its figures while one trains. Both print a JSON object.
"""

import argparse
import concurrent.futures
import json
import statistics
import time
from pathlib import Path

ITEMS = Path(__file__).parents[1] / "claims" / "train.jsonl"
REQUESTS, AT_ONCE = 64, 8


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    engine = commands.add_parser("engine")
    engine.add_argument("--model", type=Path, required=True)
    engine.set_defaults(run=lambda options: measure_engine(options.model, options.rounds))
    server = commands.add_parser("server")
    server.add_argument("--base-url", required=True)
    server.add_argument("--model", required=True)
    server.set_defaults(
        run=lambda options: measure_server(options.base_url, options.model, options.rounds)
    )
    for command in (engine, server):
        command.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(json.dumps(options.run(options)))


def conversations(count: int) -> list[list[dict]]:
    """Prompts of the claims."""
    return [json.loads(line)["messages"] for line in ITEMS.read_text().splitlines()[:count]]


def measure_engine(path: Path, rounds: int) -> dict[str, float]:
    """Tokens a second of the engine and of the rollout; medians, and of the rounds' ratios."""
    from rft_jax.serve.batcher import SLOTS, Batcher, Task
    from rft_jax.serve.loaded import load_model

    model = load_model(path, {})
    batcher = Batcher(model)
    prompts = [
        tuple(model.tokenizer.encode_prompt(messages)) for messages in conversations(REQUESTS)
    ]
    sample = rollout_of(model, prompts, SLOTS)
    settings = {"temperature": 1.0, "top_p": 1.0, "limit": model.default_tokens}
    settings["thinking_tokens"] = model.efforts[""]

    def answer(seed: int) -> int:
        for number, prompt in enumerate(prompts):
            batcher.add(Task(number, prompt, 1, seed + number, **settings))
        tokens = 0
        while batcher.busy:
            for event in batcher.step():
                tokens += event["usage"]["completion"] if "done" in event else 0
        return tokens

    speeds = {"engine": [], "rollout": []}
    for seed in range(rounds + 1):
        for name, run in (("engine", answer), ("rollout", sample)):
            began = time.perf_counter()
            speeds[name].append(run(1000 * seed) / (time.perf_counter() - began))
    found = {f"{name}_tokens_per_s": statistics.median(s[1:]) for name, s in speeds.items()}
    ratios = [a / b for a, b in zip(speeds["engine"][1:], speeds["rollout"][1:], strict=True)]
    return {"slots": SLOTS, **found, "ratio": statistics.median(ratios)}


def rollout_of(model, prompts, slots: int):
    """A function of a seed that samples a completion of each prompt and counts their tokens."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rft_jax.config import RolloutConfig
    from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout

    decoding = model.decoding
    config = RolloutConfig(max_completion_tokens=model.default_tokens, slots=slots)
    mask = LogitMask(decoding.forbidden_ids, decoding.end_of_think_id, model.efforts[""])
    length_B = np.asarray([len(prompt) for prompt in prompts], np.int32)
    tokens_BP = np.full((len(prompts), model.usual_prompt), decoding.pad_id, np.int32)
    for row, prompt in zip(tokens_BP, prompts, strict=True):
        row[: len(prompt)] = prompt

    @jax.jit
    def run(params, batch: Prompts, seed):
        rows = jnp.arange(len(prompts))
        keys = completion_keys(seed, jnp.int32(0), rows, jnp.zeros_like(rows), 1)
        stops = {"stop_ids": decoding.stop_ids, "pad_id": decoding.pad_id}
        return rollout(decoding.model, params, batch, keys, mask, config, **stops).length_BG.sum()

    batch = Prompts(jnp.asarray(tokens_BP), jnp.asarray(length_B))
    return lambda seed: int(run(model.weights.params, batch, jnp.uint32(seed)))


def measure_server(base_url: str, model: str, rounds: int) -> dict[str, float]:
    """Seconds over the network; medians, and the 99th percentile of the list of models."""
    from openai import OpenAI

    client = OpenAI(base_url=base_url, timeout=120)
    prompts = conversations(AT_ONCE)

    def ask(messages, **settings):
        return client.chat.completions.create(model=model, messages=messages, **settings)

    def first_token(messages) -> float:
        began = time.perf_counter()
        with ask(messages, stream=True) as stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    break
        return time.perf_counter() - began

    def together() -> float:
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(ask, prompts))
        return time.perf_counter() - began

    def listed() -> float:
        began = time.perf_counter()
        client.models.list()
        return time.perf_counter() - began

    together()  # compiles
    lists = sorted(listed() for _ in range(500))
    return {
        "first_token_s": statistics.median(first_token(prompts[0]) for _ in range(rounds)),
        "eight_at_once_s": statistics.median(together() for _ in range(rounds)),
        "models_p50_s": lists[len(lists) // 2],
        "models_p99_s": lists[len(lists) * 99 // 100],
    }


if __name__ == "__main__":
    main()
