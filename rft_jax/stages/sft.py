"""Maximum likelihood on given completions: pre-training and supervised fine-tuning."""

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path

import jax
from jax import Array

from rft_jax import data
from rft_jax.config import Config, DataConfig, SFTStage
from rft_jax.graders import Grader
from rft_jax.learn.optimizer import TrainState, make_optimizer, state_shardings
from rft_jax.learn.supervised import SupervisedBatch, make_supervised_step
from rft_jax.parallel import batch_sharding, from_local, local_rows, replicated
from rft_jax.runs.datasets import Rows, StageData, index_tree, needed_file
from rft_jax.runs.run import Run
from rft_jax.stages.base import Compiled, Loop, Row, scalars_row
from rft_jax.tokenizers import Tokenizer


class SFT:
    """A stage of maximum likelihood over packed rows."""

    eval_interval = 0
    early_stopping_patience = 0

    def __init__(self, run: Run, config: SFTStage):
        self.config = config
        self.model = run.model(config)
        self.optimizer = make_optimizer(
            config.optimizer, config.steps, lora=run.model_config(config).lora is not None
        )
        self._mesh, self._seed = run.mesh, run.seed(config)
        self._rows = run.data[config.name].packed
        self._sharding = batch_sharding(run.mesh)
        self._local_rows = local_rows(self._sharding, config.batch_size)

    @staticmethod
    def read(
        config: SFTStage, files: DataConfig, workdir: Path, grader: Grader | None
    ) -> dict[str, Rows]:
        """The items that end with an assistant's message."""
        del workdir, grader
        path = needed_file(getattr(files, config.data), config.data, config)
        return {"supervised": Rows(path, data.load_supervised_items(path))}

    @staticmethod
    def encode(
        config: SFTStage, rows: dict[str, Rows], whole: Config, tokenizer: Tokenizer
    ) -> StageData:
        """Items side by side in rows of `max_row_tokens`."""
        del whole
        row, setting = rows["supervised"], f"stages.{config.name}.max_row_tokens"
        limit = config.max_row_tokens
        packed = data.pack_supervised(row.items, tokenizer, limit, row.source, setting)
        return StageData(supervised=packed)

    def run(self, loop: Loop) -> None:
        """Takes the steps that are left."""
        loop.drive(self)

    def state_shardings(self) -> TrainState:
        """Where weights and the optimizer's state lie."""
        return state_shardings(self._mesh, self.model, self.optimizer)

    def open(self) -> AbstractContextManager[Compiled]:
        """The jitted step."""
        state, config = self.state_shardings(), self.config
        step = jax.jit(
            make_supervised_step(
                self.model, self.optimizer, config.gradient_accumulation, config.logit_chunk
            ),
            in_shardings=(state, self._sharding),
            out_shardings=(state, replicated(self._mesh)),
            donate_argnums=0,
        )
        return contextlib.nullcontext(Compiled(step, None))

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
