"""Training: `train(config, workdir)` does a configuration's stages in order, or goes on with them.

The loop dispatches step k before it reads the metrics of step k - 1, so that the device never waits
for the host. Only a checkpoint or an evaluation synchronises the two.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rft_jax import data
from rft_jax.checkpoint import Checkpoints, abstract
from rft_jax.config import Config, ReinforceStage, Stage, SupervisedStage
from rft_jax.evaluate import make_batch, make_evaluator, summarise
from rft_jax.graders import Items
from rft_jax.host_step import make_host_step
from rft_jax.learn.optimizer import TrainState, init_state, make_optimizer, state_shardings
from rft_jax.learn.supervised import SupervisedBatch, make_supervised_step
from rft_jax.metrics import MetricsFile, log, peak_memory_bytes, to_numbers
from rft_jax.parallel import batch_sharding, replicated
from rft_jax.run import Run, open_run, take
from rft_jax.step import Batch, Samples, StepOutput, compile_step, make_program, train_shardings


def train(config: Config, workdir: Path) -> None:
    """Runs every stage to its end; a stage that is done already is passed over.

    Args:
        config: The experiment.
        workdir: New, or of the same configuration: then the run continues.

    Raises:
        InputError: before anything is compiled, for input that cannot work.
    """
    run = open_run(config, workdir)
    for stage in config.stages:
        if isinstance(stage, SupervisedStage):
            _supervised(run, stage)
        else:
            _reinforce(run, stage)


def _supervised(run: Run, stage: SupervisedStage) -> None:
    items = run.data[stage.name].supervised
    model, optimizer = run.model(stage), make_optimizer(stage.optimizer, stage.steps)
    places = state_shardings(run.mesh, model, optimizer)
    batch_place = batch_sharding(run.mesh)
    step = jax.jit(
        make_supervised_step(model, optimizer, stage.micro_batches, stage.logit_chunk),
        in_shardings=(places, batch_place),
        out_shardings=(places, replicated(run.mesh)),
        donate_argnums=0,
    )
    seed = run.seed(stage)

    def batch_of(k: int) -> SupervisedBatch:
        rows = data.batch_at(len(items.tokens_MT), stage.batch_size, k * stage.batch_size, seed)
        return SupervisedBatch(*take(tuple(items), rows.indices_B))

    def describe(output: dict[str, Any], k: int) -> dict[str, Any]:
        del k
        return _named(output)

    _drive(run, stage, optimizer, places, step, batch_of, describe)


def _reinforce(run: Run, stage: ReinforceStage) -> None:
    items = run.data[stage.name]
    model, optimizer = run.model(stage), make_optimizer(stage.optimizer, stage.steps)
    program = make_program(model, optimizer, run.grader, run.tokenizer, stage, run.mesh)
    seed = run.seed(stage)

    def batch_of(k: int) -> Batch:
        rows = data.batch_at(len(items.train.items), stage.batch_size, k * stage.batch_size, seed)
        return make_batch(items.train, rows.indices_B, rows.draw_B)

    def describe(output: StepOutput, k: int) -> dict[str, Any]:
        if k % stage.samples_interval == 0 or k == stage.steps:
            samples = jax.device_get(output.samples)
            _write_samples(run, stage, k, batch_of(k - 1).prompt_id_B, samples)
        return _named(output.metrics)

    with run.grader.open_host() as host:
        evaluator = None
        if items.valid is not None and stage.eval_interval:
            evaluator = make_evaluator(program, host, items.valid, stage.eval_samples, seed)
        if run.grader.needs_host:
            step = make_host_step(program, host, Items(items.train.items, items.train.source))
        else:
            step = compile_step(program)
        places = train_shardings(program)
        _drive(run, stage, optimizer, places, step, batch_of, describe, evaluator)


def _drive(
    run: Run,
    stage: Stage,
    optimizer: Any,
    places: TrainState,
    step: Callable,
    batch_of: Callable[[int], Any],
    describe: Callable[[Any, int], dict[str, Any]],
    evaluator: Callable | None = None,
) -> None:
    """The run loop of a stage.

    Args:
        places: The state's shardings.
        step: Jitted (state, batch) -> (state, output), the state donated.
        batch_of: The k-th batch as NumPy arrays, k from 0.
        describe: (output, number of steps done) -> the metrics line.
        evaluator: weights -> `Evaluation`.
    """
    directory = run.directory(stage)
    batch_place = batch_sharding(run.mesh)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        done = checkpoints.latest() or 0
        if done >= stage.steps:
            return
        state = _start(run, stage, optimizer, places, checkpoints)
        with MetricsFile(directory / "metrics.jsonl", done) as metrics:
            clock = _Clock()

            def record(row: dict[str, Any]) -> None:
                timing = clock.lap(row.get("train_tokens")) | row.pop("timing", {})
                row = {"stage": stage.name, **row, "timing": timing}
                metrics.write(row)
                _log_row(stage, row)

            def evaluate(params: Any) -> dict[str, Any]:
                if evaluator is None:
                    return {}
                return {f"valid_{k}": v for k, v in summarise(evaluator(params)).items()}

            if done == 0 and evaluator is not None:
                record({"step": 0, **evaluate(state.params)})
            pending = None
            with jax.transfer_guard("disallow"):
                for k in range(done, stage.steps):
                    state, output = step(state, jax.device_put(batch_of(k), batch_place))
                    if pending is not None:
                        record({"step": k, **describe(pending, k)})
                    pending = output
                    evaluates = _due(k + 1, stage, getattr(stage, "eval_interval", 0))
                    saves = _due(k + 1, stage, stage.checkpoint_interval)
                    if not (evaluates or saves):
                        continue
                    row = {"step": k + 1, **describe(pending, k + 1)}
                    pending = None
                    with jax.transfer_guard("allow"):  # a synchronising place
                        record(row | (evaluate(state.params) if evaluates else {}))
                        if saves:
                            checkpoints.save(k + 1, state)


def _start(
    run: Run, stage: Stage, optimizer: Any, places: TrainState, checkpoints: Checkpoints
) -> TrainState:
    """The state of the newest checkpoint, of an earlier stage's end, or a random one."""
    model, reference = run.model(stage), bool(places.frozen)
    seed = run.seed(stage)
    fresh = jax.jit(
        lambda params: init_state(params, optimizer, seed, reference=reference),
        out_shardings=places,
    )
    if (latest := checkpoints.latest()) is not None:
        log(f"{stage.name}: going on from step {latest}")
        shape = jax.eval_shape(lambda: fresh(model.init(jax.random.key(0))))
        return checkpoints.restore(latest, abstract(shape, places))
    if stage.init:
        return fresh(run.load_init(stage))
    init = jax.jit(model.init, out_shardings=places.params)
    return fresh(init(jax.random.key(seed)))


def _named(metrics: dict[str, jax.Array]) -> dict[str, Any]:
    """A step's scalars on the host, under their names in the metrics file.

    Those called `timing/...` join the seconds in the row's `timing`.
    """
    row, timing = {}, {}
    for name, value in jax.device_get(metrics).items():
        if name.startswith("timing/"):
            timing[name.removeprefix("timing/")] = to_numbers(value)
        else:
            row[f"train_{name}"] = to_numbers(value)
    return row | {"timing": timing}


def _due(k: int, stage: Stage, interval: int) -> bool:
    return bool(interval) and (k % interval == 0 or k == stage.steps)


class _Clock:
    """Seconds between metrics lines."""

    def __init__(self):
        self._last = time.perf_counter()

    def lap(self, tokens: float | None) -> dict[str, Any]:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        timing = {"seconds": round(seconds, 4), "peak_memory_bytes": peak_memory_bytes()}
        return timing | ({"tokens_per_s": round(tokens / seconds, 1)} if tokens else {})


def _log_row(stage: Stage, row: dict[str, Any]) -> None:
    """One line of progress for a metrics line, thinned out for supervised stages."""
    k = row["step"]
    if isinstance(stage, SupervisedStage) and k % stage.log_interval and k != stage.steps:
        return
    shown = ["train_loss", "train_reward_mean", "valid_reward_mean", "valid_top1", "train_entropy"]
    values = "  ".join(f"{name} {row[name]:.4f}" for name in shown if row.get(name) is not None)
    log(f"{stage.name} {k}/{stage.steps}  {values}  {row['timing']['seconds']:.2f} s")


def _write_samples(
    run: Run, stage: ReinforceStage, k: int, prompt_id_B: np.ndarray, samples: Samples
) -> None:
    """The step's samples as JSON lines in `samples/`, for people to read."""
    items = run.data[stage.name].train.items
    (rollout, answers, _), grade = samples.completed, samples.grade
    lines = []
    for b, g in np.ndindex(rollout.length_BG.shape):
        tokens = rollout.tokens_BGT[b, g].tolist()
        text = answers.bytes[b, g, : answers.length[b, g]]
        line = {
            "step": k,
            "prompt": items[prompt_id_B[b]]["messages"],
            "thought": run.tokenizer.decode(tokens[: rollout.thinking_tokens_BG[b, g]]),
            "answer": text.tobytes().decode(errors="replace"),
            "stop_reason": "stop" if rollout.stopped_BG[b, g] else "length",
            "reward": grade.reward[b, g],
            "valid": bool(grade.valid[b, g]),
            "scores": {name: score[b, g] for name, score in grade.scores.items()},
            "errors": [name for name, flag in grade.errors.items() if flag[b, g]],
            "advantage": samples.advantage_BG[b, g],
        }
        messages = line.pop("prompt")
        line = to_numbers({key: v for key, v in line.items() if key != "errors"}) | {
            "errors": line["errors"],
            "prompt": messages,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    directory = run.directory(stage) / "samples"
    directory.mkdir(exist_ok=True)
    (directory / f"step_{k:06d}.jsonl").write_text("\n".join(lines) + "\n")
