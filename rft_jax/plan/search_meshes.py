"""Which slice, mesh and number of micro-batches: a closed form prunes, compilation decides."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rft_jax.config import Config, MeshConfig, RLStage
from rft_jax.plan.chips import Chip, Topology, topologies
from rft_jax.plan.memory import kept_bytes
from rft_jax.plan.plan import Plan, abstract_program, compile_plan, estimate_program, plan_stage
from rft_jax.utils.errors import InputError

TOLERANCE = 1.1  # of the closed form's bytes: what it puts that far above a device may still fit


class NothingFits(InputError):
    """No mesh and number of micro-batches fits what was asked for."""


class Ranking(NamedTuple):
    """Plans that fit, the best first."""

    by_time: list[Plan]
    by_chip_seconds: list[Plan]


def search(config: Config, slices: Iterable[Topology], compiled: int) -> Ranking:
    """Ranks meshes on slices.

    Args:
        compiled: How many to compile, half of them the fastest and half the cheapest in closed
            form, and then more until one fits; 0: the closed form is all.

    Raises:
        NothingFits: No mesh fits.
        InputError: Compilation is not possible here.
    """
    slices = list(slices)
    plans = [plan for topology in slices for plan in candidates(config, topology)]
    plans = [p for p in plans if p.peak_bytes <= TOLERANCE * p.topology.device_hbm_bytes]
    by_time, by_cost = rank(plans)
    if compiled:
        plans = []
        for plan in _distinct(_alternate(by_time, by_cost)):
            if len(plans) >= compiled and any(compiled_plan.fits for compiled_plan in plans):
                break
            plans.append(compile_plan(with_plan(config, plan), plan.topology))
    ranking = rank(plan for plan in plans if plan.fits)
    if not ranking.by_time:
        raise NothingFits(
            f"{', '.join(topology.name for topology in slices)}: no mesh and number of "
            "micro-batches divides the batch and fits; name another slice, or use adapters, "
            "policy_loss.gradient_accumulation, rollout.int8_weights or, with experts, "
            "models.NAME.decode_layers=scanned"
        )
    return ranking


def smallest(config: Config, chip: Chip) -> Plan | None:
    """In closed form the fastest plan on the smallest slice of a generation on which one fits.

    Returns:
        Without any that fits, the one that needs least of each device; None if no mesh divides the
        batch.
    """
    least = None
    for topology in topologies(chip):
        plans = list(candidates(config, topology))
        if fitting := [plan for plan in plans if plan.fits]:
            return rank(fitting).by_time[0]
        least = min([*plans, *filter(None, [least])], key=lambda p: p.peak_bytes, default=None)
    return least


def rank(plans: Iterable[Plan]) -> Ranking:
    """Both orders."""
    plans = list(plans)
    return Ranking(
        sorted(plans, key=lambda plan: plan.step_seconds),
        sorted(plans, key=lambda plan: plan.step_seconds * plan.topology.chips),
    )


def candidates(config: Config, topology: Topology) -> Iterator[Plan]:
    """Closed-form plans of all meshes on a slice, each with the fewest micro-batches that fit."""
    whole = _with_micro_batches(config, 1)
    for mesh in meshes(topology.devices):
        try:
            program = abstract_program(dataclasses.replace(whole, mesh=mesh), topology)
        except InputError:  # the mesh divides neither batch nor model
            continue
        kept = kept_bytes(program)
        packed = bool(program.stage.policy_loss.pack_rows)  # which are the parts themselves
        for parts in [1] if packed else gradient_accumulation(program.stage, mesh):
            loss = dataclasses.replace(program.stage.policy_loss, gradient_accumulation=parts)
            stage = dataclasses.replace(program.stage, policy_loss=loss)
            plan = estimate_program(dataclasses.replace(program, stage=stage), topology, kept)
            if plan.fits:
                break
        yield plan


def meshes(devices: int) -> Iterator[MeshConfig]:
    """All ways to arrange so many devices."""
    for data in _divisors(devices):
        for fsdp in _divisors(devices // data):
            yield MeshConfig(data, fsdp, devices // data // fsdp)


def gradient_accumulation(stage: RLStage, mesh: MeshConfig) -> list[int]:
    """Numbers of micro-batches, from 1: of each device's prompts, then of one prompt's samples."""
    own = stage.batch_size // (mesh.data * mesh.fsdp)
    return [*_divisors(own), *(own * n for n in _divisors(stage.rollout.group_size)[1:])]


def with_plan(config: Config, plan: Plan) -> Config:
    """The configuration with a plan's mesh, and with its micro-batches in the planned stage."""
    return dataclasses.replace(
        _with_micro_batches(config, plan.gradient_accumulation), mesh=plan.mesh
    )


def _with_micro_batches(config: Config, parts: int) -> Config:
    planned = plan_stage(config).name
    stages = list(config.stages)
    for n, stage in enumerate(stages):
        if isinstance(stage, RLStage) and stage.name == planned:
            loss = dataclasses.replace(stage.policy_loss, gradient_accumulation=parts)
            stages[n] = dataclasses.replace(stage, policy_loss=loss)
    return dataclasses.replace(config, stages=tuple(stages))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _distinct(plans: Iterable[Plan]) -> list[Plan]:
    return list({id(plan): plan for plan in plans}.values())


def _alternate(*lists: list[Plan]) -> Iterator[Plan]:
    for plans in zip(*lists, strict=True):
        yield from plans
