"""The RFT step: rollout, detokenize, grade, advantages and update as one pure function.

    step = compile_step(program)
    state, output = step(state, batch)

`state` is donated; nothing leaves the device in between. Read `output` a step late: while the
device works on step k, the host handles the metrics of step k - 1. `host_step` cuts the same
functions in two for graders that run on the host. With dynamic sampling (`make_dynamic_step`) the
step takes several batches.

Arrays carry their shape as a suffix, one letter a meaning, here and in `rollout` and `learn`:

    B  prompts of a step           G  samples of a prompt          N  B x G completions
    P  tokens of a prompt          T  tokens of a completion       L  bytes of an answer's text
    V  the vocabulary              D  hidden size                  K  heads of keys and values
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from rft_jax.config import PolicyLossSettings, RLStage, RolloutConfig
from rft_jax.config.presets import policy_loss
from rft_jax.graders import Grade, Grader, Sample, Score, Tokens
from rft_jax.grammars import GrammarTables
from rft_jax.learn.advantages import advantages, teaching_groups
from rft_jax.learn.dynamic_sampling import sample_groups
from rft_jax.learn.objective import Learner
from rft_jax.learn.optimizer import TrainState, state_shardings, weights
from rft_jax.learn.policy import policy_update
from rft_jax.models import Model, Params, quantize_weights, quantized_axes
from rft_jax.parallel import (
    ROLLOUT_RULES,
    AnyMesh,
    Shardings,
    batch_parts,
    batch_sharding,
    constrain,
    replicated,
    shardings,
)
from rft_jax.rollout import LogitMask, Prompts, Rollout, completion_keys, make_logit_mask, rollout
from rft_jax.step_metrics import grade_metrics
from rft_jax.strings import ByteString, drop_leading
from rft_jax.tokenizers import DetokenizeTable, Tokenizer, detokenize
from rft_jax.utils.types import PyTree

Tree = TypeVar("Tree")
JudgeParams = Mapping[str, Params]  # weights of the judges on the device, by model


class Batch(NamedTuple):
    """B prompts with what the grader needs of their items."""

    prompts: Prompts
    prompt_id_B: Array  # int32, row in the data set
    draw_B: Array  # int32, how often the row was drawn before
    item_fields: PyTree  # tree of arrays with leading axis B, from `Grader.encode_items`


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

    metrics: Mapping[str, Array | np.floating]  # scalars
    samples: Samples


class Graded(NamedTuple):
    """What the update needs of B prompts."""

    prompts: Prompts
    prompt_id_B: Array
    completed: Completed
    grade: Grade


Step = Callable[[JudgeParams, TrainState, PyTree], tuple[TrainState, StepOutput]]


@dataclass(frozen=True)
class Sampler:
    """What samples: the static parts of the rollout.

    Attributes:
        model: The policy.
        mask: What may be sampled, and the thinking format.
        config: Lengths, group size, temperature and so on.
        stop_ids: Tokens that end a completion.
        pad_id: Fills the rest of the array.
        mesh: Over which the batch is split.
    """

    model: Model
    mask: LogitMask
    config: RolloutConfig
    stop_ids: tuple[int, ...]
    pad_id: int
    mesh: AnyMesh


@dataclass(frozen=True)
class Grading:
    """What grades: from the tokens of a completion to its reward.

    Attributes:
        grader: The run's.
        table: The tokenizer's pieces, by which answers become text.
        drops_line_breaks: Whether a format's line breaks before the answer are no part of it.
        output_bytes: L.
        truncated_completions: What a sample without a stop earns.
    """

    grader: Grader
    table: DetokenizeTable
    drops_line_breaks: bool
    output_bytes: int
    truncated_completions: str


@dataclass(frozen=True)
class Program:
    """A reinforcement stage's step: what samples, what grades and what learns.

    Attributes:
        sampler: See there.
        grading: See there.
        learner: See there.
        batch_size: B.
        max_resample_batches: Batches that dynamic sampling may take for one; 1: it is off.
    """

    sampler: Sampler
    grading: Grading
    learner: Learner
    batch_size: int
    max_resample_batches: int = 1


def make_sampler(
    model: Model, tokenizer: Tokenizer, config: RolloutConfig, mesh: AnyMesh
) -> Sampler:
    """What samples from a model with a tokenizer's format."""
    return Sampler(
        model=model,
        mask=make_logit_mask(tokenizer, config, mesh),
        config=config,
        stop_ids=tokenizer.stop_ids,
        pad_id=tokenizer.pad_id,
        mesh=mesh,
    )


def make_grading(grader: Grader, tokenizer: Tokenizer, config: RolloutConfig) -> Grading:
    """What grades a tokenizer's completions."""
    return Grading(
        grader=grader,
        table=tokenizer.piece_table(),
        drops_line_breaks=bool(tokenizer.answer_separator),
        output_bytes=config.output_bytes,
        truncated_completions=config.truncated_completions,
    )


def make_learner(
    sampler: Sampler, optimizer: optax.GradientTransformation, config: PolicyLossSettings
) -> Learner:
    """What learns from a sampler's completions."""
    return Learner(
        model=sampler.model,
        optimizer=optimizer,
        mask=sampler.mask,
        temperature=sampler.config.temperature,
        config=config,
        data_shards=batch_parts(sampler.mesh),
        top_k=sampler.config.top_k,
        top_p=sampler.config.top_p,
    )


def make_program(
    model: Model,
    optimizer: optax.GradientTransformation,
    grader: Grader,
    tokenizer: Tokenizer,
    stage: RLStage,
    mesh: AnyMesh,
) -> Program:
    """Collects what the step needs of a tokenizer and a stage."""
    settings = policy_loss(stage)
    model = replace(model, float32_head=settings.float32_head)
    sampler = make_sampler(model, tokenizer, stage.rollout, mesh)
    return Program(
        sampler=sampler,
        grading=make_grading(grader, tokenizer, stage.rollout),
        learner=make_learner(sampler, optimizer, settings),
        batch_size=stage.batch_size,
        max_resample_batches=stage.max_resample_batches,
    )


S = TypeVar("S", Sampler, Learner)


def with_grammar(part: S, grammar: GrammarTables | None) -> S:
    """A part of the program with the tables as arguments of a jitted function."""
    return replace(part, mask=replace(part.mask, grammar=grammar))


def make_step(program: Program) -> Step:
    """The step as a pure function of arrays; see `compile_step` for the jitted one."""
    sampler, grading, learner = program.sampler, program.grading, program.learner

    def step(
        judge_params: JudgeParams, state: TrainState, batch: Batch
    ) -> tuple[TrainState, StepOutput]:
        params = rollout_params(sampler, weights(learner.model, state))
        completions = sample(sampler, params, batch.prompts, step_keys(sampler, state, batch))
        completed = read_answers(grading, completions)
        grade = grade_completed(grading, completed, batch.item_fields, judge_params=judge_params)
        graded = Graded(batch.prompts, batch.prompt_id_B, completed, grade)
        return learn(learner, state, graded, program.batch_size, params)

    return step


def make_dynamic_step(program: Program) -> Step:
    """The same with dynamic sampling, from `max_resample_batches` batches."""
    sampler, grading, learner = program.sampler, program.grading, program.learner
    size, sharding = program.batch_size, batch_sharding(sampler.mesh)

    def step(
        judge_params: JudgeParams, state: TrainState, batches: tuple[Batch, ...]
    ) -> tuple[TrainState, StepOutput]:
        params = rollout_params(sampler, weights(learner.model, state))
        batches = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)

        def sample_batch(index: Array) -> tuple[Graded, Array, dict[str, Array]]:
            batch = jax.tree.map(lambda x: x[index], batches)
            completions = sample(sampler, params, batch.prompts, step_keys(sampler, state, batch))
            completed = read_answers(grading, completions)
            grade = grade_completed(
                grading, completed, batch.item_fields, judge_params=judge_params
            )
            metrics = grade_metrics(completed.rollout, completed.overflow_BG, grade)
            metrics = {
                name: metrics[name]
                for name in ("reward_mean", "zero_std_groups_fraction", "completion_tokens")
            }
            parts = tuple(grade.scores.values())
            unequal_B = teaching_groups(grade.reward, grade.valid, learner.config, parts)
            return Graded(batch.prompts, batch.prompt_id_B, completed, grade), unequal_B, metrics

        found = sample_groups(sample_batch, size, program.max_resample_batches, sharding)
        state, output = learn(learner, state, found.groups, found.consumed, params)
        metrics = {
            **output.metrics,
            # Of all that was sampled: the groups that were passed over took time as well.
            "completion_tokens": found.sums["completion_tokens"],
            "sampled_prompts": found.rounds * size,
            "sampled_reward_mean": found.sums["reward_mean"] / found.rounds,
            "sampled_zero_std_groups_fraction": found.sums["zero_std_groups_fraction"]
            / found.rounds,
        }
        return state, output._replace(metrics=metrics)

    return step


def step_keys(sampler: Sampler, state: TrainState, batch: Batch) -> Array:
    """Keys [B, G] of a step's completions."""
    group = sampler.config.group_size
    return completion_keys(state.seed, state.step, batch.prompt_id_B, batch.draw_B, group)


def rollout_params(sampler: Sampler, params: Params) -> Params:
    """The rollout's copy of the weights, made once before the token loop.

    Adapters are merged into it, if they are not over four bits, and it is cast or quantized, and
    gathered: what is done here is not done again for every token.
    """
    model = sampler.model
    copy, axes = model.sampling_weights(params), model.sampling_axes
    if model.float32_head:
        copy = {**copy, model.head: params[model.head].astype(jnp.float32)}
    if sampler.config.int8_weights:
        copy, axes = quantize_weights(copy), quantized_axes(axes)
    return constrain(copy, shardings(sampler.mesh, ROLLOUT_RULES, axes))


def sample(sampler: Sampler, params: Params, prompts: Prompts, keys_BG: Array) -> Rollout:
    """Samples completions of prompts.

    Args:
        params: From `rollout_params`.
        keys_BG: From `completion_keys`; their shape says how many samples.
    """
    return rollout(
        sampler.model,
        params,
        prompts,
        keys_BG,
        sampler.mask,
        sampler.config,
        stop_ids=sampler.stop_ids,
        pad_id=sampler.pad_id,
    )


def read_answers(grading: Grading, completions: Rollout) -> Completed:
    """Detokenizes the answers of completions."""
    flat = _flat(completions)
    text, overflow_N = detokenize(
        grading.table,
        flat.tokens_BGT,
        flat.answer_start_BG,
        flat.answer_end_BG,
        grading.output_bytes,
    )
    if grading.drops_line_breaks:
        text = drop_leading(text, ord("\n"))
    return Completed(completions, *_grouped((text, overflow_N), len(completions.length_BG)))


def grade_completed(
    grading: Grading,
    completed: Completed,
    item_fields: PyTree,
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
    answers = Sample(
        output_text=completed.text,
        has_answer=completions.has_answer_BG,
        truncated=~completions.stopped_BG,
        overflow=completed.overflow_BG,
        completion_tokens=completions.length_BG,
        answer=_answer(completions),
    )
    fields = jax.tree.map(lambda field: jnp.repeat(field, G, axis=0), item_fields)
    found = _flat(found_on_host or {})
    grade = _grouped(grading.grader.grade(_flat(answers), fields, found, judge_params), B)
    if grading.truncated_completions == "mask":
        return grade._replace(valid=grade.valid & completions.stopped_BG)
    if grading.truncated_completions == "zero":
        earned = jax.tree.map(
            lambda score_BG: jnp.where(completions.stopped_BG, score_BG, 0),
            {"reward": grade.reward, "scores": grade.scores},
        )
        return grade._replace(**earned)
    return grade


def _answer(completions: Rollout) -> Tokens:
    """The tokens of the answers, [B, G, T]."""
    start_BG, T = completions.answer_start_BG, completions.tokens_BGT.shape[-1]
    index_BGT = start_BG[..., None] + jnp.arange(T)
    ids_BGT = jnp.take_along_axis(completions.tokens_BGT, index_BGT, axis=-1, mode="clip")
    return Tokens(ids_BGT, completions.answer_end_BG - start_BG)


def _flat(tree: Tree) -> Tree:
    """[B, G, ...] -> [N, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _grouped(tree: Tree, prompts: int) -> Tree:
    """[N, ...] -> [B, G, ...]."""
    return jax.tree.map(lambda x: x.reshape(prompts, -1, *x.shape[1:]), tree)


def learn(
    learner: Learner,
    state: TrainState,
    graded: Graded,
    consumed: int | Array,
    sampler_params: Params | None = None,
) -> tuple[TrainState, StepOutput]:
    """Strengthens what scored well; the state's cursor is `consumed` prompts further then.

    Args:
        sampler_params: From `rollout_params`, what sampled; for score centering.
    """
    prompts, prompt_id_B, completed, grade = graded
    advantage_BG, valid_BG = compare(completed.rollout.policy_mask_BGT, grade, learner.config)
    state, metrics = policy_update(
        learner, state, prompts, completed.rollout, advantage_BG, valid_BG, sampler_params
    )
    metrics |= grade_metrics(completed.rollout, completed.overflow_BG, grade)
    state = state._replace(step=state.step + 1, cursor=state.cursor + consumed)
    return state, StepOutput(metrics, Samples(prompt_id_B, completed, grade, advantage_BG))


def compare(
    policy_mask_BGT: Array, grade: Grade, config: PolicyLossSettings
) -> tuple[Array, Array]:
    """The advantages [B, G], and which samples enter the loss and its denominator."""
    parts, tokens_BG = tuple(grade.scores.values()), policy_mask_BGT.sum(axis=-1)
    advantage_BG = advantages(grade.reward, grade.valid, config, parts, tokens_BG)
    if not config.drop_uniform_groups:
        return advantage_BG, grade.valid
    teaches_B = teaching_groups(grade.reward, grade.valid, config, parts)
    return advantage_BG, grade.valid & teaches_B[:, None]


def compile_step(
    program: Program,
) -> Callable[[TrainState, Batch | tuple[Batch, ...]], tuple[TrainState, StepOutput]]:
    """The jitted step over the program's mesh; the state is donated."""
    mesh, grading = program.sampler.mesh, program.grading
    state_sharding, batch = train_shardings(mesh, program.learner), batch_sharding(mesh)
    make = make_dynamic_step if program.max_resample_batches > 1 else make_step

    def step(
        grammar: GrammarTables | None, judge_params: JudgeParams, state: TrainState, batch: PyTree
    ) -> tuple[TrainState, StepOutput]:
        sampler = with_grammar(program.sampler, grammar)
        learner = with_grammar(program.learner, grammar)
        whole = replace(program, sampler=sampler, learner=learner)
        return make(whole)(judge_params, state, batch)

    compiled = jax.jit(
        step,
        in_shardings=(None, None, state_sharding, batch),
        out_shardings=(state_sharding, output_shardings(mesh)),
        donate_argnums=2,
    )
    # Arguments of the program and not constants in it, which would be a second copy.
    return functools.partial(compiled, program.sampler.mask.grammar, grading.grader.judge_params)


def compile_sampler(
    sampler: Sampler, grading: Grading
) -> Callable[[Params, Batch, Array], Samples]:
    """A jitted function (params, batch, keys_BG) -> graded samples, for evaluation."""
    batch = batch_sharding(sampler.mesh)

    def run(
        grammar: GrammarTables | None,
        judge_params: JudgeParams,
        params: Params,
        inputs: Batch,
        keys_BG: Array,
    ) -> Samples:
        whole = with_grammar(sampler, grammar)
        copy = rollout_params(whole, params)
        completed = read_answers(grading, sample(whole, copy, inputs.prompts, keys_BG))
        grade = grade_completed(grading, completed, inputs.item_fields, None, judge_params)
        return Samples(inputs.prompt_id_B, completed, grade, jnp.zeros_like(grade.reward))

    compiled = jax.jit(run, in_shardings=(None, None, None, batch, batch), out_shardings=batch)
    return functools.partial(compiled, sampler.mask.grammar, grading.grader.judge_params)


def output_shardings(mesh: AnyMesh) -> Shardings:
    """Where a step's output lies: metrics on every device, samples where their prompts are."""
    return StepOutput._make((replicated(mesh), batch_sharding(mesh)))


def train_shardings(mesh: AnyMesh, learner: Learner) -> Shardings:
    """Where the learner's state lies, a tree like `TrainState`."""
    return state_shardings(
        mesh, learner.model, learner.optimizer, reference=learner.needs_reference
    )
