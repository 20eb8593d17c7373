"""Whether a step fits into the memory of this machine, by the closed form, before it is compiled.

The closed form follows XLA for TPUs and is an estimate elsewhere: only what exceeds the memory
clearly is refused.
"""

import jax
from jax.sharding import Mesh

from rft_jax.config import ModelConfig, RLStage
from rft_jax.plan.aot import plan_step
from rft_jax.plan.chips import GIB, machine_bytes
from rft_jax.plan.estimate import activation_bytes, count, rollout_bytes, update_bytes
from rft_jax.plan.memory import kept_bytes
from rft_jax.utils.errors import InputError

CLEARLY = 1.25  # times the memory


def check_memory(model: ModelConfig, vocab_size: int, stage: RLStage, mesh: Mesh) -> None:
    """Refuses a step of reinforcement that this machine's devices cannot hold.

    Raises:
        InputError: naming the sizes and the settings.
    """
    needed, there = step_bytes(model, vocab_size, stage, mesh), device_memory()
    if needed > CLEARLY * there:
        section = f"stages.{stage.name}"
        raise InputError(
            f"{section}: a step of {stage.batch_size} prompts with {stage.rollout.group_size} "
            f"samples each takes about {needed / GIB:.1f} GiB of a device that has "
            f"{there / GIB:.1f} GiB; lower {section}.batch_size or "
            f"{section}.rollout.group_size, or raise "
            f"{section}.policy_loss.gradient_accumulation or set {section}.rollout.slots"
        )


def step_bytes(model: ModelConfig, vocab_size: int, stage: RLStage, mesh: Mesh) -> float:
    """The most that a device of the mesh holds at once in a step."""
    program = plan_step(model, vocab_size, stage, mesh, jax.default_backend())
    kept, sizes = kept_bytes(program), count(program)
    update = update_bytes(program, sizes, kept, activation_bytes(program, sizes))
    return kept.state + max(rollout_bytes(program, sizes, kept), update)


def device_memory() -> float:
    """Bytes of a device; a CPU's devices share the machine's memory, or the container's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return machine_bytes() / jax.local_device_count()
