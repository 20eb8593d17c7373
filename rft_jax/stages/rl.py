"""Reinforcement fine-tuning: the stage around `step` and `host_step`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from rft_jax import data
from rft_jax.config import Config, DataConfig, RLStage
from rft_jax.graders import Grader, Items
from rft_jax.graders.template import item_fields
from rft_jax.host_step import Batches, make_host_step
from rft_jax.learn.optimizer import TrainState, make_optimizer
from rft_jax.logging.samples import write_samples
from rft_jax.parallel import (
    batch_sharding,
    enter_on_all_hosts,
    from_local,
    is_first,
    local_rows,
    to_host,
)
from rft_jax.runs.batches import bucketed, make_batch
from rft_jax.runs.datasets import Rows, StageData, encode_prompts, needed_file, read_prompts
from rft_jax.runs.run import Run
from rft_jax.stages.base import Compiled, Loop, Row, is_due, scalars_row
from rft_jax.stages.validation import note_best_constant, open_validation, read_validation
from rft_jax.step import Batch, StepOutput, compile_step, make_program, train_shardings
from rft_jax.tokenizers import Tokenizer
from rft_jax.utils.console import log


class RL:
    """A stage of reinforcement against the run's grader."""

    def __init__(self, run: Run, config: RLStage):
        self.config = config
        self.early_stopping_patience = config.early_stopping_patience
        self.model = run.model(config)
        self.optimizer = make_optimizer(
            config.optimizer,
            config.steps,
            config.policy_loss.epochs_per_batch,
            lora=run.model_config(config).lora is not None,
        )
        assert run.grader is not None
        self._run, self._grader, self._seed = run, run.grader, run.seed(config)
        self._items = run.data[config.name]
        self.eval_interval = config.eval_interval if self._items.valid is not None else 0
        self._sharding = batch_sharding(run.mesh)
        self._local_rows = local_rows(self._sharding, config.batch_size)
        self._program = make_program(
            self.model, self.optimizer, run.grader, run.tokenizer, config, run.mesh
        )

    @staticmethod
    def read(
        config: RLStage, files: DataConfig, workdir: Path, grader: Grader | None
    ) -> dict[str, Rows]:
        """Prompts to train on, and those to validate on, which must be others."""
        del workdir
        train = read_prompts(needed_file(files.train, "train", config), grader)
        return {"train": train, **read_validation(files, train, grader)}

    @staticmethod
    def encode(
        config: RLStage, rows: dict[str, Rows], whole: Config, tokenizer: Tokenizer
    ) -> StageData:
        """Prompts as tokens."""
        del whole
        valid = rows.get("valid")
        return StageData(
            train=encode_prompts(rows["train"], config, tokenizer),
            valid=encode_prompts(valid, config, tokenizer) if valid else None,
        )

    def run(self, loop: Loop) -> None:
        """Takes the steps that are left."""
        if self.config.rollout.truncates and is_first():
            log(truncation_warning(self.config))
        if self._items.valid is not None and self.eval_interval:
            note_best_constant(self._run, self.config, self._items.valid)
        loop.drive(self)

    def state_shardings(self) -> TrainState:
        """Where weights, the optimizer's state and the reference policy lie."""
        return train_shardings(self._run.mesh, self._program.learner)

    @contextlib.contextmanager
    def open(self) -> Iterator[Compiled]:
        """The step, in one program or cut in two for a grader on the host, and the validation."""
        run, items, grader = self._run, self._items, self._grader
        with contextlib.ExitStack() as stack:
            host = stack.enter_context(enter_on_all_hosts(grader.open_host()))
            validate = None
            if items.valid is not None and self.eval_interval > 0:
                validate = open_validation(
                    run, self.config, self._program.sampler, host, items.valid, stack
                )
            if grader.needs_host:
                rows = Items(items.prompts.items, items.prompts.source)
                step = make_host_step(self._program, host, rows, self.config.host_chunks)
                yield Compiled(step, validate)
            else:
                yield Compiled(compile_step(self._program), validate)

    def batch(self, k: int, state: TrainState) -> Batch | tuple[Batch, ...] | Batches:
        """The prompts of the k-th step; several batches where the step may resample."""
        config, size = self.config, self.config.batch_size
        if config.max_resample_batches > 1:
            cursor = int(jax.device_get(state.cursor))  # known when the step before is done
            return self._batches(cursor, config.max_resample_batches)
        (batch,) = self._batches(k * size, 1)
        if not self._grader.needs_host:
            return batch
        # Samples ahead are in no checkpoint: there are none when one is written.
        intervals = config.eval_interval, config.checkpoint_interval
        saves = any(is_due(k + 1, config.steps, interval) for interval in intervals)
        following = None
        if config.async_rollout and not saves and k + 1 < config.steps:
            (following,) = self._batches((k + 1) * size, 1)
        return Batches(batch, following)

    def _batches(self, cursor: int, count: int) -> tuple[Batch, ...]:
        """Batches from a place in the stage's order of the data, all of one prompt length."""
        items, size = self._items.prompts, self.config.batch_size
        firsts = [cursor + part * size for part in range(count)]
        parts = [data.batch_at(len(items.items), size, first, self._seed) for first in firsts]
        rows = np.concatenate([part.indices_B for part in parts])
        length = bucketed(items, rows, self.config.rollout)
        here = self._local_rows
        batches = (make_batch(items, p.indices_B[here], p.draw_B[here], length) for p in parts)
        return tuple(from_local(batch, self._sharding, size) for batch in batches)

    def metrics(self, output: StepOutput, step: int) -> Row:
        """The step's scalars; every so many steps its samples are written as well."""
        if is_due(step, self.config.steps, self.config.samples_interval):
            samples = to_host(output.samples, self._run.mesh)
            try:
                if is_first():
                    directory = self._run.directory(self.config) / "samples"
                    items = self._items.prompts.items
                    fields = item_fields(self._grader.spec)
                    tokenizer = self._run.tokenizer
                    write_samples(directory, step, samples, items, tokenizer, fields)
            except OSError as error:
                log(f"warning: the samples of step {step} could not be written ({error})")
        return scalars_row(output.metrics)


def truncation_warning(stage: RLStage) -> str:
    """What to know of a stage whose sampling is truncated."""
    section, remedy = f"stages.{stage.name}", ""
    if stage.policy_loss.importance == "none":
        remedy = f", and set {section}.policy_loss.importance=tis to correct for it"
    return (
        f"warning: {section}.rollout: with top_k={stage.rollout.top_k} and "
        f"top_p={stage.rollout.top_p} tokens are drawn from another policy than the one that "
        f"learns; leave truncation off, or watch sampler_learner_logprob_gap{remedy}"
    )
