"""A plan: bytes on each device, seconds of a step and collectives, for one slice and mesh."""

import dataclasses
import functools
from dataclasses import dataclass, field

from jax.sharding import AbstractMesh, Mesh

from rft_jax.config import Config, DistillationStage, MeshConfig, ModelConfig, RLStage
from rft_jax.config.presets import resolve
from rft_jax.config.validate import validate, validate_mesh
from rft_jax.models import check_partition
from rft_jax.parallel import LEARNER_RULES, batch_parts, make_mesh
from rft_jax.parallel.mesh import MESH_AXES, mesh_shape
from rft_jax.plan.aot import Part, PlannedStep, compile_rollout, compile_update, devices, plan_step
from rft_jax.plan.chips import Topology
from rft_jax.plan.estimate import estimate
from rft_jax.plan.hlo import Cost
from rft_jax.plan.known_models import model_shape
from rft_jax.plan.memory import Kept, kept_bytes
from rft_jax.plan.roofline import loop_seconds
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject


@dataclass(frozen=True)
class Plan:
    """What a step takes of a slice. Bytes, FLOPs and seconds are those of one device.

    Attributes:
        topology: The slice.
        mesh: Sizes of its axes.
        gradient_accumulation: Micro-batches of the update.
        kept: Bytes that follow from shapes and shardings.
        rollout_bytes: Temporary bytes of the rollout, its weights and cache among them.
        update_bytes: Temporary bytes of the update, its gradient and activations among them.
        activation_bytes: Those of `update_bytes` that layers keep for their gradient.
        rollout_seconds, update_seconds: Estimated times.
        rollout_cost, update_cost: What the two do.
        completion_tokens: Tokens of all completions at full length.
        compile_seconds: By part; empty for a closed-form estimate.
    """

    topology: Topology
    mesh: MeshConfig
    gradient_accumulation: int
    kept: Kept
    rollout_bytes: float
    update_bytes: float
    activation_bytes: float
    rollout_seconds: float
    update_seconds: float
    rollout_cost: Cost
    update_cost: Cost
    completion_tokens: int
    compile_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> float:
        """The most that a device holds at once."""
        return self.kept.state + max(self.rollout_bytes, self.update_bytes)

    @property
    def fits(self) -> bool:
        """Whether a device has that much."""
        return self.peak_bytes <= self.topology.device_hbm_bytes

    @property
    def step_seconds(self) -> float:
        """The estimated time of a step."""
        return self.rollout_seconds + self.update_seconds

    def to_json(self) -> JsonObject:
        """The plan as `rft plan` prints it."""
        kept = self.kept
        update_rest = self.update_bytes - kept.gradient - self.activation_bytes
        rollout_rest = self.rollout_bytes - kept.rollout_weights - kept.cache
        return {
            "topology": self.topology.name,
            "chips": self.topology.chips,
            "mesh": {axis: getattr(self.mesh, axis) for axis in MESH_AXES},
            "gradient_accumulation": self.gradient_accumulation,
            "compiled": bool(self.compile_seconds),
            "fits": self.fits,
            "device_bytes": round(self.topology.device_hbm_bytes),
            "peak_bytes": round(self.peak_bytes),
            "bytes": {
                "weights": round(kept.weights),
                "reference": round(kept.reference),
                "optimizer": round(kept.optimizer),
                "grammar": round(kept.grammar),
                "rollout": {
                    "weights": round(kept.rollout_weights),
                    "kv_cache": round(kept.cache),
                    "temporaries": round(rollout_rest),
                },
                "update": {
                    "gradient": round(kept.gradient),
                    "activations": round(self.activation_bytes),
                    "temporaries": round(update_rest),
                },
            },
            "estimated_step_s": round(self.step_seconds, 3),
            "estimated_rollout_s": round(self.rollout_seconds, 3),
            "estimated_update_s": round(self.update_seconds, 3),
            "estimated_completion_tokens_per_s": round(self.completion_tokens / self.step_seconds),
            "estimated_chip_s": round(self.step_seconds * self.topology.chips, 1),
            "flops": {"rollout": self.rollout_cost.flops, "update": self.update_cost.flops},
            "sent_bytes": {
                "rollout": _rounded(self.rollout_cost.sent_bytes),
                "update": _rounded(self.update_cost.sent_bytes),
            },
            "compile_s": {name: round(value, 1) for name, value in self.compile_seconds.items()},
        }


def plan_stage(config: Config) -> RLStage:
    """The stage that is planned: the run's last reinforcement.

    Raises:
        InputError: There is none, or a stage takes memory that no plan counts.
    """
    validate(config)
    for stage in config.stages:
        if isinstance(stage, DistillationStage):
            raise InputError(
                f"stages.{stage.name}: the weights of its teacher are in no plan; plan the "
                "experiment without that stage"
            )
    if not config.rl_stages:
        raise InputError(f"{config.name}: has no stage of reinforcement to plan; add a RLStage")
    return resolve(config).rl_stages[-1]


def estimate_plan(config: Config, topology: Topology) -> Plan:
    """A plan in closed form, without compilation.

    Raises:
        InputError: The mesh fits neither slice, batch nor model.
    """
    program = abstract_program(config, topology)
    return estimate_program(program, topology, kept_bytes(program))


def compile_plan(config: Config, topology: Topology) -> Plan:
    """A plan out of programs that are compiled for the slice.

    Raises:
        InputError: As `estimate_plan` and `devices`.
    """
    closed = estimate_plan(config, topology)
    stage = plan_stage(config)
    mesh = make_mesh(closed.mesh, devices(topology))
    shape = _shape(config, stage, topology)
    program = _program(*shape, stage, mesh, topology.chip.platform)
    parts = {part.name: part for part in (compile_rollout(program), compile_update(program))}
    for part in parts.values():
        closed = _with_part(closed, part)
    return closed


def abstract_program(config: Config, topology: Topology) -> PlannedStep:
    """The step over a mesh without devices.

    Raises:
        InputError: As `estimate_plan`.
    """
    stage, sizes = plan_stage(config), mesh_shape(config.mesh, topology.devices)
    shape = _shape(config, stage, topology)
    return _abstract_program(*shape, stage, sizes, topology.chip.platform)


def _shape(config: Config, stage: RLStage, topology: Topology) -> tuple[ModelConfig, int]:
    """The stage's model as the chip runs it, and its vocabulary."""
    model, vocab_size = model_shape(config, stage.model)
    if not topology.chip.has_kernels:
        model = dataclasses.replace(model, attention="xla", decode_attention="xla")
    return model, vocab_size


@functools.cache  # a search asks for the same mesh on slices of several generations
def _abstract_program(
    model: ModelConfig,
    vocab_size: int,
    stage: RLStage,
    sizes: tuple[int, ...],
    platform: str,
) -> PlannedStep:
    return _program(model, vocab_size, stage, AbstractMesh(sizes, MESH_AXES), platform)


def estimate_program(program: PlannedStep, topology: Topology, kept: Kept) -> Plan:
    """A plan in closed form.

    Args:
        kept: From `kept_bytes`, which do not depend on the number of micro-batches.
    """
    stage = program.stage
    rollout = stage.rollout
    return Plan(
        topology=topology,
        mesh=MeshConfig(**program.mesh.shape),
        gradient_accumulation=stage.policy_loss.gradient_accumulation,
        kept=kept,
        completion_tokens=stage.batch_size * rollout.group_size * rollout.max_completion_tokens,
        **estimate(program, kept, topology.chip)._asdict(),
    )


def _program(
    model: ModelConfig,
    vocab_size: int,
    stage: RLStage,
    mesh: Mesh | AbstractMesh,
    platform: str,
) -> PlannedStep:
    validate_mesh(stage, batch_parts(mesh))
    program = plan_step(model, vocab_size, stage, mesh, platform)
    check_partition(program.model, mesh, LEARNER_RULES)
    return program


def _with_part(plan: Plan, part: Part) -> Plan:
    """The plan with one half's compiled figures, or the bytes alone of one that was refused."""
    seconds = plan.compile_seconds | {part.name: part.compile_seconds}
    values: JsonObject = {f"{part.name}_bytes": part.temporary_bytes}
    if part.loops:
        cost = Cost()
        for loop in part.loops:
            cost.add(loop.cost, loop.trips)
        values[f"{part.name}_cost"] = cost
        values[f"{part.name}_seconds"] = loop_seconds(plan.topology.chip, part.loops)
    return dataclasses.replace(plan, **values, compile_seconds=seconds)


def _rounded(sent_bytes: dict[str, float]) -> dict[str, int]:
    return {kind: round(sent) for kind, sent in sorted(sent_bytes.items())}
