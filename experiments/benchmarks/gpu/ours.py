"""One model's sampling and updating on one GPU: shares of the card's own bandwidth and matrix rate.

    python experiments/benchmarks/gpu/ours.py --model Qwen/Qwen3-0.6B --batch 64

A model of that shape with random weights: float32 masters, bfloat16 products. A token's time is the
difference of two rollouts, of all the tokens and of two, so that the prompts' part drops out; its
limit is what must be read, weights and the keys and values so far, at the rate of a large copy. The
update's limit is its arithmetic, a forward and twice as much backward (nothing that is recomputed
counts), at the rate of the same products alone. Prints one JSON line.
"""

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import ModelConfig, OptimizerConfig, PolicyLossConfig, RLStage, RolloutConfig
from rft_jax.learn.objective import Learner
from rft_jax.learn.optimizer import init_state, make_optimizer
from rft_jax.learn.policy import policy_update
from rft_jax.models import Model, build_model, merge
from rft_jax.plan.known_models import SHAPES
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys, rollout
from rft_jax.utils.numbers import peak_memory_bytes

ROUNDS = 5
REPEATED_S = 0.05
FEW = 2  # tokens of the rollout that is subtracted
PAD_ID, STOP_ID = 0, 1
KERNELS = {"attention": "cudnn", "decode_attention": "triton"}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    dense = [name for name, (config, _) in SHAPES.items() if not config.experts]
    parser.add_argument("--model", choices=dense, required=True)
    parser.add_argument("--batch", type=int, default=64, help="completions")
    add_sizes(parser)
    parser.add_argument("--layers", type=int, help="fewer, to try the script")
    for name, kernel in KERNELS.items():
        option, choices = "--" + name.replace("_", "-"), ("auto", "xla", kernel)
        parser.add_argument(option, choices=choices, default="auto", help="as in ModelConfig")
    options = parser.parse_args()
    config, vocab_size = SHAPES[options.model]
    config = dataclasses.replace(
        config,
        num_layers=options.layers or config.num_layers,
        compute_dtype="bfloat16",
        remat=options.remat,
        **{name: getattr(options, name) for name in KERNELS},
    )
    model, stage = build_model(config, vocab_size), make_stage(options, options.batch)
    found = {**_decoding(model, stage), **_updating(model, stage)}
    found["peak_memory_bytes"] = peak_memory_bytes()  # before the probes
    bandwidth, rate = _bandwidth(), _matrix_rate(model, stage)
    row = {
        **vars(options),
        "layers": config.num_layers,
        **found,
        "bandwidth_bytes_per_s": bandwidth,
        "share_of_bandwidth": round(found["token_bytes"] / bandwidth / found["token_s"], 3),
        "matrix_flops_per_s": rate,
        "share_of_matrix_rate": round(found["update_flops"] / rate / found["update_s"], 3),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(row))


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The options of `make_stage`, and what the backward pass keeps."""
    parser.add_argument("--group", type=int, default=8, help="samples per prompt")
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--completion", type=int, default=256, help="tokens")
    parser.add_argument("--micro-batch", type=int, default=32, help="completions of the update")
    parser.add_argument("--logit-chunk", type=int, default=256)
    parser.add_argument("--remat", default="dots", help="full, dots or none")


def make_stage(options: argparse.Namespace, batch: int) -> RLStage:
    """The stage of so many completions."""
    return RLStage(
        batch_size=batch // options.group,
        rollout=RolloutConfig(
            group_size=options.group,
            max_prompt_tokens=options.prompt,
            max_completion_tokens=options.completion,
            reasoning_effort=0,
        ),
        policy_loss=PolicyLossConfig(
            gradient_accumulation=max(1, batch // options.micro_batch),
            logit_chunk=options.logit_chunk,
        ),
        optimizer=OptimizerConfig(),
    )


def _decoding(model: Model, stage: RLStage) -> dict[str, float]:
    """Seconds a token of all completions, and the bytes that it must read."""
    params = jax.jit(lambda key: merge(model.init(key), model.dtype))(jax.random.key(0))
    B, G, P, T = _sizes(stage)
    prompts, keys_BG = _prompts(model, stage), _keys(stage)

    def seconds(tokens: int) -> float:
        sample = jax.jit(lambda params: _sample(model, params, prompts, keys_BG, stage, tokens))
        return _seconds(lambda: sample(params))

    token_s = (seconds(T) - seconds(FEW)) / (T - FEW)
    c = model.config
    pair = (
        2 * model.dtype.itemsize * c.num_layers * c.num_kv_heads * c.head_dim
    )  # a key and a value
    untied = 0 if c.tie_embeddings else c.hidden_size * model.vocab_size * model.dtype.itemsize
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) - untied
    read = weights + pair * (B * P + B * G * (T + FEW) / 2)
    return {
        "token_s": round(token_s, 6),
        "tokens_per_s": round(B * G / token_s, 1),
        "token_bytes": int(read),
    }


def _updating(model: Model, stage: RLStage) -> dict[str, float]:
    """Seconds of an update, and its arithmetic."""
    B, G, P, T = _sizes(stage)
    optimizer = make_optimizer(stage.optimizer, 100)
    learner = Learner(model, optimizer, _mask(), temperature=1.0, config=stage.policy_loss)

    def update(state, prompts, completions, advantage_BG):
        valid_BG = jnp.ones((B, G), bool)
        return policy_update(learner, state, prompts, completions, advantage_BG, valid_BG)[0]

    update = jax.jit(update, donate_argnums=0)
    state = jax.jit(lambda key: init_state(model.init(key), optimizer, 0))(jax.random.key(0))
    prompts, keys_BG = _prompts(model, stage), _keys(stage)
    completions = jax.jit(
        lambda params: _sample(model, merge(params, model.dtype), prompts, keys_BG, stage, T)
    )(state.params)
    advantage_BG = jax.random.normal(jax.random.key(1), (B, G))
    holder = [state]
    del state

    def step() -> Any:
        holder[0] = update(holder[0], prompts, completions, advantage_BG)
        return holder[0]

    update_s = _seconds(step)
    return {
        "update_s": round(update_s, 5),
        "update_tokens_per_s": round(B * (P + G * T) / update_s, 1),
        "update_flops": _update_flops(model, stage),
    }


def _sizes(stage: RLStage) -> tuple[int, int, int, int]:
    r = stage.rollout
    return stage.batch_size, r.group_size, r.max_prompt_tokens, r.max_completion_tokens


def _prompts(model: Model, stage: RLStage) -> Prompts:
    B, _, P, _ = _sizes(stage)
    tokens_BP = np.random.default_rng(0).integers(2, model.vocab_size, (B, P), np.int32)
    return Prompts(jnp.asarray(tokens_BP), jnp.full(B, P, jnp.int32))


def _keys(stage: RLStage) -> jax.Array:
    ids = jnp.arange(stage.batch_size)
    return completion_keys(jnp.uint32(0), jnp.int32(0), ids, ids, stage.rollout.group_size)


def _mask() -> LogitMask:
    return LogitMask((PAD_ID, STOP_ID), end_of_think_id=None, thinking_tokens=0)


def _sample(model, params, prompts, keys_BG, stage: RLStage, tokens: int) -> Rollout:
    config = dataclasses.replace(stage.rollout, max_completion_tokens=tokens)
    ends = {"stop_ids": (STOP_ID,), "pad_id": PAD_ID}
    return rollout(model, params, prompts, keys_BG, _mask(), config, **ends)


def _products(config: ModelConfig) -> list[tuple[int, int]]:
    """Shapes of a layer's weights."""
    width, inner = config.hidden_size, config.intermediate_size
    heads, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = [(width, heads), (width, keys), (width, keys), (heads, width)]
    return [*attention, (width, inner), (width, inner), (inner, width)]


def _update_flops(model: Model, stage: RLStage) -> float:
    """Those of a forward pass and of a backward pass of twice its products."""
    c = model.config
    B, G, P, T = _sizes(stage)
    tokens = B * (P + G * T)
    seen = B * P * (P + 1) / 2 + B * G * T * (P + (T + 1) / 2)  # pairs of a token and a key
    layer = 2 * tokens * sum(map(math.prod, _products(c))) + 4 * c.num_heads * c.head_dim * seen
    return 3.0 * (c.num_layers * layer + 2 * B * G * T * c.hidden_size * model.vocab_size)


def _matrix_rate(model: Model, stage: RLStage) -> float:
    """FLOP/s of the update's own products with weights, each alone, in bfloat16."""
    c, parts = model.config, stage.policy_loss.gradient_accumulation
    B, G, _, T = _sizes(stage)
    tokens = B * G * T // parts
    chunk = B * G * stage.policy_loss.logit_chunk // parts
    shapes = [(tokens, *shape) for shape in _products(c)] * c.num_layers
    shapes += [(chunk, c.hidden_size, model.vocab_size)] * max(1, tokens // chunk)
    spent = {shape: _product_seconds(*shape) for shape in set(shapes)}
    return sum(2 * math.prod(s) for s in shapes) / sum(spent[s] for s in shapes)


def _product_seconds(rows: int, inputs: int, outputs: int) -> float:
    keys = jax.random.split(jax.random.key(0))  # constant numbers would take less power
    x = jax.random.normal(keys[0], (rows, inputs), jnp.bfloat16)
    w = jax.random.normal(keys[1], (inputs, outputs), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    return _repeated_seconds(lambda: multiply(x, w))


def _bandwidth() -> float:
    """Bytes/s that a large copy reads and writes."""
    x = jnp.zeros(2**28, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / _repeated_seconds(lambda: add(x))


def _repeated_seconds(call: Callable[[], Any]) -> float:
    """Seconds of one of many calls in a row, which do not wait for the host."""
    times = max(1, round(REPEATED_S / _seconds(call)))

    def repeated() -> Any:
        for _ in range(times):
            result = call()
        return result

    return _seconds(repeated) / times


def _seconds(call: Callable[[], Any]) -> float:
    """The median of some calls after two."""
    for _ in range(2):
        jax.block_until_ready(call())
    measured = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(call())
        measured.append(time.perf_counter() - began)
    return statistics.median(measured)


if __name__ == "__main__":
    main()
