"""Maximum likelihood on given completions: pre-training and supervised fine-tuning."""

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import numpy as np
from jax import Array

from rft_jax import data
from rft_jax.config import Config, DataConfig, SFTStage
from rft_jax.graders import Grader
from rft_jax.learn.optimizer import TrainState, make_optimizer, state_shardings
from rft_jax.learn.supervised import (
    SupervisedBatch,
    SupervisedSums,
    make_supervised_step,
    supervised_sums,
)
from rft_jax.models import Params
from rft_jax.parallel import batch_sharding, from_local, local_rows, replicated
from rft_jax.runs.datasets import Rows, StageData, index_tree, needed_file
from rft_jax.runs.run import Run
from rft_jax.stages.base import Compiled, Loop, Row, Validate, scalars_row
from rft_jax.tokenizers import Tokenizer


class SFT:
    """A stage of maximum likelihood over packed rows."""

    early_stopping_patience = 0

    def __init__(self, run: Run, config: SFTStage):
        self.config = config
        self.model = run.model(config)
        self.optimizer = make_optimizer(
            config.optimizer, config.steps, lora=run.model_config(config).lora is not None
        )
        self._mesh, self._seed = run.mesh, run.seed(config)
        self._rows = run.data[config.name].packed
        self._held_out = run.data[config.name].held_out
        self.eval_interval = config.eval_interval if self._held_out is not None else 0
        self._sharding = batch_sharding(run.mesh)
        self._local_rows = local_rows(self._sharding, config.batch_size)

    @staticmethod
    def read(
        config: SFTStage, files: DataConfig, workdir: Path, grader: Grader | None
    ) -> dict[str, Rows]:
        """The items that end with an assistant's message, and those for the loss on them."""
        del workdir, grader
        path = needed_file(getattr(files, config.data), config.data, config)
        train = Rows(path, data.load_supervised_items(path))
        if not config.valid:
            return {"supervised": train}
        valid = Rows(config.valid, data.load_supervised_items(Path(config.valid)))
        data.check_disjoint(train.items, valid.items, (train.source, valid.source))
        return {"supervised": train, "valid": valid}

    @staticmethod
    def encode(
        config: SFTStage, rows: dict[str, Rows], whole: Config, tokenizer: Tokenizer
    ) -> StageData:
        """Items side by side in rows of `max_row_tokens`."""
        del whole
        setting, limit = f"stages.{config.name}.max_row_tokens", config.max_row_tokens
        packed = {
            purpose: data.pack_supervised(row.items, tokenizer, limit, row.source, setting)
            for purpose, row in rows.items()
        }
        return StageData(packed["supervised"], packed.get("valid"))

    def run(self, loop: Loop) -> None:
        """Takes the steps that are left."""
        loop.drive(self)

    def state_shardings(self) -> TrainState:
        """Where weights and the optimizer's state lie."""
        return state_shardings(self._mesh, self.model, self.optimizer)

    def open(self) -> AbstractContextManager[Compiled]:
        """The jitted step, and what measures the loss on items that are held out."""
        state, config = self.state_shardings(), self.config
        step = jax.jit(
            make_supervised_step(
                self.model, self.optimizer, config.gradient_accumulation, config.logit_chunk
            ),
            in_shardings=(state, self._sharding),
            out_shardings=(state, replicated(self._mesh)),
            donate_argnums=0,
        )
        validate = self._validate() if self.eval_interval else None
        return contextlib.nullcontext(Compiled(step, validate))

    def _validate(self) -> Validate:
        """Mean loss and accuracy of the tokens that are held out, a part of a batch at a time."""
        assert self._held_out is not None
        rows = tuple(self._held_out)
        size = self.config.batch_size // self.config.gradient_accumulation
        local = local_rows(self._sharding, size)
        here = replicated(self._mesh)

        def of_batch(params: Params, batch: SupervisedBatch) -> SupervisedSums:
            return supervised_sums(self.model, params, batch, self.config.logit_chunk)

        sums = jax.jit(of_batch, in_shardings=(None, self._sharding), out_shardings=here)

        def batch(first: int) -> SupervisedBatch:
            index = first + np.arange(size)
            *inputs, predict_BC = index_tree(rows, np.minimum(index, len(rows[0]) - 1))
            # What fills the last batch up has nothing to predict.
            predict_BC = np.where(index[:, None] < len(rows[0]), predict_BC, -1)
            part = SupervisedBatch(*index_tree((*inputs, predict_BC), local))
            return from_local(part, self._sharding, size)

        def validate(params: Params, step: int) -> Row:
            del step
            batches = range(0, len(rows[0]), size)
            found = [jax.device_get(sums(params, batch(first))) for first in batches]
            loss, correct, tokens = np.array(found, np.float64).sum(axis=0).tolist()
            return {"loss": loss / tokens, "mean_token_accuracy": correct / tokens}

        return validate

    def batch(self, k: int, state: TrainState) -> SupervisedBatch:
        """The rows of the k-th step, by the stage's own order of the data."""
        del state
        size = self.config.batch_size
        drawn = data.batch_at(len(self._rows.tokens_MT), size, k * size, self._seed)
        local = index_tree(tuple(self._rows), drawn.indices_B[self._local_rows])
        return from_local(SupervisedBatch(*local), self._sharding, size)

    def metrics(self, output: dict[str, Array], step: int) -> Row:
        """Loss, accuracy and norms of a step."""
        del step
        return scalars_row(output)
