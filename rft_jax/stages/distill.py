"""Distillation: the stages around `distill_step`, from another model and from demonstrations."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optax
from jax import Array

from rft_jax import data
from rft_jax.config import Config, DataConfig, DistillStage, SelfDistillStage
from rft_jax.data import PromptRows
from rft_jax.distill_step import DistillBatch, compile_distill_step, make_distill_program
from rft_jax.graders import Grader
from rft_jax.learn.optimizer import TrainState, make_optimizer, state_shardings, with_average
from rft_jax.models import Model, Params
from rft_jax.parallel import batch_sharding, enter_on_all_hosts, from_local, local_rows
from rft_jax.rollout import Prompts
from rft_jax.runs.batches import bucketed
from rft_jax.runs.datasets import Rows, StageData, encode_prompts, index_tree, needed_file
from rft_jax.runs.run import Run
from rft_jax.runs.teacher import open_teacher
from rft_jax.stages.base import Compiled, Loop, Row, scalars_row
from rft_jax.stages.validation import note_best_constant, open_validation, read_validation
from rft_jax.tokenizers import Tokenizer
from rft_jax.utils.types import host_array


class Distillation:
    """What the two stages have in common; each says what teaches and what is read."""

    def __init__(
        self,
        run: Run,
        config: DistillStage | SelfDistillStage,
        optimizer: optax.GradientTransformation,
    ):
        self.config = config
        self.optimizer = optimizer
        self.model = run.model(config)
        self.early_stopping_patience = config.early_stopping_patience
        self._run, self._seed = run, run.seed(config)
        self._items = run.data[config.name]
        self.eval_interval = config.eval_interval if self._items.valid is not None else 0
        self._sharding = batch_sharding(run.mesh)
        self._local_rows = local_rows(self._sharding, config.batch_size)

    def open_teacher(self) -> tuple[Model, Params | None]:
        """The teacher's decoder, and its weights unless they are a part of the state."""
        raise NotImplementedError

    def run(self, loop: Loop) -> None:
        """Takes the steps that are left."""
        if self._items.valid is not None and self.eval_interval:
            note_best_constant(self._run, self.config, self._items.valid)
        loop.drive(self)

    def state_shardings(self) -> TrainState:
        """Where the student's weights and the optimizer's state lie."""
        return state_shardings(self._run.mesh, self.model, self.optimizer)

    @contextlib.contextmanager
    def open(self) -> Iterator[Compiled]:
        """The step, with the teacher's weights on the devices, and the validation."""
        run, config, valid = self._run, self.config, self._items.valid
        teacher, params = self.open_teacher()
        program = make_distill_program(
            self.model, teacher, self.optimizer, run.tokenizer, config, run.mesh
        )
        with contextlib.ExitStack() as stack:
            validate = None
            if run.grader is not None and valid is not None and self.eval_interval > 0:
                host = stack.enter_context(enter_on_all_hosts(run.grader.open_host()))
                validate = open_validation(run, config, program.sampler, host, valid, stack)
            yield Compiled(compile_distill_step(program, params), validate)

    def batch(self, k: int, state: TrainState) -> DistillBatch:
        """The prompts of the k-th step, by the stage's own order of the data."""
        del state
        items, size = self._items.prompts, self.config.batch_size
        drawn = data.batch_at(len(items.items), size, k * size, self._seed)
        width = bucketed(items, drawn.indices_B, self.config.rollout)
        here = drawn.indices_B[self._local_rows]
        student = _prompts(items.prompts, here, width)
        other = self._items.teacher
        batch = DistillBatch(
            student,
            student if other is None else _prompts(other, here, other.tokens_MP.shape[1]),
            host_array(here.astype(np.int32)),
            host_array(drawn.draw_B[self._local_rows]),
        )
        return from_local(batch, self._sharding, size)

    def metrics(self, output: dict[str, Array], step: int) -> Row:
        """The step's scalars."""
        del step
        return scalars_row(output)


class Distill(Distillation):
    """A stage of distillation from another model."""

    def __init__(self, run: Run, config: DistillStage):
        super().__init__(run, config, _optimizer(run, config))
        self._settings = config

    @staticmethod
    def read(
        config: DistillStage, files: DataConfig, workdir: Path, grader: Grader | None
    ) -> dict[str, Rows]:
        """Prompts to train on, and with a grader those to validate on, which must be others."""
        del workdir
        path = needed_file(files.train, "train", config)
        train = Rows(path, data.load_items(path))
        return {"train": train, **read_validation(files, train, grader)}

    @staticmethod
    def encode(
        config: DistillStage, rows: dict[str, Rows], whole: Config, tokenizer: Tokenizer
    ) -> StageData:
        """Prompts as tokens, the same for student and teacher."""
        del whole
        return _encode(config, rows, tokenizer)

    def open_teacher(self) -> tuple[Model, Params | None]:
        """See `Distillation`."""
        teacher = open_teacher(self._run, self._settings)
        return teacher.model, teacher.load()


class SelfDistill(Distillation):
    """A stage of distillation from the student's own average, which sees demonstrations."""

    def __init__(self, run: Run, config: SelfDistillStage):
        super().__init__(run, config, with_average(_optimizer(run, config), config.teacher_rate))

    @staticmethod
    def read(
        config: SelfDistillStage, files: DataConfig, workdir: Path, grader: Grader | None
    ) -> dict[str, Rows]:
        """The demonstrations, and with a grader the items to validate on."""
        del workdir
        path = needed_file(getattr(files, config.data), config.data, config)
        train = Rows(path, data.load_demonstrations(path))
        return {"train": train, **read_validation(files, train, grader)}

    @staticmethod
    def encode(
        config: SelfDistillStage, rows: dict[str, Rows], whole: Config, tokenizer: Tokenizer
    ) -> StageData:
        """Prompts as tokens: the student's without the answers, the teacher's with them."""
        del whole
        source, items, _ = rows["train"]
        asked = Rows(source, data.without_answers(items))
        shown = data.encode_prompts(
            data.with_demonstrations(items, config.demonstration),
            tokenizer,
            config.max_teacher_prompt_tokens,
            source,
            f"stages.{config.name}.max_teacher_prompt_tokens",
        )
        return _encode(config, rows | {"train": asked}, tokenizer, shown)

    def open_teacher(self) -> tuple[Model, Params | None]:
        """See `Distillation`."""
        return self.model, None


def _optimizer(run: Run, config: DistillStage | SelfDistillStage) -> optax.GradientTransformation:
    adapted = run.model_config(config).lora is not None
    return make_optimizer(config.optimizer, config.steps, lora=adapted)


def _encode(
    config: DistillStage | SelfDistillStage,
    rows: dict[str, Rows],
    tokenizer: Tokenizer,
    teacher: PromptRows | None = None,
) -> StageData:
    valid = rows.get("valid")
    return StageData(
        train=encode_prompts(rows["train"], config, tokenizer),
        valid=encode_prompts(valid, config, tokenizer) if valid else None,
        teacher=teacher,
    )


def _prompts(rows: PromptRows, indices: np.ndarray, width: int) -> Prompts:
    """Some of the prompts, as arrays of so many tokens."""
    tokens_BP, length_B = index_tree(tuple(rows), indices)
    return Prompts(tokens_BP[:, :width], length_B)
