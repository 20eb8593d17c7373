"""Training: `train(config, workdir)` does a configuration's stages in order, or goes on with them.

The run loop dispatches step k before it reads the metrics of step k - 1, so that the device never
waits for the host. Only a checkpoint or an evaluation synchronizes the two.
"""

import time
from pathlib import Path

import jax

from rft_jax.config import Config
from rft_jax.learn.optimizer import Frozen, TrainState, init_state, weights
from rft_jax.logging.metrics import import_wandb
from rft_jax.logging.stage_logger import StageLogger
from rft_jax.models import Params
from rft_jax.parallel import AsyncMax, enter_on_all_hosts, is_first, raise_on_all_hosts
from rft_jax.plan.this_machine import check_memory
from rft_jax.report import end_of_run
from rft_jax.runs.checkpoint import METRIC, Checkpoints, abstract
from rft_jax.runs.prepare import open_run
from rft_jax.runs.run import Run
from rft_jax.runs.warm_start import load_init
from rft_jax.runs.workdir import lock_workdir
from rft_jax.stages import STAGE_TYPES, TrainingStage, make_stage
from rft_jax.stages.base import Row, Validate, is_due
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.console import log
from rft_jax.utils.errors import RunFailed
from rft_jax.utils.metrics_file import METRICS_FILE, read_metrics
from rft_jax.utils.numbers import to_numbers
from rft_jax.utils.signals import StopSignals, raise_interrupted


def train(config: Config, workdir: Path, began: float | None = None) -> None:
    """Runs every stage to its end; a stage that is done already is passed over.

    On several hosts all of them call it, inside of `parallel.distributed_session`.

    Args:
        config: The experiment.
        workdir: New, or of the same configuration: then the run continues.
        began: `time.perf_counter()` at the start of the command; default: now.

    Raises:
        InputError: Before anything is compiled, for input that cannot work.
        RunFailed: The run cannot go on.
        Interrupted: By a signal, with everything saved.
    """
    began = time.perf_counter() if began is None else began
    with raise_on_all_hosts():
        if config.wandb_project and is_first():
            import_wandb()
    with enter_on_all_hosts(lock_workdir(workdir)):
        run = open_run(config, workdir, STAGE_TYPES)
        with raise_on_all_hosts():
            for stage in config.rl_stages:
                model = run.model(stage)
                check_memory(run.model_config(stage), model.vocab_size, stage, run.mesh)
        use_compilation_cache(config.compilation_cache)
        with StopSignals() as stop:
            for stage_config in config.stages:
                make_stage(run, stage_config).run(RunLoop(run, stop, began))
                began = time.perf_counter()
        if is_first():
            for sentence in end_of_run(workdir):
                log(sentence)


class RunLoop:
    """What drives a stage from its newest checkpoint to its end.

    Args:
        run: The open run.
        stop: Asked after every step.
        began: When the command did, or the stage before was left.
    """

    def __init__(self, run: Run, stop: StopSignals, began: float):
        self.run = run
        self._stop, self._began = stop, began
        self._signum_of_all = AsyncMax(run.mesh)

    def stop_if_asked(self) -> None:
        """Ends the run in good order if any host was asked to stop; collective."""
        if signum := self._signum_of_all(self._stop.signum):
            raise_interrupted(signum)

    def drive(self, stage: TrainingStage) -> None:
        """Takes a stage's steps to their end, with evaluations, checkpoints and metrics."""
        config, directory = stage.config, self.run.directory(stage.config)
        with Checkpoints(self.run.checkpoints(config)) as checkpoints:
            done = checkpoints.latest() or 0
            rewards = _validation_rewards(directory, done)
            if done >= config.steps or _is_stale(stage, rewards):
                if is_first():
                    log(f"{config.name}: done already, {done} of {config.steps} steps")
                return
            state = _start(self.run, stage, checkpoints)
            with (
                stage.open() as compiled,
                StageLogger(self.run, config, done, self._began, self._stop) as record,
            ):
                validate = compiled.validate
                if done == 0 and validate is not None:
                    row = _validation(validate, weights(stage.model, state), 0)
                    rewards += [row[METRIC]] if METRIC in row else []
                    record({"step": 0, **row})
                pending = None
                for k in range(done, config.steps):
                    # What is not sent on purpose would make the device wait for the host.
                    with jax.transfer_guard("disallow"):
                        state, output = compiled.step(state, stage.batch(k, state))
                        if pending is not None:  # the device works on step k meanwhile
                            record({"step": k, **stage.metrics(pending, k)})
                        signum = self._signum_of_all(self._stop.signum)
                    pending = output
                    evaluates = is_due(k + 1, config.steps, stage.eval_interval)
                    saves = is_due(k + 1, config.steps, config.checkpoint_interval)
                    if not (evaluates or signum or saves):
                        continue
                    row: Row = {"step": k + 1, **stage.metrics(pending, k + 1)}
                    pending = None
                    if evaluates and validate is not None:
                        found = _validation(validate, weights(stage.model, state), k + 1)
                        rewards += [found[METRIC]] if METRIC in found else []
                        row |= found | {"timing": row["timing"] | found["timing"]}
                    record(row)
                    checkpoints.save(k + 1, state, row.get(METRIC))
                    if signum:
                        _require_saved(checkpoints, k + 1, directory)
                        raise_interrupted(signum)
                    if evaluates and _is_stale(stage, rewards):
                        if is_first():
                            count = stage.early_stopping_patience
                            log(f"{config.name}: early stopping, no better in {count} validations")
                        break
            _require_saved(checkpoints, k + 1, directory)


def _validation(validate: Validate, params: Params, step: int) -> Row:
    """A metrics row of the validation items, without its step."""
    start = time.perf_counter()
    found = to_numbers(validate(params, step))
    row = {f"valid_{name}": value for name, value in found.items()}
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
    rows = read_metrics(directory / METRICS_FILE)
    return [row[METRIC] for row in rows if METRIC in row and row["step"] <= done]


def _is_stale(stage: TrainingStage, rewards: list[float]) -> bool:
    """Whether the last validations, as many as the patience, were no better than those before."""
    patience = stage.early_stopping_patience
    return 0 < patience < len(rewards) and max(rewards[-patience:]) <= max(rewards[:-patience])


def _start(run: Run, stage: TrainingStage, checkpoints: Checkpoints) -> TrainState:
    """The state of the newest checkpoint, or that of the first step."""
    config, shardings = stage.config, stage.state_shardings()
    reference, seed = shardings.frozen.reference is not None, run.seed(config)

    def initial() -> Params:
        if (params := load_init(run, config)) is not None:
            return params
        return jax.jit(stage.model.init, out_shardings=shardings.params)(jax.random.key(seed))

    def init(params: Params) -> TrainState:
        return init_state(params, stage.optimizer, seed, reference=reference)

    if (latest := checkpoints.latest()) is None:
        return jax.jit(init, out_shardings=shardings, donate_argnums=0)(initial())
    if is_first():
        log(f"{config.name}: going on from step {latest}")
    shape = jax.eval_shape(lambda: init(stage.model.init(jax.random.key(0))))
    state = checkpoints.restore(latest, abstract(shape, shardings))
    if reference:  # it is not in the checkpoint: it is what the stage started from
        frozen = jax.jit(lambda params: init(params).frozen, out_shardings=shardings.frozen)
        return state._replace(frozen=frozen(initial()))
    base = run.load_base(config) if shardings.frozen.base else None
    return state._replace(frozen=Frozen(base))
