"""Adapters in the rollout: merged into its copy of the weights once a step, or applied per token.

    python experiments/benchmarks/lora_rollout.py --model PEFT_DIRECTORY [--prompts 8 --group 8]

Merging reads and writes each adapted weight once a step; applying adds two small products to each
adapted weight of each layer for each token. One JSON object: the median seconds of either.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import RolloutConfig
from rft_jax.models import merge
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout
from rft_jax.runs.run import open_model

ROUNDS = 5


def main() -> None:
    """Times both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a model with adapters")
    for name, default in {"prompt": 512, "completion": 64, "prompts": 8, "group": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    run, stage, step = open_model(options.model)
    model, params = run.model(stage), run.load_params(stage, step)
    ids = jnp.arange(options.prompts)
    keys = completion_keys(jnp.uint32(0), jnp.int32(0), ids, ids, options.group)
    shape = options.prompts, options.prompt
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, shape, np.int32)
    prompts = Prompts(jnp.asarray(tokens), jnp.full(options.prompts, options.prompt))
    mask = LogitMask(run.tokenizer.stop_ids, end_of_think_id=None, thinking_tokens=0)
    config = RolloutConfig(group_size=options.group, max_completion_tokens=options.completion)

    def sample(params):
        return rollout(model, params, prompts, keys, mask, config, stop_ids=(), pad_id=0)

    calls = {
        "merged_s": jax.jit(lambda params: sample(merge(params, model.dtype))),
        "applied_s": jax.jit(sample),
    }
    medians = {name: _median(call, params) for name, call in calls.items()}
    sizes = {name: getattr(options, name) for name in ("prompt", "completion", "prompts", "group")}
    print(json.dumps({**sizes, **medians, "device": jax.devices()[0].device_kind}))


def _median(call, params) -> float:
    jax.block_until_ready(call(params))
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(call(params))
        seconds.append(time.perf_counter() - began)
    return round(statistics.median(seconds), 4)


if __name__ == "__main__":
    main()
