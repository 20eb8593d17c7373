"""Continuous batching against static batches of as much memory.

    python experiments/benchmarks/continuous_batching.py [--completion 256 --prompts 64 --slots 64]
    python experiments/benchmarks/continuous_batching.py --completion 1024 --prompts 8 --slots 16 \
        --cache_tokens 5461

Lengths are geometric, cut at the maximum, of which their mean would be a quarter: the model, of
random weights, gives its stop token that probability after any text. Both decode the same pairs of
prompt and sample: `slots` at a time, or in the smallest equal batches whose program takes at least
as many temporary bytes. One JSON object: seconds (the best of some rounds, taken in turn),
completions per second and their ratio, temporary bytes, and the share of completions that are the
same token by token (rounding makes the others). With `--cache_tokens` the same slots share a pool
of so many tokens (`rollout.cache_tokens`), `pooled`, beside them. Four minutes on two idle CPU
cores.
"""

import argparse
import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.config import ModelConfig, RolloutConfig
from rft_jax.models import Model, Params, build_model
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys, rollout

PAD_ID, STOP_ID, VOCAB_SIZE = 0, 1, 4096
MODEL = ModelConfig(
    num_layers=4, hidden_size=256, num_heads=4, num_kv_heads=2, head_dim=64, intermediate_size=768
)
SIZES = {"prompt": 64, "completion": 256, "prompts": 64, "group": 8, "slots": 64, "rounds": 3}
SIZES |= {"cache_tokens": 0}


@dataclasses.dataclass(frozen=True)
class GeometricLengths(Model):
    """A model that stops with the same probability after every token."""

    mean_length: int = 1

    def logits(self, params: Params, hidden_xD: Array) -> Array:
        """As `Model.logits`, but for the stop token's."""
        logits_xV = super().logits(params, hidden_xD)
        others_x = jax.nn.logsumexp(logits_xV.at[..., STOP_ID].set(-jnp.inf), axis=-1)
        return logits_xV.at[..., STOP_ID].set(others_x - jnp.log(self.mean_length - 1))


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """What a program takes besides its arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def pool_figures(pooled: jax.stages.Compiled, tokens_NT: dict[str, np.ndarray]) -> dict[str, float]:
    """What is said of slots that share a pool besides their time."""
    same_N = (tokens_NT["pooled"] == tokens_NT["continuous"]).all(axis=1)
    return {
        "pooled_temp_bytes": temporary_bytes(pooled),
        "pooled_same": round(float(same_N.mean()), 4),
    }


def main() -> None:
    """Times both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    shape = options.prompts, options.prompt
    tokens = np.random.default_rng(0).integers(2, VOCAB_SIZE, shape, np.int32)
    prompts = Prompts(jnp.asarray(tokens), jnp.full(options.prompts, options.prompt))
    ids = jnp.arange(options.prompts)
    keys_BG = completion_keys(jnp.uint32(0), jnp.int32(0), ids, ids, options.group)
    plain = build_model(MODEL, VOCAB_SIZE)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    model = GeometricLengths(**fields, mean_length=options.completion // 4)
    params = model.init(jax.random.key(0))

    def compiled(slots: int, *batch: Prompts | Array, pool: int | None = None):
        config = RolloutConfig(
            max_completion_tokens=options.completion, slots=slots, cache_tokens=pool
        )

        def sample(params: Params, prompts: Prompts, keys_BG: Array) -> Rollout:
            mask = LogitMask((PAD_ID,), end_of_think_id=None, thinking_tokens=0)
            ends = {"stop_ids": (STOP_ID,), "pad_id": PAD_ID}
            return rollout(model, params, prompts, keys_BG, mask, config, **ends)

        return jax.jit(sample).lower(params, *batch).compile()

    def batches_of(size: int) -> list[tuple[Prompts, Array]]:
        return [
            jax.tree.map(lambda x, at=at: x[at : at + size], (prompts, keys_BG))
            for at in range(0, options.prompts, size)
        ]

    continuous = compiled(options.slots, prompts, keys_BG)
    for size in range(options.slots // options.group, options.prompts + 1):
        if options.prompts % size == 0:
            batches = batches_of(size)
            static = compiled(0, *batches[0])
            if temporary_bytes(static) >= temporary_bytes(continuous):
                break
    calls = {
        "static": lambda: [static(params, *batch) for batch in batches],
        "continuous": lambda: [continuous(params, prompts, keys_BG)],
    }
    pooled = None
    if options.cache_tokens:
        pooled = compiled(options.slots, prompts, keys_BG, pool=options.cache_tokens)
        calls["pooled"] = lambda: [pooled(params, prompts, keys_BG)]
    outputs = {name: jax.block_until_ready(call()) for name, call in calls.items()}
    seconds = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    best = {name: min(times) for name, times in seconds.items()}
    tokens_NT = {
        name: np.concatenate([part.tokens_BGT for part in parts]).reshape(-1, options.completion)
        for name, parts in outputs.items()
    }
    lengths_N = np.asarray(outputs["continuous"][0].length_BG).reshape(-1)
    same_N = (tokens_NT["static"] == tokens_NT["continuous"]).all(axis=1)
    row = {
        **vars(options),
        "mean_length": round(float(lengths_N.mean()), 1),
        **{f"{name}_s": round(spent, 3) for name, spent in best.items()},
        **{f"{name}_per_s": round(len(lengths_N) / spent, 2) for name, spent in best.items()},
        "ratio": round(best["static"] / best["continuous"], 3),
        "static_batch": size * options.group,
        "static_temp_bytes": temporary_bytes(static),
        "continuous_temp_bytes": temporary_bytes(continuous),
        "same": round(float(same_N.mean()), 4),
        **(pool_figures(pooled, tokens_NT) if pooled is not None else {}),
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
