"""The step cut in two, for graders with nodes that run on the host.

While the host grades one part of the batch, the device samples the next; the update follows when
all are graded, so that the step stays on-policy. With `async_rollout` the device then samples the batch
of the next step, from weights that are one update old. Rewards, advantages and update are those of
`step.learn`. On several hosts each grades its share of every part, and all learn the result.
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
from rft_jax.logging.metrics import log
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
    JudgeParams,
    Program,
    Samples,
    StepOutput,
    complete,
    grade_completed,
    learn,
    rollout_params,
    step_keys,
    train_shardings,
    with_grammar,
)
from rft_jax.strings import ByteString

_MESSAGES = 3  # of what went wrong, shown per step


class Batches(NamedTuple):
    """The batch of a step, and the next one if it is sampled meanwhile."""

    batch: Batch
    ahead: Batch | None = None


class _Sampled(NamedTuple):
    """A batch in parts, sampled or being sampled."""

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
    program: Program, host: HostGrading, items: Items
) -> Callable[[TrainState, Batches], tuple[TrainState, StepOutput]]:
    """The step, as `step.compile_step` has it, for a grader that needs the host.

    Args:
        host: The open nodes.
        items: The data set that the batches' prompt ids count in.

    Returns:
        A function (state, batches) -> (state, output). A batch that was sampled ahead has to be the
        next call's. `metrics` has besides `timing/host_wait_fraction`, the share of the step's
        sampling and grading in which the device had nothing to do, unless it samples ahead.
    """
    state_place, batch_place = train_shardings(program), batch_sharding(program.mesh)
    per_device = program.stage.batch_size // batch_parts(program.mesh)
    chunks = math.gcd(program.stage.host_chunks, per_device)

    def start(
        state: TrainState, batch: Batch, ahead: Array
    ) -> tuple[Params, list[tuple[Batch, Array]]]:
        whole = batch, step_keys(program, state._replace(step=state.step + ahead), batch)
        size = len(batch.prompt_id_B) // chunks
        parts = [
            jax.tree.map(lambda leaf, at=at: leaf[at : at + size], whole)
            for at in range(0, chunks * size, size)
        ]
        return rollout_params(program, weights(program.model, state)), parts

    def update(
        grammar: GrammarTables | None,
        judge_params: JudgeParams,
        state: TrainState,
        batch: Batch,
        parts: list[Completed],
        found: Mapping[str, Score],
    ) -> tuple[TrainState, StepOutput]:
        completed = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        return learn(with_grammar(program, grammar), state, batch, completed, found, judge_params)

    start = jax.jit(
        start, in_shardings=(state_place, batch_place, None), out_shardings=(None, batch_place)
    )
    update = jax.jit(
        update,
        in_shardings=(None, None, state_place, batch_place, batch_place, batch_place),
        out_shardings=(state_place, StepOutput(replicated(program.mesh), batch_place)),
        donate_argnums=2,
    )
    update = functools.partial(update, program.mask.grammar, program.grader.judge_params)
    complete_part = _compile_complete(program)
    steps_ahead = jax.device_put((np.int32(0), np.int32(1)), replicated(program.mesh))

    def sample(state: TrainState, batch: Batch, ahead: bool) -> _Sampled:
        params, inputs = start(state, batch, steps_ahead[ahead])
        return _Sampled(*zip(*[complete_part(params, *part) for part in inputs], strict=True))

    sampled_ahead: list[_Sampled] = []

    def step(state: TrainState, batches: Batches) -> tuple[TrainState, StepOutput]:
        began = time.perf_counter()
        batch, ahead = batches
        sampled = sampled_ahead.pop() if sampled_ahead else sample(state, batch, ahead=False)
        if ahead is not None:
            sampled_ahead.append(sample(state, ahead, ahead=True))
        found, waited = _grade_in_turn(host, items, sampled.texts)
        share = waited / (time.perf_counter() - began)
        state, output = update(state, batch, list(sampled.parts), _spread(found, batch_place))
        if ahead is None:
            output.metrics["timing/host_wait_fraction"] = np.float32(share)
        return state, output

    return step


def make_host_sampler(
    program: Program, host: HostGrading, items: Items
) -> Callable[[Params, Batch, Array, int], Samples]:
    """As `step.compile_sampler`, for a grader that needs the host.

    Returns:
        A function (params, batch, keys_BG, count) -> samples; the host is asked about the first
        `count` prompts of the batch only, so that grades of those that fill it up mean nothing.
    """
    place = batch_sharding(program.mesh)
    copy = jax.jit(lambda params: rollout_params(program, params))
    sample = _compile_complete(program)

    def grade(
        judge_params: JudgeParams, completed: Completed, batch: Batch, found: Mapping[str, Score]
    ) -> Samples:
        grade = grade_completed(program, completed, batch.item_fields, found, judge_params)
        return Samples(batch.prompt_id_B, completed, grade, jnp.zeros_like(grade.reward))

    grade = jax.jit(grade, in_shardings=(None, place, place, place), out_shardings=place)
    grade = functools.partial(grade, program.grader.judge_params)

    def sampler(params: Params, batch: Batch, keys_BG: Array, count: int) -> Samples:
        completed, texts = sample(copy(params), batch, keys_BG)
        found, _ = _grade_in_turn(host, items, [texts], count)
        filling = len(keys_BG) - count
        found = jax.tree.map(lambda x: np.pad(x, ((0, filling), (0, 0)), "edge"), found)
        return grade(completed, batch, _spread(found, place))

    return sampler


def _compile_complete(
    program: Program,
) -> Callable[[Params, Batch, Array], tuple[Completed, _Texts]]:
    place = batch_sharding(program.mesh)

    def sample(
        grammar: GrammarTables | None, params: Params, batch: Batch, keys_BG: Array
    ) -> tuple[Completed, _Texts]:
        completed = complete(with_grammar(program, grammar), params, batch, keys_BG)
        rollout, text, overflow_BG = completed
        flags = rollout.has_answer_BG, rollout.stopped_BG, overflow_BG
        return completed, _Texts(text, *flags, rollout.length_BG, batch.prompt_id_B)

    sample = jax.jit(
        sample,
        in_shardings=(None, None, place, place),
        out_shardings=(place, replicated(program.mesh)),
    )
    return functools.partial(sample, program.mask.grammar)


def _grade_in_turn(
    host: HostGrading, items: Items, parts: Sequence[_Texts], count: int | None = None
) -> tuple[dict[str, Score], float]:
    """Grades each part as soon as it is sampled; collective.

    Args:
        count: Of each part's prompts, those to be graded; None for all.

    Returns:
        What the nodes found, arrays [B, G], and the seconds from the end of sampling to that of
        grading.
    """
    group = parts[0].overflow_BG.shape[1]
    with ThreadPoolExecutor(1) as thread:
        pending = []
        for part in parts:
            whole = jax.device_get(part)  # waits until the part is sampled
            samples, rows = _share(jax.tree.map(lambda leaf: leaf[:count], whole))
            if samples:
                pending.append(thread.submit(host.grade, samples, items, rows))
        sampled = time.perf_counter()
        with raise_on_all_hosts():
            mine = [future.result() for future in pending]
    # By part, then by host; a host without a share of the parts is left out.
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


def _share(part: _Texts) -> tuple[list[HostSample], np.ndarray]:
    """This host's share of the B * G completions, and the item of each."""
    rows_N = np.repeat(part.prompt_id_B, part.length_BG.shape[1])
    share = np.array_split(np.arange(len(rows_N)), jax.process_count())[jax.process_index()]
    text, *others = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[share], part[:-1])
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
    return samples, rows_N[share]


def _spread(found: dict[str, Score], place: NamedSharding) -> dict[str, Score]:
    """Arrays that are whole on every host, over the devices."""
    size = len(jax.tree.leaves(found)[0])
    here = local_rows(place, size)
    return from_local(jax.tree.map(lambda leaf: leaf[here], found), place, size)
