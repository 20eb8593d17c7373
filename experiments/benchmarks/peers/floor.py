"""The floor of a step: the seconds of its matrix products alone, at the rate measured here.

    python experiments/benchmarks/peers/floor.py CHECKPOINT --prompt 512 --completion 64

A prompt is run once per prompt, in the rollout and in the update; the update's backward pass has
two products for each of the forward's. Each product with a weight is timed on the step's own shape:
all tokens at once in the update and for the prompts, one token of each completion when decoding.
Attention's products are counted at the update's rate, those of tokens that do not see each other
not at all. `remat_step_s` has the forward of the update once more, as `remat=full` does, the
default of rft_jax. One JSON object.
"""

import json
import statistics
import time
from pathlib import Path

import common
import jax
import jax.numpy as jnp

ROUNDS = 5


def main() -> None:
    """Prints FLOPs, rates and the floor."""
    args = common.parse_args(__doc__.split("\n")[0])
    c = json.loads((Path(args.checkpoint) / "config.json").read_text())
    width, inner, layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    keys = c["num_key_value_heads"] * width // c["num_attention_heads"]
    per_layer = [(width, width)] * 2 + [(width, keys)] * 2 + [(width, inner)] * 2 + [(inner, width)]
    products = per_layer * layers
    head = (width, c["vocab_size"])
    N, B, P, T = args.prompts * args.group, args.prompts, args.prompt, args.completion
    passes = [  # tokens at once, times, products: prefill, decoding, update
        (B * P, 1, products),
        (N, T, [*products, head]),
        (B * P + N * T, 3, products),
        (N * T, 3, [head]),
    ]
    seen = B * P * (P + 1) / 2 + N * T * (P + (T + 1) / 2)  # pairs of a token and a key
    attention_flops = 4 * width * layers * seen * 4  # rollout once, update three times
    shapes = {(tokens, shape) for tokens, _, shapes in passes for shape in shapes}
    seconds = {at: _seconds(*at) for at in shapes}
    flops = {at: 2 * at[0] * at[1][0] * at[1][1] for at in shapes}

    def total(of: dict, chosen: list) -> float:
        return sum(times * of[tokens, s] for tokens, times, each in chosen for s in each)

    rates = {
        name: total(flops, chosen) / total(seconds, chosen)
        for name, chosen in {"decode": passes[1:2], "update": passes[2:]}.items()
    }
    floor_s = total(seconds, passes) + attention_flops / rates["update"]
    again_s = total(seconds, passes[2:]) / 3 + attention_flops / 4 / rates["update"]
    result = {
        "name": "floor",
        "flops": total(flops, passes) + attention_flops,
        **{f"{name}_flops_per_s": rate for name, rate in rates.items()},
        "step_s": round(floor_s, 4),
        "remat_step_s": round(floor_s + again_s, 4),
        "completions_per_s": round(N / floor_s, 3),
    }
    print(json.dumps(result))


def _seconds(tokens: int, shape: tuple[int, int]) -> float:
    """Median seconds of [tokens, D] @ [D, F] in float32."""
    x, w = jnp.ones((tokens, shape[0])), jnp.ones(shape)
    multiply = jax.jit(jnp.matmul)
    multiply(x, w).block_until_ready()
    repeats = max(1, int(2e9 / (2 * tokens * shape[0] * shape[1])))
    measured = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(repeats):
            result = multiply(x, w)
        result.block_until_ready()
        measured.append((time.perf_counter() - began) / repeats)
    return statistics.median(measured)


if __name__ == "__main__":
    main()
