"""What the attention kernel saves of a TPU's memory traffic, by compiled programs, without a TPU.

    python experiments/benchmarks/attention_kernel.py [--topology v5e:2x2]

Compiles (needs `pip install 'rft_jax[tpu]'`) forward and backward pass of one partial, with the
kernel and without, for one chip, and prints a JSON line for each pair of lengths: bytes that cross
HBM, and temporary bytes.
"""

import argparse
import functools
import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from rft_jax.models.attention import partial_attention  # noqa: E402
from rft_jax.models.attention_kernel import kernel_attention  # noqa: E402
from rft_jax.models.sight import Sight  # noqa: E402
from rft_jax.models.tiled_attention_kernel import tiled_attention  # noqa: E402
from rft_jax.plan import parse_topology  # noqa: E402
from rft_jax.plan.aot import devices  # noqa: E402
from rft_jax.plan.hlo import Program  # noqa: E402

R, K, M, Q = 4, 8, 2, 128  # four rows of Qwen3-0.6B's heads
LENGTHS = ((512, 512), (4096, 512), (256, 2048))  # queries, keys
LONG = ((8192, 8192), (16384, 16384))  # the plain version's scores would fit on no chip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    topology = parser.parse_args().topology
    place = jax.sharding.SingleDeviceSharding(devices(parse_topology(topology))[0])
    for T, U in LENGTHS:
        line = {"topology": topology, "queries": T, "keys": U}
        for name, attention in (("kernel", kernel_attention), ("plain", plain)):
            line[name] = measure(functools.partial(attention, scale=Q**-0.5), T, U, place)
        print(json.dumps(line))
    for T, U in LONG:
        attention = functools.partial(tiled_attention, scale=Q**-0.5)
        line = {"topology": topology, "queries": T, "keys": U}
        print(json.dumps(line | {"kernel": measure(attention, T, U, place)}))


def plain(q, k, v, sight, scale: float):
    """With all scores."""
    return partial_attention(q, k, v, sight.mask(), scale=scale)


def measure(attention, T: int, U: int, place) -> dict[str, int]:
    """Bytes of the compiled value and gradient of a function of the partial."""

    def loss(q, k, v, sight):
        partial = attention(q, k, v, sight)
        return (partial.out_RKMTQ**2).sum() + partial.lse_RKMT.sum()

    shapes = ((R, K, M, T, Q), (R, K, U, Q), (R, K, U, Q))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes]
    vectors = (jax.ShapeDtypeStruct((R, n), jnp.int32, sharding=place) for n in (T, T, U, U, U))
    sight = Sight(*vectors)
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arguments, sight).compile()
    loops = Program(compiled.as_text()).loops()
    return {
        "hbm_bytes": round(sum(loop.trips * loop.cost.hbm_bytes for loop in loops)),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


if __name__ == "__main__":
    main()
