"""Ahead-of-time compilation of a step for devices that are not there.

The two halves of the step, rollout and update, are compiled with abstract arguments that have the
shardings of `rft train`; nothing is allocated. The grader and the detokenizer between them are left
out: they need the run's data, and are small beside a language model.
"""

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.experimental import topologies
from jax.sharding import Mesh

from rft_jax.config import ModelConfig, RLStage
from rft_jax.config.presets import policy_loss
from rft_jax.learn.objective import Learner
from rft_jax.learn.optimizer import TrainState, init_state, make_optimizer, weights
from rft_jax.learn.policy import policy_update
from rft_jax.models import Model, build_model
from rft_jax.parallel import AnyMesh, batch_parts, batch_sharding, replicated
from rft_jax.plan.chips import GIB, Topology
from rft_jax.plan.hlo import Loop, Program
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys
from rft_jax.runs.checkpoint import abstract
from rft_jax.step import Sampler, make_learner, rollout_params, sample, train_shardings
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import Device

PAD_ID, END_OF_THINK_ID, STOP_ID = 0, 1, 2


@dataclass(frozen=True)
class Part:
    """A compiled half of the step, on one device.

    Attributes:
        name: `rollout` or `update`.
        temporary_bytes: What it needs besides its arguments.
        loops: What it does, from `hlo.Program.loops`; empty if the compiler refused it for its
            temporary bytes alone.
        compile_seconds: What compilation took on this machine.
    """

    name: str
    temporary_bytes: float
    loops: tuple[Loop, ...]
    compile_seconds: float


def devices(topology: Topology) -> Sequence[Device]:
    """The devices of a slice, for compilation only.

    Raises:
        InputError: Their compiler is not installed, or knows no such slice.
    """
    chip = topology.chip
    if chip.platform == "cpu":
        return jax.devices("cpu")[:1]
    if chip.platform == "gpu":
        if not is_installed("jax_plugins.xla_cuda13"):
            raise InputError(_NO_COMPILER.format("GPU", "cuda"))
        shape = f"1x1x{topology.chips}"  # parts, hosts of each, GPUs of each
        options: dict[str, Any] = {"target_config": chip.config, "topology": shape}
        return _described("cuda", topology, "", options)
    if not is_installed("libtpu") and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError(_NO_COMPILER.format("TPU", "tpu"))
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU's metadata server here
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nobody else's TPU is taken
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # any; or it looks for its own
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    options = {"chip_config_name": chip.config}
    if topology.chips < 4:
        options["chips_per_host_bounds"] = [*topology.shape, 1, 1][:3]
    return _described("tpu", topology, topology.name, options)


def is_installed(module: str) -> bool:
    """Whether a module could be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


_NO_COMPILER = (
    "compiling for a {} needs its compiler; pip install 'rft_jax[{}]', or ask for an estimate, "
    "which compiles nothing"
)


def _described(
    platform: str, topology: Topology, name: str, options: Mapping[str, Any]
) -> Sequence[Device]:
    try:
        found = topologies.get_topology_desc(name, platform=platform, **options)
    except NotImplementedError:
        raise InputError(
            f"topology {topology.name!r}: JAX began without its compiler; where there is no such "
            "device, set JAX_PLATFORMS=cpu"
        ) from None
    except Exception as error:  # jaxlib's, of one of several kinds
        sentence = str(error).splitlines()[0]
        raise InputError(f"topology {topology.name!r}: {sentence}; use another") from None
    return found.devices


@dataclass(frozen=True)
class PlannedStep:
    """What a step's halves are compiled from; hashable.

    Attributes:
        model: The policy, as on a platform.
        optimizer: The stage's.
        stage: The stage that is planned.
        mesh: It may be without devices.
    """

    model: Model
    optimizer: optax.GradientTransformation
    stage: RLStage
    mesh: AnyMesh

    @property
    def sampler(self) -> Sampler:
        """What samples; its token ids are any, as the program is the same."""
        rollout = self.stage.rollout
        mask = LogitMask((PAD_ID,), END_OF_THINK_ID, rollout.thinking_tokens)
        return Sampler(self.model, mask, rollout, (STOP_ID,), PAD_ID, self.mesh)

    @property
    def learner(self) -> Learner:
        """What learns."""
        return make_learner(self.sampler, self.optimizer, policy_loss(self.stage))


def plan_step(
    config: ModelConfig,
    vocab_size: int,
    stage: RLStage,
    mesh: AnyMesh,
    platform: str,
) -> PlannedStep:
    """The step of a stage, as on a platform."""
    updates, lora = stage.policy_loss.epochs_per_batch, config.lora is not None
    model = build_model(config, vocab_size, batch_sharding(mesh), platform)
    return PlannedStep(
        model=dataclasses.replace(model, float32_head=policy_loss(stage).float32_head),
        optimizer=make_optimizer(stage.optimizer, stage.steps, updates, lora=lora),
        stage=stage,
        mesh=mesh,
    )


def abstract_state(step: PlannedStep) -> TrainState:
    """The state's shapes and shardings."""
    learner = step.learner
    shape = jax.eval_shape(
        lambda: init_state(
            learner.model.init(jax.random.key(0)),
            learner.optimizer,
            0,
            reference=learner.needs_reference,
        )
    )
    return abstract(shape, train_shardings(step.mesh, learner))


def compile_rollout(step: PlannedStep) -> Part:
    """Compiles sampling, from the copy of the weights to the finished completions."""
    return _compile(step, "rollout", _sample, (abstract_state(step), *_batch(step)))


def compile_update(step: PlannedStep) -> Part:
    """Compiles the update of a batch of completions."""
    state, stage = abstract_state(step), step.stage
    prompts, *ids = _batch(step)
    sharding, shape = batch_sharding(step.mesh), (stage.batch_size, stage.rollout.group_size)
    completions = jax.eval_shape(lambda *batch: _sample(step, *batch), state, prompts, *ids)
    completions = abstract(completions, jax.tree.map(lambda _: sharding, completions))
    arguments = (
        state,
        prompts,
        completions,
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding),
        jax.ShapeDtypeStruct(shape, bool, sharding=sharding),
    )
    out = train_shardings(step.mesh, step.learner), replicated(step.mesh)
    return _compile(step, "update", _update, arguments, donate_argnums=0, out_shardings=out)


def _batch(step: PlannedStep) -> tuple[Prompts, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    stage, sharding = step.stage, batch_sharding(step.mesh)

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)

    B = stage.batch_size
    prompts = Prompts._make([integers(B, stage.rollout.max_prompt_tokens), integers(B)])
    return prompts, integers(B), integers(B)


def _sample(
    step: PlannedStep, state: TrainState, prompts: Prompts, prompt_id_B: Array, draw_B: Array
) -> Rollout:
    group = step.sampler.config.group_size
    return sample(
        step.sampler,
        rollout_params(step.sampler, weights(step.model, state)),
        prompts,
        completion_keys(state.seed, state.step, prompt_id_B, draw_B, group),
    )


def _update(
    step: PlannedStep,
    state: TrainState,
    prompts: Prompts,
    completions: Rollout,
    advantage_BG: Array,
    valid_BG: Array,
) -> tuple[TrainState, dict[str, Array]]:
    params = None
    if step.learner.config.score_centering:
        params = rollout_params(step.sampler, weights(step.model, state))
    batch = prompts, completions, advantage_BG, valid_BG
    return policy_update(step.learner, state, *batch, params)


def _compile(
    step: PlannedStep, name: str, function: Callable, arguments: tuple, **options: Any
) -> Part:
    def named(*args: Any) -> Any:
        return function(step, *args)

    named.__name__ = name
    began = time.perf_counter()
    try:
        compiled = jax.jit(named, **options).lower(*arguments).compile(_options(step))
    except jax.errors.JaxRuntimeError as error:
        if (needed := _refused_bytes(str(error))) is None:
            raise
        return Part(name, needed, (), time.perf_counter() - began)
    seconds = time.perf_counter() - began
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None, "XLA did not keep what it compiled"
    # Not `temp_size_in_bytes`, which counts more than is ever alive at once.
    temporary = memory.peak_memory_in_bytes - memory.argument_size_in_bytes
    # Of unknown number are only the trips over packed rows, and those that refill slots.
    unknown_trips = _packed_trips(step) if name == "update" else 1
    loops = Program(text).loops(unknown_trips)
    return Part(name, temporary, tuple(loops), seconds)


def _options(step: PlannedStep) -> dict[str, str | bool]:
    """The compiler's. With gathers on a v5p's sparse cores libtpu 0.0.42 cannot print a program."""
    assert isinstance(step.mesh, Mesh)  # only what has devices is compiled
    platform = step.mesh.devices.flat[0].platform
    return {"xla_tpu_offload_gather_to_sparsecore": False} if platform == "tpu" else {}


def _refused_bytes(message: str) -> float | None:
    """The temporary bytes for which the compiler refused a program; None: it had other reasons."""
    found = re.search(r"HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM", message)
    return float(found[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[found[2]] if found else None


def _packed_trips(step: PlannedStep) -> int:
    """Trips of the loop over packed rows if every completion is as long as can be."""
    stage, rows = step.stage, step.stage.policy_loss.pack_rows
    if not rows:
        return 1
    return -(-stage.batch_size * stage.rollout.group_size // (batch_parts(step.mesh) * rows))
