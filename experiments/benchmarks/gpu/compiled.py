"""What kernels for attention and unrolled decoding save of a GPU's memory traffic, without a GPU.

    python experiments/benchmarks/gpu/compiled.py [--topology h100:1]

Compiles (needs `pip install 'rft_jax[cuda]'`) the rollout and the update of `ours.py` for a GPU
that is not here, as they are and with what XLA makes by itself, and prints a JSON line each: GB
that cross its memory, TFLOP, kernels, GB of temporaries, and the roofline's seconds.
"""

import argparse
import dataclasses
import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"

from ours import add_sizes, make_stage  # noqa: E402

from rft_jax.config import MeshConfig  # noqa: E402
from rft_jax.parallel import make_mesh  # noqa: E402
from rft_jax.plan import parse_topology  # noqa: E402
from rft_jax.plan.aot import compile_rollout, compile_update, devices, make_program  # noqa: E402
from rft_jax.plan.known_models import SHAPES  # noqa: E402
from rft_jax.plan.roofline import loop_seconds  # noqa: E402

CHOICES = {
    "xla": {"attention": "xla", "decode_attention": "xla", "decode_layers": "scanned"},
    "xla, unrolled": {"attention": "xla", "decode_attention": "xla", "decode_layers": "unrolled"},
    "ours": {"attention": "auto", "decode_attention": "auto", "decode_layers": "auto"},
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="h100:1")
    parser.add_argument("--models", nargs="+", default=["Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"])
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 256], help="completions")
    add_sizes(parser)
    options = parser.parse_args()
    topology = parse_topology(options.topology)
    mesh = make_mesh(MeshConfig(), devices(topology))
    for model in options.models:
        for batch in options.batch:
            for name, choices in CHOICES.items():
                config, vocab_size = SHAPES[model]
                config = dataclasses.replace(config, remat=options.remat, **choices)
                stage = make_stage(options, batch)
                program = make_program(config, vocab_size, stage, mesh, topology.chip.platform)
                line = {"topology": topology.name, "model": model, "batch": batch, "by": name}
                for part in (compile_rollout(program), compile_update(program)):
                    costs = [(loop.trips, loop.cost) for loop in part.loops]
                    line[part.name] = {
                        "GB": round(sum(n * cost.hbm_bytes for n, cost in costs) / 1e9, 1),
                        "TFLOP": round(sum(n * cost.flops for n, cost in costs) / 1e12, 1),
                        "kernels": round(sum(n * cost.launches for n, cost in costs)),
                        "temporary_GB": round(part.temporary_bytes / 1e9, 2),
                        "estimated_s": round(loop_seconds(topology.chip, part.loops), 3),
                    }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
