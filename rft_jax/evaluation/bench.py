"""`rft bench`: full RFT steps on random prompts, and where their time goes.

Every completion is forced to its full length (stop tokens are masked), the reward is the fraction
of vowels, computed on the device, and the weights are float32.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import MeshConfig, OptimizerConfig, PolicyLossSettings, RolloutConfig
from rft_jax.config.validate import validate_split
from rft_jax.graders import build_grader, device_grader
from rft_jax.learn.advantages import advantages
from rft_jax.learn.optimizer import init_state, make_optimizer
from rft_jax.learn.policy import policy_update
from rft_jax.models import Params, build_model
from rft_jax.parallel import batch_parts, batch_sharding, make_mesh
from rft_jax.rollout import Prompts
from rft_jax.runs.reopen import open_model
from rft_jax.step import (
    Batch,
    Program,
    compile_step,
    grade_completed,
    make_grading,
    make_learner,
    make_sampler,
    read_answers,
    rollout_params,
    sample,
    step_keys,
    train_shardings,
)
from rft_jax.strings import ByteString
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.errors import InputError
from rft_jax.utils.numbers import peak_memory_bytes
from rft_jax.utils.types import JsonObject

WARM_UP = 2  # steps left out of the median
VOWELS = b"aeiou"


@device_grader(answer="{{ sample.output_text }}")
def vowel_fraction(answer: ByteString) -> jax.Array:
    """float32[N]: the fraction of vowels among an answer's bytes."""
    vowels_N = jnp.isin(answer.bytes, jnp.frombuffer(VOWELS, jnp.uint8)).sum(axis=-1)
    return vowels_N / jnp.maximum(answer.length, 1)


def bench(
    path: Path,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    num_prompts: int,
    group: int,
    steps: int,
) -> JsonObject:
    """Times `steps` steps; the first two are left out of the median.

    Args:
        path: A model, as for `runs.reopen.open_model`.
        prompt_tokens: Tokens of a prompt, P.
        completion_tokens: Tokens of a completion, T.
        num_prompts: Prompts a step, B; split over all devices.
        group: Samples per prompt, G.
        steps: At least 3.

    Returns:
        Seconds of a step and of its parts run apart, completions and completion tokens per second,
        and the peak memory.
    """
    for name, size, least in (
        ("prompt_tokens", prompt_tokens, 1),
        ("completion_tokens", completion_tokens, 2),
        ("num_prompts", num_prompts, 1),
        ("group", group, 2),
        ("steps", steps, WARM_UP + 1),
    ):
        if size < least:
            raise InputError(f"{name}: must be at least {least}, got {size}")
    run, source, at = open_model(path)
    use_compilation_cache(run.config.compilation_cache)
    config = dataclasses.replace(run.model_config(source), compute_dtype="float32")
    mesh = make_mesh(MeshConfig())
    validate_split("num_prompts", num_prompts, batch_parts(mesh))
    model = build_model(config, run.model(source).vocab_size, batch_sharding(mesh))
    rollout = RolloutConfig(
        group_size=group,
        max_prompt_tokens=prompt_tokens,
        max_completion_tokens=completion_tokens,
        output_bytes=8 * completion_tokens,
        reasoning_effort=0,
    )
    sampler = make_sampler(model, run.tokenizer, rollout, mesh)
    stops = (*sampler.mask.forbidden_ids, *sampler.stop_ids)
    mask = dataclasses.replace(sampler.mask, forbidden_ids=stops, end_of_think_id=None)
    sampler = dataclasses.replace(sampler, mask=mask)
    grading = make_grading(build_grader(vowel_fraction), run.tokenizer, rollout)
    optimizer = make_optimizer(OptimizerConfig(), steps)
    learner = make_learner(sampler, optimizer, PolicyLossSettings())
    program = Program(sampler, grading, learner, num_prompts)
    params = dataclasses.replace(run, mesh=mesh).load_params(source, at)
    batches = [_random_batch(program, seed) for seed in range(steps)]
    parts = _time_parts(program, params, batches[:3])
    state = init_state(params, optimizer, 0)
    step = compile_step(program)
    seconds = []
    for batch in batches:
        began = time.perf_counter()
        state, output = step(state, batch)
        jax.block_until_ready(output.metrics)
        seconds.append(time.perf_counter() - began)
    step_s = statistics.median(seconds[WARM_UP:])
    completions = num_prompts * group
    return {
        "name": "rft_jax",
        "prompt": prompt_tokens,
        "completion": completion_tokens,
        "prompts": num_prompts,
        "group": group,
        "step_s": round(step_s, 4),
        "completions_per_s": round(completions / step_s, 3),
        "completion_tokens_per_s": round(completions * completion_tokens / step_s, 1),
        **parts,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
    }


def _random_batch(program: Program, seed: int) -> Batch:
    sampler, grader = program.sampler, program.grading.grader
    B, P = program.batch_size, sampler.config.max_prompt_tokens
    tokens_BP = np.random.default_rng(seed).integers(0, sampler.model.vocab_size, (B, P), np.int32)
    prompts = Prompts(jnp.asarray(tokens_BP), jnp.full(B, P, jnp.int32))
    fields = grader.encode_items([{}] * B, "bench")
    batch = Batch(prompts, jnp.arange(B), jnp.zeros(B, jnp.int32), fields)
    return jax.device_put(batch, batch_sharding(sampler.mesh))


def _time_parts(program: Program, params: Params, batches: list[Batch]) -> dict[str, float]:
    """Median seconds of rollout, grading and update, each compiled and run by itself."""
    sampler, grading, learner = program.sampler, program.grading, program.learner
    state = jax.device_put(
        init_state(params, learner.optimizer, 0), train_shardings(sampler.mesh, learner)
    )

    @jax.jit
    def run_sampler(params, batch):
        keys_BG = step_keys(sampler, state, batch)
        completions = sample(sampler, rollout_params(sampler, params), batch.prompts, keys_BG)
        return read_answers(grading, completions)

    @jax.jit
    def grade(completed, batch):
        return grade_completed(grading, completed, batch.item_fields)

    @jax.jit
    def update(state, batch, completed, grade):
        advantage_BG = advantages(grade.reward, grade.valid, learner.config)
        return policy_update(
            learner, state, batch.prompts, completed.rollout, advantage_BG, grade.valid
        )

    completions = [run_sampler(params, batch) for batch in batches]
    grades = [grade(c, batch) for c, batch in zip(completions, batches, strict=True)]
    inputs = list(zip(batches, completions, grades, strict=True))
    return {
        "rollout_s": _median([lambda b=b: run_sampler(params, b) for b in batches]),
        "grade_s": _median([lambda b=b, c=c: grade(c, b) for b, c, _ in inputs]),
        "update_s": _median([lambda i=i: update(state, *i) for i in inputs]),
    }


def _median(calls: list[Callable[[], object]]) -> float:
    jax.block_until_ready(calls[0]())
    seconds = []
    for call in calls:
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return round(statistics.median(seconds), 4)
