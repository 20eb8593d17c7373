"""Training: `train(config, workdir)` does a configuration's stages in order, or goes on with them.

The loop dispatches step k before it reads the metrics of step k - 1, so that the device never waits
for the host. Only a checkpoint or an evaluation synchronizes the two.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from rft_jax import data
from rft_jax.config import Config, EvalStage, RLStage, SFTStage, TrainingStage
from rft_jax.evaluation.bootstrap import intervals
from rft_jax.evaluation.models import (
    Evaluation,
    bucketed,
    columns,
    evaluate_models,
    make_batch,
    make_evaluator,
    summarize,
)
from rft_jax.graders import Items
from rft_jax.host_step import Batches, make_host_step
from rft_jax.learn.optimizer import (
    BASE,
    REFERENCE,
    TrainState,
    init_state,
    make_optimizer,
    state_shardings,
    weights,
)
from rft_jax.learn.supervised import SupervisedBatch, make_supervised_step
from rft_jax.logging.metrics import import_wandb, log, peak_memory_bytes, read_metrics, to_numbers
from rft_jax.logging.samples import sample_row
from rft_jax.logging.stage_logger import StageRecord
from rft_jax.models import Params
from rft_jax.parallel import (
    AsyncMax,
    batch_sharding,
    enter_on_all_hosts,
    from_local,
    is_first,
    local_rows,
    raise_on_all_hosts,
    replicated,
    to_host,
)
from rft_jax.report import CASES_FILE, Reporter, compare
from rft_jax.runs.checkpoint import METRIC, Checkpoints, abstract
from rft_jax.runs.datasets import baseline_files, index_tree
from rft_jax.runs.fingerprints import input_file
from rft_jax.runs.run import Run, lock_workdir, open_run
from rft_jax.step import Batch, Samples, StepOutput, compile_step, make_program, train_shardings
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.errors import RunFailed
from rft_jax.utils.files import write_atomically
from rft_jax.utils.signals import StopSignals, raise_interrupted

RESULTS_FILE = "results.json"


def train(config: Config, workdir: Path, began: float | None = None) -> None:
    """Runs every stage to its end; a stage that is done already is passed over.

    On several hosts all of them call it, inside of `parallel.joined`.

    Args:
        config: The experiment.
        workdir: New, or of the same configuration: then the run continues.
        began: `time.perf_counter()` at the start of the command; default: now.

    Raises:
        InputError: before anything is compiled, for input that cannot work.
        RunFailed: The run cannot go on.
        Interrupted: By a signal, with everything saved.
    """
    began = time.perf_counter() if began is None else began
    with raise_on_all_hosts():
        if config.wandb_project and is_first():
            import_wandb()
    with enter_on_all_hosts(lock_workdir(workdir)):
        run = open_run(config, workdir)
        use_compilation_cache(config.compilation_cache)
        with StopSignals() as stop:
            for stage in config.stages:
                if isinstance(stage, SFTStage):
                    _supervised(run, stage, stop, began)
                elif isinstance(stage, RLStage):
                    _reinforce(run, stage, stop, began)
                else:
                    _evaluate(run, stage, stop)
                began = time.perf_counter()


def _supervised(run: Run, stage: SFTStage, stop: StopSignals, began: float) -> None:
    items = run.data[stage.name].supervised
    model, optimizer = run.model(stage), _optimizer(run, stage)
    places = state_shardings(run.mesh, model, optimizer)
    batch_place = batch_sharding(run.mesh)
    step = jax.jit(
        make_supervised_step(model, optimizer, stage.gradient_accumulation, stage.logit_chunk),
        in_shardings=(places, batch_place),
        out_shardings=(places, replicated(run.mesh)),
        donate_argnums=0,
    )
    seed = run.seed(stage)
    here = local_rows(batch_place, stage.batch_size)

    def batch_of(k: int, state: TrainState) -> SupervisedBatch:
        del state
        rows = data.batch_at(len(items.tokens_MT), stage.batch_size, k * stage.batch_size, seed)
        batch = SupervisedBatch(*index_tree(tuple(items), rows.indices_B[here]))
        return from_local(batch, batch_place, stage.batch_size)

    def describe(output: dict[str, Any], k: int) -> dict[str, Any]:
        del k
        return _named(output)

    program = contextlib.nullcontext((step, None))
    _drive(run, stage, stop, began, optimizer, places, program, batch_of, describe)


def _reinforce(run: Run, stage: RLStage, stop: StopSignals, began: float) -> None:
    items = run.data[stage.name]
    model, optimizer = run.model(stage), _optimizer(run, stage)
    program = make_program(model, optimizer, run.grader, run.tokenizer, stage, run.mesh)
    seed, size = run.seed(stage), stage.batch_size
    batch_place = batch_sharding(run.mesh)
    here = local_rows(batch_place, size)

    def batches_at(cursor: int, count: int) -> tuple[Batch, ...]:
        firsts = [cursor + part * size for part in range(count)]
        parts = [data.batch_at(len(items.train.items), size, first, seed) for first in firsts]
        rows = np.concatenate([part.indices_B for part in parts])
        max_prompt_tokens = bucketed(items.train, rows, stage.rollout)
        batches = (
            make_batch(items.train, part.indices_B[here], part.draw_B[here], max_prompt_tokens)
            for part in parts
        )
        return tuple(from_local(batch, batch_place, size) for batch in batches)

    def batch_of(k: int, state: TrainState) -> Batch | tuple[Batch, ...] | Batches:
        if stage.max_resample_batches > 1:
            cursor = int(jax.device_get(state.cursor))  # known when the step before is done
            return batches_at(cursor, stage.max_resample_batches)
        if not run.grader.needs_host:
            return batches_at(k * size, 1)[0]
        # Samples ahead are in no checkpoint: there are none when one is written.
        intervals = stage.eval_interval, stage.checkpoint_interval
        saves = any(_due(k + 1, stage, interval) for interval in intervals)
        (batch,), following = batches_at(k * size, 1), None
        if stage.async_rollout and not saves and k + 1 < stage.steps:
            (following,) = batches_at((k + 1) * size, 1)
        return Batches(batch, following)

    def describe(output: StepOutput, k: int) -> dict[str, Any]:
        if k % stage.samples_interval == 0 or k == stage.steps:
            samples = to_host(output.samples, run.mesh)
            try:
                if is_first():
                    _write_samples(run, stage, k, samples)
            except OSError as error:
                log(f"warning: the samples of step {k} could not be written ({error})")
        return _named(output.metrics)

    @contextlib.contextmanager
    def open_program() -> Iterator[tuple[Callable, Callable | None]]:
        with enter_on_all_hosts(run.grader.open_host()) as host:
            evaluator = None
            if items.valid is not None and stage.eval_interval:
                noise = run.seed(stage, "valid")
                evaluator = make_evaluator(program, host, items.valid, stage.eval_samples, noise)
            if run.grader.needs_host:
                train_items = Items(items.train.items, items.train.source)
                yield make_host_step(program, host, train_items), evaluator
            else:
                yield compile_step(program), evaluator

    places = train_shardings(program)
    _drive(run, stage, stop, began, optimizer, places, open_program(), batch_of, describe)


def _evaluate(run: Run, stage: EvalStage, stop: StopSignals) -> None:
    """Compares the stage's models in `results.json`, unless it has them already."""
    file = run.workdir / RESULTS_FILE
    results = json.loads(file.read_text()) if file.exists() else {}
    evaluations = results.get("evaluations", {})
    if stage.name in evaluations:
        return
    trained = run.config.training_stages
    models = stage.models or tuple(earlier.name for earlier in trained)
    names = models + stage.baselines
    paths = [Path(name) if "/" in name else run.workdir / name for name in models]
    signum_of_all, lines, cases = AsyncMax(run.mesh), [], []
    items = input_file(run.workdir, f"stages.{stage.name}")
    start = time.perf_counter()
    answers = baseline_files(stage, items)
    for line in evaluate_models(paths, items, stage, run.seed(stage), answers):
        if "model" in line:
            model = names[len(cases)]
            cases.append(
                [[{"model": model, **row} for row in of_item] for of_item in line.pop("cases", [])]
            )
            if is_first():
                log(f"{stage.name} {model}  reward_mean {line['reward_mean']:.4f}")
        lines.append(line)
        if signum := signum_of_all(stop.signum):
            raise_interrupted(signum)
    if not is_first():
        return
    run.directory(stage).mkdir(exist_ok=True)
    by_item = itertools.chain.from_iterable(zip(*cases, strict=True))
    write_atomically(
        run.directory(stage) / CASES_FILE, _json_lines(itertools.chain.from_iterable(by_item))
    )
    seconds = time.perf_counter() - start
    if not evaluations:
        rows = [row for s in trained for row in read_metrics(run.directory(s) / "metrics.jsonl")]
        results["wall_s"] = sum(row["timing"]["full_iteration"] for row in rows)
    results |= {
        "seed": run.config.seed,
        "wall_s": round(results["wall_s"] + seconds, 1),
        "peak_rss_bytes": peak_memory_bytes(),
        "evaluations": evaluations | {stage.name: compare(lines, names)},
    }
    write_atomically(file, json.dumps(results, indent=2) + "\n")
    Reporter(run.workdir).finish()


def _drive(
    run: Run,
    stage: TrainingStage,
    stop: StopSignals,
    began: float,
    optimizer: Any,
    places: TrainState,
    program: contextlib.AbstractContextManager[tuple[Callable, Callable | None]],
    batch_of: Callable[[int, TrainState], Any],
    describe: Callable[[Any, int], dict[str, Any]],
) -> None:
    """The run loop of a stage.

    Args:
        stop: Asked after every step.
        began: When the command did, or the stage before was left.
        places: The state's shardings.
        program: Entered when there is something left to do; gives the step, jitted (state, batch)
            -> (state, output), the state donated; and all weights -> `Evaluation`, or None.
        batch_of: (k, the state before it) -> the input of the k-th step, k from 0, global arrays.
        describe: (output, number of steps done) -> the metrics line.
    """
    directory, model = run.directory(stage), run.model(stage)
    signum_of_all = AsyncMax(run.mesh)
    with Checkpoints(run.checkpoints(stage)) as checkpoints:
        done = checkpoints.latest() or 0
        rewards = _validation_rewards(directory, done)
        if done >= stage.steps or _stale(stage, rewards):
            return
        state = _start(run, stage, optimizer, places, checkpoints)
        with program as (step, evaluator), StageRecord(run, stage, done, began) as record:

            def evaluate() -> dict[str, Any]:
                row = _validation(run, evaluator, weights(model, state))
                rewards.append(row[METRIC])
                return row

            if done == 0 and evaluator is not None:
                record({"step": 0, **evaluate()})
            pending = None
            for k in range(done, stage.steps):
                with jax.transfer_guard("disallow"):
                    state, output = step(state, batch_of(k, state))
                    if pending is not None:
                        record({"step": k, **describe(pending, k)})
                    signum = signum_of_all(stop.signum)
                pending = output
                evaluates = evaluator is not None and _due(k + 1, stage, stage.eval_interval)
                if not (evaluates or signum or _due(k + 1, stage, stage.checkpoint_interval)):
                    continue
                row = {"step": k + 1, **describe(pending, k + 1)}
                pending = None
                if evaluates:
                    found = evaluate()
                    row |= found | {"timing": row["timing"] | found["timing"]}
                record(row)
                checkpoints.save(k + 1, state, rewards[-1] if evaluates else None)
                if signum:
                    _require_saved(checkpoints, k + 1, directory)
                    raise_interrupted(signum)
                if evaluates and _stale(stage, rewards):
                    if is_first():
                        log(
                            f"{stage.name}: it ends, no better after {stage.early_stopping_patience} validations"
                        )
                    break
        _require_saved(checkpoints, k + 1, directory)


def _validation(
    run: Run, evaluator: Callable[[Params], Evaluation], params: Params
) -> dict[str, Any]:
    """A metrics row of the validation items, without its step."""
    start = time.perf_counter()
    evaluation = evaluator(params)
    found = columns(evaluation, run.grader)
    summary = to_numbers(summarize(evaluation, found))
    low, high = intervals({"reward_mean": found["reward_mean"]})["reward_mean"]
    summary |= {"reward_mean_low": low, "reward_mean_high": high}
    row = {f"valid_{name}": value for name, value in summary.items()}
    return row | {"timing": {"eval": round(time.perf_counter() - start, 4)}}


def _require_saved(checkpoints: Checkpoints, step: int, directory: Path) -> None:
    checkpoints.wait()
    with raise_on_all_hosts():
        if checkpoints.latest() != step:
            raise RunFailed(
                f"{directory}: the checkpoint of step {step} could not be written; make room and "
                "start the same command again"
            )


def _validation_rewards(directory: Path, done: int) -> list[float]:
    """The validation rewards up to a step, of a run that goes on; at 0 all are made again."""
    if not done:
        return []
    rows = read_metrics(directory / "metrics.jsonl")
    return [row[METRIC] for row in rows if METRIC in row and row["step"] <= done]


def _stale(stage: TrainingStage, rewards: list[float]) -> bool:
    """Whether the last `patience` validations were no better than those before."""
    patience = getattr(stage, "early_stopping_patience", 0)
    return 0 < patience < len(rewards) and max(rewards[-patience:]) <= max(rewards[:-patience])


def _start(
    run: Run, stage: TrainingStage, optimizer: Any, places: TrainState, checkpoints: Checkpoints
) -> TrainState:
    """The state of the newest checkpoint, or that of the first step."""
    model, reference = run.model(stage), REFERENCE in places.frozen
    seed = run.seed(stage)

    def initial() -> Params:
        if (params := run.load_init(stage)) is not None:
            return params
        return jax.jit(model.init, out_shardings=places.params)(jax.random.key(seed))

    def init(params: Params) -> TrainState:
        return init_state(params, optimizer, seed, reference=reference)

    if (latest := checkpoints.latest()) is not None:
        if is_first():
            log(f"{stage.name}: going on from step {latest}")
        shape = jax.eval_shape(lambda: init(model.init(jax.random.key(0))))
        state = checkpoints.restore(latest, abstract(shape, places))
        if reference:
            frozen = jax.jit(lambda params: init(params).frozen, out_shardings=places.frozen)
            return state._replace(frozen=frozen(initial()))
        return state._replace(frozen={BASE: run.load_base(stage)} if places.frozen else {})
    return jax.jit(init, out_shardings=places, donate_argnums=0)(initial())


def _optimizer(run: Run, stage: TrainingStage) -> optax.GradientTransformation:
    updates = stage.policy_loss.epochs_per_batch if isinstance(stage, RLStage) else 1
    lora = run.model_config(stage).lora is not None
    return make_optimizer(stage.optimizer, stage.steps, updates, lora=lora)


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


def _due(k: int, stage: TrainingStage, interval: int) -> bool:
    return bool(interval) and (k % interval == 0 or k == stage.steps)


def _write_samples(run: Run, stage: RLStage, k: int, samples: Samples) -> None:
    """The step's samples as JSON lines in `samples/`, for people to read."""
    items = run.data[stage.name].train.items
    (rollout, answers, _), grade = samples.completed, samples.grade
    rows = []
    for b, g in np.ndindex(rollout.length_BG.shape):
        row = sample_row(
            run.tokenizer,
            rollout.tokens_BGT[b, g],
            answers.bytes[b, g, : answers.length[b, g]].tobytes(),
            thinking_tokens=rollout.thinking_tokens_BG[b, g],
            stopped=rollout.stopped_BG[b, g],
            reward=grade.reward[b, g],
            valid=grade.valid[b, g],
            scores={name: score[b, g] for name, score in grade.scores.items()},
            errors={name: flag[b, g] for name, flag in grade.errors.items()},
        )
        row |= {"step": k, "advantage": to_numbers(samples.advantage_BG[b, g])}
        row |= {"prompt": items[samples.prompt_id_B[b]]["messages"]}
        rows.append(row)
    directory = run.directory(stage) / "samples"
    directory.mkdir(exist_ok=True)
    (directory / f"step_{k:06d}.jsonl").write_bytes(_json_lines(rows))


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "replace")
