"""A stage's metrics rows: into files, on the terminal, into the report.

with StageLogger(run, stage, done, began, stop) as record:
    record({"step": 1, "train_loss": 0.5})
"""

import time

from rft_jax.config import DistillationStage, TrainingStageConfig
from rft_jax.config.overrides import to_json
from rft_jax.logging.metrics import CompileCounter, MetricsFile, WandbRun, Writer, Writers
from rft_jax.logging.progress import Progress
from rft_jax.logging.tensorboard import TensorBoardFile
from rft_jax.logging.watch import Watch
from rft_jax.parallel import is_first, raise_on_all_hosts
from rft_jax.report import Reporter
from rft_jax.runs.checkpoint import METRIC
from rft_jax.runs.constant_record import read_constant
from rft_jax.runs.run import Run
from rft_jax.utils.console import log
from rft_jax.utils.errors import RunFailed
from rft_jax.utils.metrics_file import METRICS_FILE, read_metrics
from rft_jax.utils.numbers import peak_memory_bytes, to_numbers
from rft_jax.utils.signals import StopSignals
from rft_jax.utils.types import JsonObject


class StageLogger:
    """Where a stage's metrics rows go: files, the terminal, the report; a context manager.

    Only the first host writes and speaks; the others look as well whether the run can go on.
    """

    def __init__(
        self,
        run: Run,
        stage: TrainingStageConfig,
        done: int,
        began: float,
        stop: StopSignals,
    ):
        self._stage, self._stop = stage, stop
        self._began, self._first_step = began, done + 1
        self._first = is_first()
        with raise_on_all_hosts():
            self._writers = Writers(_open_writers(run, stage, done) if self._first else [])
        directory = run.directory(stage)
        constant = read_constant(directory)
        self._progress = Progress(
            stage.name,
            stage.steps,
            getattr(stage, "log_interval", 1),
            earlier=read_metrics(directory / METRICS_FILE) if done else (),
            constant=constant and constant.reward,
            stopping=lambda: stop.signum != 0,
            distilled=isinstance(stage, DistillationStage),
        )
        self._watch = Watch(stage)
        self._report = Reporter(run.workdir)
        self._compiled = CompileCounter()
        self._last = time.perf_counter()
        self._validating = 0.0  # seconds, before the first step is done

    def __enter__(self) -> "StageLogger":
        self._compiled.__enter__()
        self._writers.__enter__()
        if self._first:
            self._progress.__enter__()
            self._stop.quiet = self._progress.is_panel
        return self

    def __exit__(self, *exception: object) -> None:
        if self._first:
            self._warn(self._watch.finish())
        self._stop.quiet = False
        self._progress.__exit__(*exception)
        self._writers.__exit__(*exception)
        self._compiled.__exit__(*exception)
        if self._first:
            self._report.finish()

    def __call__(self, row: JsonObject) -> None:
        """Takes a row with its step.

        Raises:
            RunFailed: If too many updates in a row were left out.
        """
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        timing = {
            "full_iteration": round(seconds, 4),
            "peak_memory_bytes": peak_memory_bytes(),
            "compilations": self._compiled.count,
            "compilations_cached": self._compiled.cached,
            "compile_seconds": round(self._compiled.seconds, 2),
        }
        timing |= row.pop("timing", {})
        if row["step"] <= self._first_step:
            self._validating += timing.get("eval", 0.0)
        if row["step"] == self._first_step:
            timing["first_step_seconds"] = round(now - self._began - self._validating, 4)
        for tokens in ("train_completion_tokens", "train_target_tokens"):  # RL's, SFT's
            if tokens in row:
                trained = seconds - timing.get("eval", 0.0)
                timing["tokens_per_s"] = round(to_numbers(row[tokens]) / trained, 1)
        row = to_numbers({"stage": self._stage.name, **row, "timing": timing})
        self._writers.write(row)
        if self._first:
            self._progress.update(row)
            self._warn(self._watch.update(row))
            if METRIC in row:
                self._report.update()
        skipped = row.get("train_skipped_updates", 0)
        if skipped >= self._stage.optimizer.max_nonfinite_updates:
            raise RunFailed(
                f"{self._stage.name}: the gradient was not finite in {skipped} steps in a row, up "
                f"to step {row['step']}, and the weights are those before; look at the samples and "
                "the metrics, lower the learning rate, and use another work directory"
            )

    def _warn(self, sentences: list[str]) -> None:
        for sentence in sentences:
            log(f"warning: {sentence}")


def _open_writers(run: Run, stage: TrainingStageConfig, done: int) -> list[Writer]:
    directory = run.directory(stage)
    writers: list[Writer] = [MetricsFile(directory / METRICS_FILE, done)]
    if run.config.tensorboard:
        writers.append(TensorBoardFile(directory / "tensorboard", done))
    if run.config.wandb_project:
        settings = to_json(run.config)
        writers.append(WandbRun(run.config.wandb_project, directory, run.config.name, settings))
    return writers
