"""The step of distillation: rollout, the teacher's distributions and update as one pure function.

    step = compile_distill_step(program, teacher_params)
    state, metrics = step(state, batch)

`state` is donated. The teacher reads what the student has written within the same program; its
weights are an argument of it, as those of a judge on the device are, or a part of the state.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import optax
from jax import Array

from rft_jax.config import DistillationStage
from rft_jax.grammars import GrammarTables
from rft_jax.learn.distillation import Distiller, distill
from rft_jax.learn.optimizer import TrainState, averaged_weights, state_shardings, weights
from rft_jax.models import Model, Params
from rft_jax.parallel import AnyMesh, batch_sharding, replicated
from rft_jax.rollout import Prompts, completion_keys
from rft_jax.step import Sampler, make_sampler, rollout_params, sample, with_grammar
from rft_jax.step_metrics import completion_metrics
from rft_jax.tokenizers import Tokenizer


class DistillBatch(NamedTuple):
    """B prompts, as the student reads them and as the teacher does."""

    prompts: Prompts
    teacher_prompts: Prompts
    prompt_id_B: Array  # int32, row in the data set
    draw_B: Array  # int32, how often the row was drawn before


Metrics = dict[str, Array]
DistillStep = Callable[[TrainState, DistillBatch], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class DistillProgram:
    """A step of distillation: what samples and what learns.

    Attributes:
        sampler: The student's.
        distiller: See there.
    """

    sampler: Sampler
    distiller: Distiller


def make_distill_program(
    model: Model,
    teacher: Model,
    optimizer: optax.GradientTransformation,
    tokenizer: Tokenizer,
    stage: DistillationStage,
    mesh: AnyMesh,
) -> DistillProgram:
    """Collects what the step needs of a tokenizer and a stage."""
    sampler = make_sampler(model, tokenizer, stage.rollout, mesh)
    return DistillProgram(sampler, Distiller(model, teacher, optimizer, sampler.mask, stage))


def compile_distill_step(program: DistillProgram, teacher_params: Params | None) -> DistillStep:
    """The jitted step over the program's mesh.

    Args:
        program: See there.
        teacher_params: The teacher's weights; None: it is the average that the optimizer keeps of
            the student (`learn.optimizer.with_average`).
    """
    mesh, distiller = program.sampler.mesh, program.distiller
    state_sharding = state_shardings(mesh, distiller.model, distiller.optimizer)

    def step(
        grammar: GrammarTables | None,
        teacher_params: Params | None,
        state: TrainState,
        batch: DistillBatch,
    ) -> tuple[TrainState, Metrics]:
        sampler = with_grammar(program.sampler, grammar)
        whole = DistillProgram(sampler, replace(distiller, mask=sampler.mask))
        if teacher_params is None:
            teacher_params = averaged_weights(distiller.model, state)
        return distill_step(whole, teacher_params, state, batch)

    compiled = jax.jit(
        step,
        in_shardings=(None, None, state_sharding, batch_sharding(mesh)),
        out_shardings=(state_sharding, replicated(mesh)),
        donate_argnums=2,
    )
    # Arguments of the program and not constants in it, which would be a second copy.
    return functools.partial(compiled, program.sampler.mask.grammar, teacher_params)


def distill_step(
    program: DistillProgram, teacher_params: Params, state: TrainState, batch: DistillBatch
) -> tuple[TrainState, Metrics]:
    """Samples from the student and moves it towards the teacher; a pure function of arrays."""
    sampler, distiller = program.sampler, program.distiller
    keys_BG = completion_keys(
        state.seed, state.step, batch.prompt_id_B, batch.draw_B, sampler.config.group_size
    )
    params = rollout_params(sampler, weights(distiller.model, state))
    completions = sample(sampler, params, batch.prompts, keys_BG)
    state, metrics = distill(
        distiller, state, teacher_params, batch.prompts, batch.teacher_prompts, completions
    )
    state = state._replace(step=state.step + 1, cursor=state.cursor + len(batch.draw_B))
    return state, metrics | completion_metrics(completions)
