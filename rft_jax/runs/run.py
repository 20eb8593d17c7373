"""A run: a view of its work directory, and all that its stages read.

`prepare.open_run` makes one for training, `reopen.reopen` one for the models of a work directory.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from rft_jax.config import Config, ModelConfig, SFTStage, StageConfig, TrainingStageConfig
from rft_jax.graders import Grader
from rft_jax.models import Model, Params, build_model, split
from rft_jax.parallel import LEARNER_RULES, Shardings, batch_sharding, raise_on_all_hosts, shardings
from rft_jax.runs.checkpoint import abstract, load_params, steps
from rft_jax.runs.datasets import StageData
from rft_jax.runs.pretrained import Source, load_base, load_source
from rft_jax.runs.tokenizer import TOKENIZER_FILE
from rft_jax.tokenizers import Tokenizer
from rft_jax.utils.errors import InputError

# The only stage of a checkpoint that is no run's.
BASE_STAGE = SFTStage(name="base", init="")


@dataclass(frozen=True)
class Run:
    """An open work directory."""

    config: Config
    workdir: Path
    mesh: Mesh
    grader: Grader | None
    tokenizer: Tokenizer
    sources: dict[str, Source]  # by model
    data: dict[str, StageData]  # by stage
    audit_grader: Grader | None = None

    def model_config(self, stage: TrainingStageConfig) -> ModelConfig:
        """The architecture of the stage's model."""
        source = self.sources.get(stage.model)
        return source.config if source else self.config.model(stage.model)

    def model(self, stage: TrainingStageConfig) -> Model:
        """The stage's decoder."""
        source = self.sources.get(stage.model)
        vocab_size = source.vocab_size if source else self.tokenizer.vocab_size
        return build_model(self.model_config(stage), vocab_size, batch_sharding(self.mesh))

    def directory(self, stage: StageConfig) -> Path:
        """The stage's folder."""
        return self.workdir / stage.name

    def seed(self, stage: StageConfig, purpose: str = "train") -> int:
        """The stage's own seed for a purpose, below 2**32."""
        return zlib.crc32(f"{self.config.seed}/{stage.name}/{purpose}".encode())

    def stage(self, name: str) -> TrainingStageConfig:
        """The training stage of that name.

        Raises:
            InputError: If there is none.
        """
        for stage in self.config.training_stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.config.training_stages)
        raise InputError(f"{self.workdir}: there is no stage {name!r}; there are {known}")

    def checkpoints(self, stage: TrainingStageConfig) -> Path:
        """The folder of the stage's checkpoints."""
        return self.directory(stage) / "checkpoints"

    def load_params(
        self, stage: TrainingStageConfig, step: int | None = None, base: Params | None = None
    ) -> Params:
        """The weights of a stage's checkpoint, by default its newest.

        Args:
            stage: The stage.
            step: That of the checkpoint.
            base: The weights under its adapters, if they are there; None: they are loaded.

        Raises:
            InputError: If there is no such checkpoint, or it is damaged.
        """
        if stage is BASE_STAGE:
            return self.load_source(stage)
        directory = self.checkpoints(stage)
        with raise_on_all_hosts():
            if not (known := steps(directory)):
                raise InputError(f"{directory}: no checkpoint yet; {self._remedy(stage)}")
        model = self.model(stage)
        shape, _ = split(jax.eval_shape(lambda: model.init(jax.random.key(0))))
        sharding, _ = split(self._shardings(stage))
        step = known[-1] if step is None else step
        trained = load_params(directory, step, abstract(shape, sharding))
        if model.config.lora is not None and base is None:
            base = self.load_base(stage)
        return model.adapt(trained, base)

    def _remedy(self, stage: TrainingStageConfig) -> str:
        """What to do about a stage without a checkpoint."""
        others = [other for other in self.config.training_stages if steps(self.checkpoints(other))]
        alike = [other for other in others if other.model == stage.model]
        if not others:
            return "let `rft train` write one first"
        ready = self.directory((alike or others)[-1])
        return f"wait for one, or use {ready}, which has one"

    def load_base(self, stage: TrainingStageConfig) -> Params:
        """The weights under the adapters of the stage's model, from its source.

        Raises:
            InputError: The source cannot be had any more.
        """
        return load_base(self.model(stage), self._shardings(stage))

    def load_source(self, stage: TrainingStageConfig) -> Params:
        """The weights of the source of the stage's model.

        Raises:
            InputError: If the source cannot be had or used.
        """
        return load_source(self.model(stage), self._shardings(stage), self.seed(stage))

    def _shardings(self, stage: TrainingStageConfig) -> Shardings:
        return shardings(self.mesh, LEARNER_RULES, self.model(stage).axes)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        if self.sources:
            return next(iter(self.sources.values())).directory / "tokenizer.json"
        return Path(self.config.tokenizer.path or self.workdir / TOKENIZER_FILE)
