"""`rft plan`: what a step takes of TPUs, GPUs or this CPU, without them."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rft_jax.commands.arguments import Subparsers, add_config
from rft_jax.commands.output import on_terminal, print_json
from rft_jax.config.load import load_config
from rft_jax.utils.errors import InputError, RunFailed

if TYPE_CHECKING:
    from rft_jax.config import Config
    from rft_jax.plan import Plan, Topology

_COMPILED = 2  # of a search


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "plan", help="what a step takes of TPUs or GPUs, without them: bytes, seconds, collectives",
        usage="rft plan --config FILE [--topology v5e:4x4] [--search] [--config.SETTING=VALUE ...]",
        epilog="Exit status: 1 if nothing fits, unless --no-fail is given.",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument(
        "--topology", action="append", default=[],
        help="GENERATION:SHAPE, such as v5e:4x4, v5p:2x2x2, h100:8, rtx4090:1 or cpu; with "
        "--search several, or a generation alone for all of its slices; default: what fits where, "
        "an estimate of the smallest slice of each generation",
    )  # fmt: skip
    parser.add_argument("--search", action="store_true", help="try all meshes and micro-batches")
    parser.add_argument(
        "--compile", type=int, metavar="N",
        help=f"of --search: so many; default: the {_COMPILED} best",
    )  # fmt: skip
    parser.add_argument("--estimate", action="store_true", help="closed form, compile nothing")
    parser.add_argument(
        "--no-fail", action="store_true", help="exit status 0 although nothing fits"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Plans, and prints the plans.

    Raises:
        RunFailed: Nothing fits.
    """
    _check(options)
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported; a TPU that is here stays free
    from rft_jax import plan

    config = load_config(options.config, options.overrides)
    try:
        if not options.topology:
            plans = _where(config)
        elif options.search:
            plans = _search(config, options)
        else:
            compute = plan.estimate_plan if options.estimate else plan.compile_plan
            plans = [compute(config, plan.parse_topology(options.topology[0]))]
            if on_terminal():
                plan.show_plan(plans[0])
    except plan.NothingFits as error:
        if options.no_fail:
            print(error, file=sys.stderr)
            return
        raise RunFailed(str(error)) from None
    if not on_terminal():
        for found in plans:
            print_json(found.to_json())
    if not (options.no_fail or any(found.fits for found in plans)):
        raise RunFailed(_remedy(plans))


def _check(options: argparse.Namespace) -> None:
    """Refuses arguments that contradict each other."""
    if options.compile is not None:
        if options.compile < 1:
            raise InputError(
                f"--compile: must be at least 1, got {options.compile}; give --estimate for none"
            )
        if options.estimate:
            raise InputError("--compile and --estimate: one compiles, one does not; leave one out")
        if not options.search:
            raise InputError("--compile: is for --search; one topology is compiled as it is")
    if options.search and not options.topology:
        raise InputError("--search: needs --topology, such as --topology v5e; or leave it out")
    if len(options.topology) > 1 and not options.search:
        raise InputError("--topology: several are for --search; name one")


def _where(config: "Config") -> list["Plan"]:
    from rft_jax import plan

    found = [plan.smallest(config, chip) for chip in plan.CHIPS.values()]
    plans = [one for one in found if one is not None]
    if on_terminal():
        plan.show_where(plans)
    return plans


def _search(config: "Config", options: argparse.Namespace) -> list["Plan"]:
    from rft_jax import plan

    slices: list[Topology] = []
    for name in options.topology:
        one = name not in plan.CHIPS
        slices += [plan.parse_topology(name)] if one else plan.topologies(plan.CHIPS[name])
    compiled = 0 if options.estimate else options.compile or _COMPILED
    ranking = plan.search(config, slices, compiled)
    if on_terminal():
        plan.show_ranking("By time, estimated", ranking.by_time[:10])
        plan.show_ranking("By chips x time, estimated", ranking.by_chip_seconds[:10])
    return ranking.by_time


def _remedy(plans: Sequence["Plan"]) -> str:
    named = plans[0].topology.name if len(plans) == 1 else "the chips that are known"
    return (
        f"does not fit {named}; name a larger slice, or use adapters, "
        "policy_loss.gradient_accumulation or rollout.int8_weights"
    )
