"""`rft plan`: what a step takes of TPUs or GPUs, without them."""

import argparse
import json
import os

from rft_jax.commands.arguments import Subparsers, add_config
from rft_jax.config.load import load_config
from rft_jax.utils.errors import InputError


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "plan", help="what a step takes of TPUs or GPUs, without them: bytes, seconds, collectives",
        usage="rft plan --config FILE --topology v5e:4x4 [--search] [--config.SETTING=VALUE ...]",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument(
        "--topology", required=True, action="append",
        help="GENERATION:SHAPE, such as v5e:4x4, v5p:2x2x2 or h100:8; with --search several, or a "
        "generation alone for all of its slices",
    )  # fmt: skip
    parser.add_argument("--search", action="store_true", help="try all meshes and micro-batches")
    parser.add_argument(
        "--compile", type=int, default=2, metavar="N", help="of --search; default: the 2 best"
    )
    parser.add_argument("--estimate", action="store_true", help="closed form, compile nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Plans, and prints a JSON object a plan."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported; a TPU that is here stays free
    from rft_jax import plan

    config = load_config(options.config, options.overrides)
    names = options.topology
    if not options.search:
        if len(names) > 1:
            raise InputError("--topology: several are for --search; name one")
        compute = plan.estimate_plan if options.estimate else plan.compile_plan
        found = compute(config, plan.parse_topology(names[0]))
        plan.show_plan(found)
        print(json.dumps(found.to_json()))
        return
    slices = [
        topology
        for name in names
        for topology in (
            plan.topologies(plan.CHIPS[name]) if name in plan.CHIPS else [plan.parse_topology(name)]
        )
    ]
    ranking = plan.search(config, slices, 0 if options.estimate else options.compile)
    plan.show_ranking("By time, estimated", ranking.by_time[:10])
    plan.show_ranking("By chips x time, estimated", ranking.by_chip_seconds[:10])
    for found in ranking.by_time:
        print(json.dumps(found.to_json()))
