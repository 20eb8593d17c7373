"""`rft bench`: full RFT steps on random prompts, and where their time goes.

Every completion is forced to its full length (stop tokens are masked), the reward is the share of
vowels, computed on the device, and the weights are float32.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import MeshConfig, RLStage, RolloutConfig
from rft_jax.graders import ERRORS, Grade, Sample
from rft_jax.learn.advantages import advantages
from rft_jax.learn.optimizer import init_state, make_optimizer
from rft_jax.learn.policy import policy_update
from rft_jax.logging.metrics import peak_memory_bytes
from rft_jax.models import build_model
from rft_jax.parallel import batch_parts, batch_sharding, check_batch, make_mesh
from rft_jax.rollout import Prompts, completion_keys
from rft_jax.runs.run import open_model
from rft_jax.step import (
    Batch,
    Program,
    compile_step,
    complete,
    grade_completed,
    make_program,
    rollout_params,
    train_shardings,
)
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.errors import InputError

WARM_UP = 2  # steps left out of the median
VOWELS = b"aeiou"


class VowelShare:
    """A grader outside the registry: the share of vowels among the answer's bytes."""

    judge_params: dict[str, Any] = {}

    def grade(
        self, sample: Sample, item_fields: Any, found_on_host: Any, judge_params: Any
    ) -> Grade:
        """Rewards [N]; needs nothing of the items, the host or a judge."""
        del item_fields, found_on_host, judge_params
        text = sample.output_text
        vowels_N = jnp.isin(text.bytes, jnp.frombuffer(VOWELS, jnp.uint8)).sum(axis=-1)
        reward_N = vowels_N / jnp.maximum(text.length, 1)
        no_N = jnp.zeros(reward_N.shape, bool)
        return Grade(reward_N, ~no_N, {}, {name: no_N for name in ERRORS}, {})


def bench(
    path: Path, *, prompt: int, completion: int, prompts: int, group: int, steps: int
) -> dict[str, Any]:
    """Times `steps` steps; the first two are left out of the median.

    Args:
        path: A model, as for `run.open_model`.
        prompt: Tokens of a prompt, P.
        completion: Tokens of a completion, T.
        prompts: Prompts a step, B; split over all devices.
        group: Samples per prompt, G.
        steps: At least 3.

    Returns:
        Seconds of a step and of its parts run apart, completions and completion tokens per second,
        and the peak memory.
    """
    if min(prompt, prompts) < 1 or min(completion, group) < 2 or steps <= WARM_UP:
        raise InputError(
            "bench: --prompt and --prompts must be at least 1, --completion and --group 2, --steps "
            f"{WARM_UP + 1}"
        )
    run, source, at = open_model(path)
    use_compilation_cache(run.config.compilation_cache)
    config = dataclasses.replace(run.model_config(source), compute_dtype="float32")
    mesh = make_mesh(MeshConfig())
    check_batch(mesh, prompts, "--prompts")
    model = build_model(config, run.model(source).vocab_size, batch_sharding(mesh))
    rollout = RolloutConfig(
        group_size=group,
        max_prompt_tokens=prompt,
        max_completion_tokens=completion,
        output_bytes=8 * completion,
        reasoning_effort=0,
    )
    stage = RLStage(batch_size=prompts, rollout=rollout)
    optimizer = make_optimizer(stage.optimizer, steps)
    program = make_program(model, optimizer, VowelShare(), run.tokenizer, stage, mesh)
    stops = (*program.mask.forbidden_ids, *program.stop_ids)
    program = dataclasses.replace(
        program, mask=dataclasses.replace(program.mask, forbidden_ids=stops, end_of_think_id=None)
    )
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
    completions = prompts * group
    return {
        "name": "rft_jax",
        "prompt": prompt,
        "completion": completion,
        "prompts": prompts,
        "group": group,
        "step_s": round(step_s, 4),
        "completions_per_s": round(completions / step_s, 3),
        "completion_tokens_per_s": round(completions * completion / step_s, 1),
        **parts,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
    }


def _random_batch(program: Program, seed: int) -> Batch:
    B, P = program.stage.batch_size, program.stage.rollout.max_prompt_tokens
    tokens_BP = np.random.default_rng(seed).integers(0, program.model.vocab_size, (B, P), np.int32)
    prompts = Prompts(tokens_BP, np.full(B, P, np.int32))
    batch = Batch(prompts, np.arange(B, dtype=np.int32), np.zeros(B, np.int32), {})
    return jax.device_put(batch, batch_sharding(program.mesh))


def _time_parts(program: Program, params: Any, batches: list[Batch]) -> dict[str, float]:
    """Median seconds of rollout, grading and update, each compiled and run by itself."""
    group, loss = program.stage.rollout.group_size, program.stage.policy_loss
    state = jax.device_put(init_state(params, program.optimizer, 0), train_shardings(program))

    @jax.jit
    def sample(params, batch):
        zero = jnp.zeros((), jnp.int32)
        keys = completion_keys(zero, zero, batch.prompt_id_B, batch.draw_B, group)
        return complete(program, rollout_params(program, params), batch, keys)

    @jax.jit
    def grade(completed, batch):
        return grade_completed(program, completed, batch.item_fields)

    @jax.jit
    def update(state, batch, completed, grade):
        advantage_BG = advantages(grade.reward, grade.valid, loss.baseline)
        return policy_update(
            program.model, program.optimizer, state, batch.prompts, completed.rollout, advantage_BG,
            grade.valid, program.mask, temperature=1.0, config=loss,
            data_shards=batch_parts(program.mesh),
        )  # fmt: skip

    completions = [sample(params, batch) for batch in batches]
    grades = [grade(c, batch) for c, batch in zip(completions, batches, strict=True)]
    inputs = list(zip(batches, completions, grades, strict=True))
    return {
        "rollout_s": _median([lambda b=b: sample(params, b) for b in batches]),
        "grade_s": _median([lambda b=b, c=c: grade(c, b) for b, c, _ in inputs]),
        "update_s": _median([lambda i=i: update(state, *i) for i in inputs]),
    }


def _median(calls: list[Callable[[], Any]]) -> float:
    jax.block_until_ready(calls[0]())
    seconds = []
    for call in calls:
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return round(statistics.median(seconds), 4)
