"""The step cut in two, for graders with nodes that run on the host.

While the host grades one part of the batch, the device samples the next; the update follows when
all are graded, so that the step stays on-policy. With `async_rollout` the device then samples the
batch of the next step, from weights that are one update old. Rewards, advantages and update are
those of `step.learn`. On several hosts each grades its part of every chunk, and all learn the
result.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from rft_jax.graders import HostGrading, HostSample, Items, Score
from rft_jax.grammars import GrammarTables
from rft_jax.learn.optimizer import TrainState, weights
from rft_jax.models import Params
from rft_jax.parallel import (
    batch_parts,
    batch_sharding,
    from_local,
    gather_objects,
    is_first,
    local_rows,
    raise_on_all_hosts,
    replicated,
)
from rft_jax.step import (
    Batch,
    Completed,
    Graded,
    Grading,
    JudgeParams,
    Program,
    Sampler,
    Samples,
    StepOutput,
    grade_completed,
    learn,
    output_shardings,
    read_answers,
    rollout_params,
    sample,
    step_keys,
    train_shardings,
    with_grammar,
)
from rft_jax.strings import ByteString
from rft_jax.utils.console import log

_MESSAGES = 3  # of what went wrong, shown per step


class Batches(NamedTuple):
    """The batch of a step, and the next one if it is sampled meanwhile."""

    batch: Batch
    ahead: Batch | None = None


class _Sampled(NamedTuple):
    """A batch in parts, sampled or being sampled."""

    params: Params | None  # what samples, for score centering
    parts: tuple[Completed, ...]
    texts: tuple["_Texts", ...]


class _Texts(NamedTuple):
    """What the host's graders need of a part of the batch, whole on every device."""

    text: ByteString  # [B, G, L]
    has_answer_BG: Array
    stopped_BG: Array
    overflow_BG: Array
    length_BG: Array
    prompt_id_B: Array


def make_host_step(
    program: Program, host: HostGrading, items: Items, chunks: int
) -> Callable[[TrainState, Batches], tuple[TrainState, StepOutput]]:
    """The step, as `step.compile_step` has it, for a grader that needs the host.

    Args:
        host: The open nodes.
        items: The data set that the batches' prompt ids count in.
        chunks: Into how many the batch is cut, or fewer if a device's prompts do not allow it.

    Returns:
        A function (state, batches) -> (state, output). A batch that was sampled ahead has to be the
        next call's. `metrics` has besides `timing/host_wait_fraction`, the fraction of the step's
        sampling and grading in which the device had nothing to do, unless it samples ahead.
    """
    mesh = program.sampler.mesh
    chunks = math.gcd(chunks, program.batch_size // batch_parts(mesh))
    start, update = _compile_start(program, chunks), _compile_update(program)
    complete_part = _compile_complete(program.sampler, program.grading)
    centers = program.learner.config.score_centering
    # On the device already: under the run loop's transfer guard no scalar may be sent there.
    steps_ahead = jax.device_put((np.int32(0), np.int32(1)), replicated(mesh))

    def sample_batch(state: TrainState, batch: Batch, ahead: bool) -> _Sampled:
        # Dispatched all at once: the device works through the chunks in order, and the host waits
        # for each where it grades it.
        params, inputs = start(state, batch, steps_ahead[ahead])
        completed, texts = zip(*[complete_part(params, *part) for part in inputs], strict=True)
        return _Sampled(params if centers else None, completed, texts)

    sampled_ahead: list[_Sampled] = []

    def step(state: TrainState, batches: Batches) -> tuple[TrainState, StepOutput]:
        began = time.perf_counter()
        batch, ahead = batches
        sampled = sampled_ahead.pop() if sampled_ahead else sample_batch(state, batch, ahead=False)
        if ahead is not None:  # before the update: the state that it reads is donated there
            sampled_ahead.append(sample_batch(state, ahead, ahead=True))
        found, waited = _grade_in_turn(host, items, sampled.texts)
        idle_fraction = waited / (time.perf_counter() - began)
        found = _spread(found, batch_sharding(mesh))
        state, output = update(state, batch, list(sampled.parts), found, sampled.params)
        if ahead is None:
            timing = {"timing/host_wait_fraction": np.float32(idle_fraction)}
            output = output._replace(metrics={**output.metrics, **timing})
        return state, output

    return step


def _compile_start(
    program: Program, chunks: int
) -> Callable[[TrainState, Batch, Array], tuple[Params, list[tuple[Batch, Array]]]]:
    """What sampling a batch begins with: the rollout's weights, and the chunks with their keys."""
    sampler = program.sampler
    row_sharding = batch_sharding(sampler.mesh)

    def start(
        state: TrainState, batch: Batch, ahead: Array
    ) -> tuple[Params, list[tuple[Batch, Array]]]:
        # The noise is that of the step that learns from the samples, whenever they are drawn.
        keys_BG = step_keys(sampler, state._replace(step=state.step + ahead), batch)
        size = len(batch.prompt_id_B) // chunks
        parts = [
            jax.tree.map(lambda leaf, at=at: leaf[at : at + size], (batch, keys_BG))
            for at in range(0, chunks * size, size)
        ]
        return rollout_params(sampler, weights(program.learner.model, state)), parts

    state_sharding = train_shardings(sampler.mesh, program.learner)
    return jax.jit(
        start, in_shardings=(state_sharding, row_sharding, None), out_shardings=(None, row_sharding)
    )


def _compile_update(
    program: Program,
) -> Callable[
    [TrainState, Batch, list[Completed], Mapping[str, Score], Params | None],
    tuple[TrainState, StepOutput],
]:
    """Grades on the device what is left to grade, and learns; the state is donated."""
    mesh, grading = program.sampler.mesh, program.grading
    state_sharding, row_sharding = train_shardings(mesh, program.learner), batch_sharding(mesh)

    def update(
        grammar: GrammarTables | None,
        judge_params: JudgeParams,
        state: TrainState,
        batch: Batch,
        parts: list[Completed],
        found: Mapping[str, Score],
        params: Params | None,
    ) -> tuple[TrainState, StepOutput]:
        completed = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        grade = grade_completed(grading, completed, batch.item_fields, found, judge_params)
        graded = Graded(batch.prompts, batch.prompt_id_B, completed, grade)
        learner = with_grammar(program.learner, grammar)
        return learn(learner, state, graded, program.batch_size, params)

    compiled = jax.jit(
        update,
        in_shardings=(None, None, state_sharding, row_sharding, row_sharding, row_sharding, None),
        out_shardings=(state_sharding, output_shardings(mesh)),
        donate_argnums=2,
    )
    return functools.partial(compiled, program.learner.mask.grammar, grading.grader.judge_params)


def make_host_sampler(
    sampler: Sampler, grading: Grading, host: HostGrading, items: Items
) -> Callable[[Params, Batch, Array, int], Samples]:
    """As `step.compile_sampler`, for a grader that needs the host.

    Returns:
        A function (params, batch, keys_BG, count) -> samples; the host is asked about the first
        `count` prompts of the batch only, so that grades of those that fill it up mean nothing.
    """
    row_sharding = batch_sharding(sampler.mesh)
    copy = jax.jit(lambda params: rollout_params(sampler, params))
    complete_batch = _compile_complete(sampler, grading)

    def grade(
        judge_params: JudgeParams, completed: Completed, batch: Batch, found: Mapping[str, Score]
    ) -> Samples:
        grade = grade_completed(grading, completed, batch.item_fields, found, judge_params)
        return Samples(batch.prompt_id_B, completed, grade, jnp.zeros_like(grade.reward))

    compiled = jax.jit(
        grade,
        in_shardings=(None, row_sharding, row_sharding, row_sharding),
        out_shardings=row_sharding,
    )
    grade_batch = functools.partial(compiled, grading.grader.judge_params)

    def run(params: Params, batch: Batch, keys_BG: Array, count: int) -> Samples:
        completed, texts = complete_batch(copy(params), batch, keys_BG)
        found, _ = _grade_in_turn(host, items, [texts], count)
        filling = len(keys_BG) - count
        found = jax.tree.map(lambda x: np.pad(x, ((0, filling), (0, 0)), "edge"), found)
        return grade_batch(completed, batch, _spread(found, row_sharding))

    return run


def _compile_complete(
    sampler: Sampler, grading: Grading
) -> Callable[[Params, Batch, Array], tuple[Completed, _Texts]]:
    row_sharding = batch_sharding(sampler.mesh)

    def complete(
        grammar: GrammarTables | None, params: Params, batch: Batch, keys_BG: Array
    ) -> tuple[Completed, _Texts]:
        samples = sample(with_grammar(sampler, grammar), params, batch.prompts, keys_BG)
        completed = read_answers(grading, samples)
        rollout, text, overflow_BG = completed
        flags = rollout.has_answer_BG, rollout.stopped_BG, overflow_BG
        return completed, _Texts(text, *flags, rollout.length_BG, batch.prompt_id_B)

    compiled = jax.jit(
        complete,
        in_shardings=(None, None, row_sharding, row_sharding),
        out_shardings=(row_sharding, replicated(sampler.mesh)),
    )
    return functools.partial(compiled, sampler.mask.grammar)


def _grade_in_turn(
    host: HostGrading, items: Items, parts: Sequence[_Texts], count: int | None = None
) -> tuple[dict[str, Score], float]:
    """Grades each part as soon as it is sampled; collective.

    Args:
        count: How many of each part's prompts are graded; None for all.

    Returns:
        What the nodes found, arrays [B, G], and the seconds from the end of sampling to that of
        grading.
    """
    group = parts[0].overflow_BG.shape[1]
    with ThreadPoolExecutor(1) as thread:
        pending = []
        for part in parts:
            whole = jax.device_get(part)  # waits until the part is sampled
            samples, rows = _part_of_host(jax.tree.map(lambda leaf: leaf[:count], whole))
            if samples:
                # In a thread, so that the next part can be waited for meanwhile.
                pending.append(thread.submit(host.grade, samples, items, rows))
        sampled = time.perf_counter()
        with raise_on_all_hosts():
            mine = [future.result() for future in pending]
    # By part, then by host; a host with nothing of the parts is left out.
    results = list(zip(*filter(None, gather_objects(mine)), strict=True))
    waited = time.perf_counter() - sampled
    messages = [message for part in results for _, messages in part for message in messages]
    if is_first():
        for message in list(dict.fromkeys(messages))[:_MESSAGES]:
            log(f"grader: {message}")
    found = jax.tree.map(
        lambda *leaves: np.concatenate(leaves).reshape(-1, group),
        *[scores for part in results for scores, _ in part],
    )
    return found, waited


def _part_of_host(part: _Texts) -> tuple[list[HostSample], list[int]]:
    """This host's part of the B * G completions, and the item of each."""
    rows_N = np.repeat(part.prompt_id_B, part.length_BG.shape[1])
    here = np.array_split(np.arange(len(rows_N)), jax.process_count())[jax.process_index()]
    text, *others = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[here], part[:-1])
    samples = [
        HostSample(
            output_text=data[:length].tobytes().decode(errors="replace"),
            has_answer=bool(has_answer),
            truncated=not stopped,
            overflow=bool(overflow),
            completion_tokens=int(tokens),
        )
        for data, length, has_answer, stopped, overflow, tokens in zip(*text, *others, strict=True)
    ]
    return samples, rows_N[here].tolist()


def _spread(found: dict[str, Score], row_sharding: NamedSharding) -> dict[str, Score]:
    """Arrays that are whole on every host, over the devices."""
    size = len(jax.tree.leaves(found)[0])
    here = local_rows(row_sharding, size)
    return from_local(jax.tree.map(lambda leaf: leaf[here], found), row_sharding, size)
