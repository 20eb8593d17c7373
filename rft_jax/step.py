"""The RFT step: rollout, detokenize, grade, advantages and update as one pure function.

    step = compile_step(program)
    state, output = step(state, batch)

`state` is donated; nothing leaves the device in between. Read `output` a step late: while the
device works on step k, the host handles the metrics of step k - 1. `host_step` cuts the same
functions in two for graders that run on the host. With dynamic sampling (`make_dynamic_step`) the
step takes several batches.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from rft_jax.config import RLStage, RolloutConfig
from rft_jax.graders import ANSWER, Grade, Grader, Sample, Score, Tokens
from rft_jax.grammars import GrammarTables, grammar_of
from rft_jax.learn.advantages import advantages, unequal_rewards
from rft_jax.learn.dynamic_sampling import sample_groups
from rft_jax.learn.optimizer import TrainState, state_shardings, weights
from rft_jax.learn.policy import policy_update
from rft_jax.models import Model, Params, base, merge, quantize_weights, quantized_axes
from rft_jax.parallel import (
    ROLLOUT_RULES,
    batch_parts,
    batch_sharding,
    constrain,
    replicated,
    shardings,
)
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys, rollout
from rft_jax.strings import ByteString, drop_leading
from rft_jax.tokenizers import DetokenizeTable, Tokenizer, detokenize

JudgeParams = Mapping[str, Params]  # weights of the judges on the device, by model


class Batch(NamedTuple):
    """B prompts with what the grader needs of their items."""

    prompts: Prompts
    prompt_id_B: Array  # int32, row in the data set
    draw_B: Array  # int32, how often the row was drawn before
    item_fields: Any  # tree of arrays with leading axis B, from `Grader.encode_items`


class Completed(NamedTuple):
    """Completions with the text of their answers, everything with leading axes [B, G]."""

    rollout: Rollout
    text: ByteString  # [B, G, L]
    overflow_BG: Array  # bool, the text was longer than L bytes


class Samples(NamedTuple):
    """Graded completions of B prompts, everything else with leading axes [B, G]."""

    prompt_id_B: Array
    completed: Completed
    grade: Grade
    advantage_BG: Array


class StepOutput(NamedTuple):
    """What a step shows of itself."""

    metrics: dict[str, Array]  # scalars
    samples: Samples


class Graded(NamedTuple):
    """What the update needs of B prompts."""

    prompts: Prompts
    prompt_id_B: Array
    completed: Completed
    grade: Grade


Step = Callable[[JudgeParams, TrainState, Any], tuple[TrainState, StepOutput]]


@dataclass(frozen=True)
class Program:
    """The static parts of a reinforcement stage."""

    model: Model
    optimizer: optax.GradientTransformation
    grader: Grader
    table: DetokenizeTable
    mask: LogitMask
    stop_ids: tuple[int, ...]
    pad_id: int
    answer_separator: str
    stage: RLStage
    mesh: Mesh


def make_program(
    model: Model,
    optimizer: optax.GradientTransformation,
    grader: Grader,
    tokenizer: Tokenizer,
    stage: RLStage,
    mesh: Mesh,
) -> Program:
    """Collects what the step needs of a tokenizer and a stage."""
    return Program(
        model=model,
        optimizer=optimizer,
        grader=grader,
        table=tokenizer.piece_table(),
        mask=logit_mask(tokenizer, stage.rollout, mesh),
        stop_ids=tokenizer.stop_ids,
        pad_id=tokenizer.pad_id,
        answer_separator=tokenizer.answer_separator,
        stage=stage,
        mesh=mesh,
    )


def logit_mask(tokenizer: Tokenizer, config: RolloutConfig, mesh: Mesh) -> LogitMask:
    """The masks of a tokenizer's format, and of the answers'.

    Args:
        mesh: Every device of it gets the grammar's tables.

    Raises:
        InputError: See `grammars.grammar_of`.
    """
    return LogitMask(
        tokenizer.forbidden_ids,
        tokenizer.end_of_think_id,
        config.thinking_tokens,
        jax.device_put(grammar_of(config, tokenizer), replicated(mesh)),
        config.max_completion_tokens,
    )


def with_grammar(program: Program, grammar: GrammarTables | None) -> Program:
    """The program with the tables as arguments of a jitted function, not constants in it."""
    return replace(program, mask=replace(program.mask, grammar=grammar))


def make_step(program: Program) -> Step:
    """The step as a pure function of arrays; see `compile_step` for the jitted one."""

    def step(
        judge_params: JudgeParams, state: TrainState, batch: Batch
    ) -> tuple[TrainState, StepOutput]:
        keys_BG = step_keys(program, state, batch)
        params = rollout_params(program, weights(program.model, state))
        completed = complete(program, params, batch, keys_BG)
        return learn(program, state, batch, completed, judge_params=judge_params)

    return step


def make_dynamic_step(program: Program) -> Step:
    """The same with dynamic sampling, from `max_resample_batches` batches."""
    stage, place = program.stage, batch_sharding(program.mesh)

    def step(
        judge_params: JudgeParams, state: TrainState, batches: tuple[Batch, ...]
    ) -> tuple[TrainState, StepOutput]:
        params = rollout_params(program, weights(program.model, state))
        batches = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)

        def sample(index: Array) -> tuple[Graded, Array, dict[str, Array]]:
            batch = jax.tree.map(lambda x: x[index], batches)
            completed = complete(program, params, batch, step_keys(program, state, batch))
            grade = grade_completed(
                program, completed, batch.item_fields, judge_params=judge_params
            )
            metrics = describe(completed.rollout, grade)
            metrics = {
                name: metrics[name]
                for name in ("reward_mean", "zero_std_groups_fraction", "tokens")
            }
            unequal_B = unequal_rewards(grade.reward, grade.valid)
            return Graded(batch.prompts, batch.prompt_id_B, completed, grade), unequal_B, metrics

        found = sample_groups(sample, stage.batch_size, stage.max_resample_batches, place)
        state, output = _strengthen(program, state, found.groups, found.consumed)
        metrics = output.metrics | {
            "tokens": found.sums["tokens"],
            "sampled_prompts": found.rounds * stage.batch_size,
            "sampled_reward_mean": found.sums["reward_mean"] / found.rounds,
            "sampled_zero_std_groups_fraction": found.sums["zero_std_groups_fraction"]
            / found.rounds,
        }
        return state, output._replace(metrics=metrics)

    return step


def step_keys(program: Program, state: TrainState, batch: Batch) -> Array:
    """Keys [B, G] of a step's completions."""
    group = program.stage.rollout.group_size
    return completion_keys(state.seed, state.step, batch.prompt_id_B, batch.draw_B, group)


def rollout_params(program: Program, params: Params) -> Params:
    """The rollout's copy of the weights, made once before the token loop.

    Adapters are merged into it, and it is cast or quantized, and gathered.
    """
    copy, axes = merge(params, program.model.dtype), base(program.model.axes)
    if program.stage.rollout.int8_weights:
        copy, axes = quantize_weights(copy), quantized_axes(axes)
    return constrain(copy, shardings(program.mesh, ROLLOUT_RULES, axes))


def complete(program: Program, params: Params, batch: Batch, keys_BG: Array) -> Completed:
    """Samples completions of the batch's prompts, and detokenizes their answers.

    Args:
        params: From `rollout_params`.
    """
    completions = rollout(
        program.model,
        params,
        batch.prompts,
        keys_BG,
        program.mask,
        program.stage.rollout,
        stop_ids=program.stop_ids,
        pad_id=program.pad_id,
    )
    flat = _flat(completions)
    text, overflow_N = detokenize(
        program.table,
        flat.tokens_BGT,
        flat.answer_start_BG,
        flat.answer_end_BG,
        program.stage.rollout.output_bytes,
    )
    if program.answer_separator:  # line breaks
        text = drop_leading(text, ord("\n"))
    return Completed(completions, *_grouped((text, overflow_N), len(keys_BG)))


def grade_completed(
    program: Program,
    completed: Completed,
    item_fields: Any,
    found_on_host: Mapping[str, Score] | None = None,
    judge_params: JudgeParams | None = None,
) -> Grade:
    """Grades [B, G]; truncated samples are treated as configured.

    Args:
        item_fields: As in `Batch`.
        found_on_host: [B, G] by name, for a grader with nodes on the host.
        judge_params: For a grader with judges on the device.
    """
    completions = completed.rollout
    B, G = completions.length_BG.shape
    sample = Sample(
        output_text=completed.text,
        has_answer=completions.has_answer_BG,
        truncated=~completions.stopped_BG,
        overflow=completed.overflow_BG,
        completion_tokens=completions.length_BG,
        answer=_answer(completions),
    )
    fields = jax.tree.map(lambda field: jnp.repeat(field, G, axis=0), item_fields)
    found = _flat(found_on_host or {})
    grade = program.grader.grade(_flat(sample), fields, found, judge_params)
    grade = _grouped(grade, B)
    if program.stage.rollout.truncated_completions == "mask":
        return grade._replace(valid=grade.valid & completions.stopped_BG)
    if program.stage.rollout.truncated_completions == "zero":
        return grade._replace(reward=jnp.where(completions.stopped_BG, grade.reward, 0))
    return grade


def _answer(completions: Rollout) -> Tokens:
    """The tokens of the answers, [B, G, T]."""
    start_BG, T = completions.answer_start_BG, completions.tokens_BGT.shape[-1]
    index_BGT = start_BG[..., None] + jnp.arange(T)
    ids_BGT = jnp.take_along_axis(completions.tokens_BGT, index_BGT, axis=-1, mode="clip")
    return Tokens(ids_BGT, completions.answer_end_BG - start_BG)


def _flat(tree: Any) -> Any:
    """[B, G, ...] -> [N, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _grouped(tree: Any, prompts: int) -> Any:
    """[N, ...] -> [B, G, ...]."""
    return jax.tree.map(lambda x: x.reshape(prompts, -1, *x.shape[1:]), tree)


def learn(
    program: Program,
    state: TrainState,
    batch: Batch,
    completed: Completed,
    found_on_host: Mapping[str, Score] | None = None,
    judge_params: JudgeParams | None = None,
) -> tuple[TrainState, StepOutput]:
    """Grades completions and strengthens what scored well."""
    grade = grade_completed(program, completed, batch.item_fields, found_on_host, judge_params)
    graded = Graded(batch.prompts, batch.prompt_id_B, completed, grade)
    return _strengthen(program, state, graded, len(batch.prompt_id_B))


def _strengthen(
    program: Program, state: TrainState, graded: Graded, consumed: int | Array
) -> tuple[TrainState, StepOutput]:
    """The update, after which the state's cursor is so many prompts further."""
    stage = program.stage
    prompts, prompt_id_B, completed, grade = graded
    advantage_BG = advantages(grade.reward, grade.valid, stage.policy_loss.baseline)
    state, metrics = policy_update(
        program.model,
        program.optimizer,
        state,
        prompts,
        completed.rollout,
        advantage_BG,
        grade.valid,
        program.mask,
        temperature=stage.rollout.temperature,
        config=stage.policy_loss,
        data_shards=batch_parts(program.mesh),
    )
    metrics |= describe(completed.rollout, grade)
    state = state._replace(step=state.step + 1, cursor=state.cursor + consumed)
    return state, StepOutput(metrics, Samples(prompt_id_B, completed, grade, advantage_BG))


def describe(completions: Rollout, grade: Grade) -> dict[str, Array]:
    """Means over the valid samples: reward, sub-scores, errors and lengths."""

    def mean(x_BG: Array) -> Array:
        total = jnp.where(grade.valid, x_BG.astype(jnp.float32), 0).sum()
        return total / jnp.maximum(grade.valid.sum(), 1)

    return {
        "reward_mean": mean(grade.reward),
        "reward_std": jnp.sqrt(jnp.maximum(mean(grade.reward**2) - mean(grade.reward) ** 2, 0)),
        "valid_fraction": grade.valid.mean(),
        "zero_std_groups_fraction": 1 - unequal_rewards(grade.reward, grade.valid).mean(),
        "tokens": completions.length_BG.sum(),
        "completion_tokens_mean": completions.length_BG.mean(),
        "reasoning_tokens_mean": completions.thinking_tokens_BG.mean(),
        "truncated_fraction": 1 - completions.stopped_BG.mean(),
        **{f"scores/{name}": mean(score) for name, score in grade.scores.items()},
        **{
            _detail_name(name): mean(value)
            for name, value in grade.details.items()
            if not name.endswith(ANSWER)
        },
        **{f"errors/{name}_mean": flag.mean() for name, flag in grade.errors.items()},
        **{f"errors/{name}_count": flag.sum() for name, flag in grade.errors.items()},
    }


def _detail_name(name: str) -> str:
    """Seconds are no result of the run: they join the row's `timing`."""
    if name.endswith("/seconds"):
        return f"timing/{name.removesuffix('/seconds')}/execution_latency_mean"
    return f"details/{name}"


def compile_step(
    program: Program,
) -> Callable[[TrainState, Batch | tuple[Batch, ...]], tuple[TrainState, StepOutput]]:
    """The jitted step over the program's mesh; the state is donated."""
    state, batch = train_shardings(program), batch_sharding(program.mesh)
    make = make_dynamic_step if program.stage.max_resample_batches > 1 else make_step

    def step(
        grammar: GrammarTables | None, judge_params: JudgeParams, state: TrainState, batch: Any
    ) -> tuple[TrainState, StepOutput]:
        return make(with_grammar(program, grammar))(judge_params, state, batch)

    step = jax.jit(
        step,
        in_shardings=(None, None, state, batch),
        out_shardings=(state, StepOutput(replicated(program.mesh), batch)),
        donate_argnums=2,
    )
    return functools.partial(step, program.mask.grammar, program.grader.judge_params)


def compile_sampler(program: Program) -> Callable[[Params, Batch, Array], Samples]:
    """A jitted function (params, batch, keys_BG) -> graded samples, for evaluation."""
    batch = batch_sharding(program.mesh)

    def sample(
        grammar: GrammarTables | None,
        judge_params: JudgeParams,
        params: Params,
        inputs: Batch,
        keys_BG: Array,
    ) -> Samples:
        whole = with_grammar(program, grammar)
        completed = complete(whole, rollout_params(whole, params), inputs, keys_BG)
        grade = grade_completed(whole, completed, inputs.item_fields, None, judge_params)
        return Samples(inputs.prompt_id_B, completed, grade, jnp.zeros_like(grade.reward))

    sample = jax.jit(sample, in_shardings=(None, None, None, batch, batch), out_shardings=batch)
    return functools.partial(sample, program.mask.grammar, program.grader.judge_params)


def train_shardings(program: Program) -> TrainState:
    """Where the program's state lies."""
    reference = needs_reference(program.stage)
    return state_shardings(program.mesh, program.model, program.optimizer, reference=reference)


def needs_reference(stage: RLStage) -> bool:
    """Whether the loss compares with the policy that the stage started from."""
    return stage.policy_loss.kl_coefficient > 0
