"""The step cut in two, for graders with nodes that run on the host.

While the host grades one part of the batch, the device samples the next; the update follows when
all are graded, so that the step stays on-policy. Rewards, advantages and update are those of
`step.learn`.
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.graders import HostGrading, HostSample, Items, Score
from rft_jax.learn.optimizer import TrainState
from rft_jax.metrics import log
from rft_jax.models import Params
from rft_jax.parallel import batch_parts, batch_sharding, replicated
from rft_jax.step import (
    Batch,
    Completed,
    Program,
    Samples,
    StepOutput,
    complete,
    grade_completed,
    learn,
    rollout_params,
    step_keys,
    train_shardings,
)

_MESSAGES = 3  # of what went wrong, shown per step


def make_host_step(
    program: Program, host: HostGrading, items: Items
) -> Callable[[TrainState, Batch], tuple[TrainState, StepOutput]]:
    """The step, as `step.compile_step` has it, for a grader that needs the host.

    Args:
        host: The open nodes.
        items: The data set that the batches' prompt ids count in.

    Returns:
        A function like the jitted step; `metrics` has besides `timing/host_wait_share`, the share
        of the step's sampling and grading in which the device had nothing to do.
    """
    state_place, batch_place = train_shardings(program), batch_sharding(program.mesh)
    per_device = program.stage.batch_size // batch_parts(program.mesh)
    chunks = math.gcd(program.stage.host_chunks, per_device)

    def start(state: TrainState, batch: Batch) -> tuple[Params, list[tuple[Batch, Array]]]:
        whole = batch, step_keys(program, state, batch)
        size = len(batch.prompt_id_B) // chunks
        parts = [
            jax.tree.map(lambda leaf, at=at: leaf[at : at + size], whole)
            for at in range(0, chunks * size, size)
        ]
        return rollout_params(program, state.params), parts

    def update(
        state: TrainState, batch: Batch, parts: list[Completed], found: Mapping[str, Score]
    ) -> tuple[TrainState, StepOutput]:
        completed = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        return learn(program, state, batch, completed, found)

    start = jax.jit(
        start, in_shardings=(state_place, batch_place), out_shardings=(None, batch_place)
    )
    update = jax.jit(
        update,
        in_shardings=(state_place, batch_place, batch_place, batch_place),
        out_shardings=(state_place, StepOutput(replicated(program.mesh), batch_place)),
        donate_argnums=0,
    )
    sample = _compile_complete(program)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepOutput]:
        began = time.perf_counter()
        params, inputs = start(state, batch)
        parts = [sample(params, *part) for part in inputs]
        rows = [jax.device_get(part.prompt_id_B) for part, _ in inputs]
        found, waited = _grade_in_turn(host, items, parts, rows)
        share = waited / (time.perf_counter() - began)
        state, output = update(state, batch, parts, jax.device_put(found, batch_place))
        output.metrics["timing/host_wait_share"] = np.float32(share)
        return state, output

    return step


def make_host_sampler(
    program: Program, host: HostGrading, items: Items
) -> Callable[[Params, Batch, Array], Samples]:
    """As `step.compile_sampler`, for a grader that needs the host."""
    place = batch_sharding(program.mesh)
    copy = jax.jit(lambda params: rollout_params(program, params))
    sample = _compile_complete(program)

    def grade(completed: Completed, batch: Batch, found: Mapping[str, Score]) -> Samples:
        grade = grade_completed(program, completed, batch.item_fields, found)
        return Samples(completed, grade, jnp.zeros_like(grade.reward))

    grade = jax.jit(grade, in_shardings=place, out_shardings=place)

    def sampler(params: Params, batch: Batch, keys_BG: Array) -> Samples:
        completed = sample(copy(params), batch, keys_BG)
        rows_B = jax.device_get(batch.prompt_id_B)
        found, _ = _grade_in_turn(host, items, [completed], [rows_B])
        return grade(completed, batch, jax.device_put(found, place))

    return sampler


def _compile_complete(program: Program) -> Callable[[Params, Batch, Array], Completed]:
    place = batch_sharding(program.mesh)

    def sample(params: Params, batch: Batch, keys_BG: Array) -> Completed:
        return complete(program, params, batch, keys_BG)

    return jax.jit(sample, in_shardings=(None, place, place), out_shardings=place)


def _grade_in_turn(
    host: HostGrading, items: Items, parts: list[Completed], rows: list[np.ndarray]
) -> tuple[dict[str, Score], float]:
    """Grades each part as soon as it is sampled.

    Returns:
        What the nodes found, arrays [B, G], and the seconds from the end of sampling to that of
        grading.
    """
    group = parts[0].overflow_BG.shape[1]
    with ThreadPoolExecutor(1) as thread:
        pending = []
        for part, rows_B in zip(parts, rows, strict=True):
            samples = _to_host(part)  # waits until the part is sampled
            pending.append(thread.submit(host.grade, samples, items, np.repeat(rows_B, group)))
        sampled = time.perf_counter()
        results = [future.result() for future in pending]
    waited = time.perf_counter() - sampled
    messages = [message for _, messages in results for message in messages]
    for message in list(dict.fromkeys(messages))[:_MESSAGES]:
        log(f"grader: {message}")
    found = jax.tree.map(
        lambda *leaves: np.concatenate([x.reshape(-1, group) for x in leaves]),
        *[scores for scores, _ in results],
    )
    return found, waited


def _to_host(completed: Completed) -> list[HostSample]:
    """The B * G completions as the host's graders want them."""
    rollout, text, overflow_BG = jax.device_get(completed)
    return [
        HostSample(
            output_text=text.bytes[at][: text.length[at]].tobytes().decode(errors="replace"),
            has_answer=bool(rollout.has_answer_BG[at]),
            truncated=not rollout.stopped_BG[at],
            overflow=bool(overflow_BG[at]),
            completion_tokens=int(rollout.length_BG[at]),
        )
        for at in np.ndindex(overflow_BG.shape)
    ]
