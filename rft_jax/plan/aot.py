"""Ahead-of-time compilation of a step for devices that are not there.

The two halves of the step, rollout and update, are compiled with abstract arguments that have the
shardings of `rft train`; nothing is allocated. The grader and the detokenizer between them are left
out: they need the run's data, and are small beside a language model.
"""

import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from rft_jax.config import ModelConfig, RLStage
from rft_jax.learn.optimizer import TrainState, init_state, make_optimizer, weights
from rft_jax.learn.policy import policy_update
from rft_jax.models import build_model
from rft_jax.parallel import batch_parts, batch_sharding, replicated
from rft_jax.plan.chips import GIB, Topology
from rft_jax.plan.hlo import Loop
from rft_jax.plan.hlo import Program as CompiledProgram
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys, rollout
from rft_jax.runs.checkpoint import abstract
from rft_jax.step import Program, needs_reference, rollout_params, train_shardings
from rft_jax.utils.errors import InputError

PAD_ID, END_OF_THINK_ID, STOP_ID = 0, 1, 2  # any do: the program is the same


@dataclass(frozen=True)
class Part:
    """A compiled half of the step, on one device.

    Attributes:
        name: `rollout` or `update`.
        temporary_bytes: What it needs besides its arguments.
        loops: What it does, from `hlo.Program.loops`; empty if the compiler refused it for its
            temporary bytes alone.
        compile_seconds: Of this machine.
    """

    name: str
    temporary_bytes: float
    loops: tuple[Loop, ...]
    compile_seconds: float


def devices(topology: Topology) -> Sequence[jax.Device]:
    """The devices of a slice, for compilation only.

    Raises:
        InputError: their compiler is not installed, or knows no such slice.
    """
    chip = topology.chip
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
    "compiling for a {} needs its compiler; pip install 'rft_jax[{}]', or leave compilation out "
    "with --estimate"
)


def _described(
    platform: str, topology: Topology, name: str, options: dict[str, Any]
) -> Sequence[jax.Device]:
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


def make_program(
    config: ModelConfig, vocab_size: int, stage: RLStage, mesh: Mesh, platform: str
) -> Program:
    """The step's static parts, as on a platform, without a tokenizer and a grader."""
    return Program(
        model=build_model(config, vocab_size, batch_sharding(mesh), platform),
        optimizer=make_optimizer(
            stage.optimizer,
            stage.steps,
            stage.policy_loss.epochs_per_batch,
            lora=config.lora is not None,
        ),
        grader=None,
        table=None,
        mask=LogitMask((PAD_ID,), END_OF_THINK_ID, stage.rollout.thinking_tokens),
        stop_ids=(STOP_ID,),
        pad_id=PAD_ID,
        answer_separator="",
        stage=stage,
        mesh=mesh,
    )


def abstract_state(program: Program) -> TrainState:
    """The state's shapes and shardings."""
    shape = jax.eval_shape(
        lambda: init_state(
            program.model.init(jax.random.key(0)),
            program.optimizer,
            0,
            reference=needs_reference(program.stage),
        )
    )
    return abstract(shape, train_shardings(program))


def compile_rollout(program: Program) -> Part:
    """Compiles sampling, from the copy of the weights to the finished completions."""
    return _compile(program, "rollout", _sample, (abstract_state(program), *_batch(program)))


def compile_update(program: Program) -> Part:
    """Compiles the update of a batch of completions."""
    state, stage = abstract_state(program), program.stage
    prompts, *ids = _batch(program)
    sharding, shape = batch_sharding(program.mesh), (stage.batch_size, stage.rollout.group_size)
    completions = jax.eval_shape(lambda *batch: _sample(program, *batch), state, prompts, *ids)
    completions = abstract(completions, jax.tree.map(lambda _: sharding, completions))
    arguments = (
        state,
        prompts,
        completions,
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding),
        jax.ShapeDtypeStruct(shape, bool, sharding=sharding),
    )
    places = train_shardings(program), replicated(program.mesh)
    return _compile(program, "update", _update, arguments, donate_argnums=0, out_shardings=places)


def _batch(program: Program) -> tuple[Prompts, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    stage, sharding = program.stage, batch_sharding(program.mesh)

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)

    B = stage.batch_size
    prompts = Prompts(integers(B, stage.rollout.max_prompt_tokens), integers(B))
    return prompts, integers(B), integers(B)


def _sample(
    program: Program, state: TrainState, prompts: Prompts, prompt_id_B: Any, draw_B: Any
) -> Rollout:
    stage = program.stage
    return rollout(
        program.model,
        rollout_params(program, weights(program.model, state)),
        prompts,
        completion_keys(state.seed, state.step, prompt_id_B, draw_B, stage.rollout.group_size),
        program.mask,
        stage.rollout,
        stop_ids=program.stop_ids,
        pad_id=program.pad_id,
    )


def _update(
    program: Program,
    state: TrainState,
    prompts: Prompts,
    completions: Rollout,
    advantage_BG: Any,
    valid_BG: Any,
) -> tuple[TrainState, dict[str, Any]]:
    return policy_update(
        program.model,
        program.optimizer,
        state,
        prompts,
        completions,
        advantage_BG,
        valid_BG,
        program.mask,
        temperature=program.stage.rollout.temperature,
        config=program.stage.policy_loss,
        data_shards=batch_parts(program.mesh),
    )


def _compile(
    program: Program, name: str, function: Callable, arguments: tuple, **options: Any
) -> Part:
    def named(*args: Any) -> Any:
        return function(program, *args)

    named.__name__ = name
    began = time.perf_counter()
    try:
        compiled = jax.jit(named, **options).lower(*arguments).compile(_options(program))
    except jax.errors.JaxRuntimeError as error:
        if (needed := _refused_bytes(str(error))) is None:
            raise
        return Part(name, needed, (), time.perf_counter() - began)
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    # Not `temp_size_in_bytes`, which counts more than is ever alive at once.
    temporary = memory.peak_memory_in_bytes - memory.argument_size_in_bytes
    # Of unknown number are only the trips over packed rows, and those that refill slots.
    unknown_trips = _packed_trips(program) if name == "update" else 1
    loops = CompiledProgram(compiled.as_text()).loops(unknown_trips)
    return Part(name, temporary, tuple(loops), seconds)


def _options(program: Program) -> dict[str, bool]:
    """The compiler's. With gathers on a v5p's sparse cores libtpu 0.0.42 cannot print a program."""
    platform = program.mesh.devices.flat[0].platform
    return {"xla_tpu_offload_gather_to_sparsecore": False} if platform == "tpu" else {}


def _refused_bytes(message: str) -> float | None:
    """The temporary bytes for which the compiler refused a program; None: it had other reasons."""
    found = re.search(r"HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM", message)
    return float(found[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[found[2]] if found else None


def _packed_trips(program: Program) -> int:
    """Trips of the loop over packed rows if every completion is as long as can be."""
    stage, rows = program.stage, program.stage.policy_loss.pack_rows
    if not rows:
        return 1
    return -(-stage.batch_size * stage.rollout.group_size // (batch_parts(program.mesh) * rows))
