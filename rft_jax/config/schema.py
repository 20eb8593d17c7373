"""A run's settings as a whole: frozen dataclasses with a default for each setting.

An experiment file has `get_config() -> Config`; `overrides` changes single settings from the
command line and stores a configuration as JSON, `validate` refuses what cannot work.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from rft_jax.config.data import DataConfig, TokenizerConfig
from rft_jax.config.model import ModelConfig
from rft_jax.config.stages import (
    EvalStage,
    RLStage,
    SamplingStage,
    SFTStage,
    StageConfig,
    TrainingStageConfig,
)

RESERVED = ("data", "models")  # what else has a folder in a work directory
# Of a GPU's memory, what `rft` allocates at its start unless XLA_CLIENT_MEM_FRACTION is set.
GPU_MEMORY_FRACTION = 0.92


@dataclass(frozen=True)
class HostOptions:
    """What graders on the host may use of the machine and the network."""

    workers: int | None = None  # sandboxed processes of a `python` grader; None: one a core, <= 16
    python_timeout_s: float = 120.0  # for grading one sample; OpenAI's limit
    # Without, Python can do whatever the user can do who runs it, and its limits hold for each
    # process but not for their number, cores and disk.
    sandbox: bool = True
    # Absolute paths of programs and folders, such as /usr/bin/vvp, that isolated Python graders can
    # read and run.
    tools: tuple[str, ...] = ()
    requests: int = 16  # HTTP requests under way at once, for each grader


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 takes the devices that are left (one axis at most)."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Config:
    """A run: data, grader, models and the stages that are done in order."""

    name: str = "run"
    seed: int = 0
    data: DataConfig = DataConfig()
    # A JSON file in OpenAI's format, or its content, or "module:name" of a `device_grader`.
    grader: str | dict[str, Any] = ""
    # A grader in the same form that looks at the validation samples and is in no reward: its mean
    # beside the reward's shows whether the model is paid for a trick; empty: none.
    audit_grader: str | dict[str, Any] = ""
    placement: Literal["auto", "device", "host"] = "auto"  # where the grader's nodes run
    host: HostOptions = HostOptions()
    tokenizer: TokenizerConfig = TokenizerConfig()
    models: tuple[ModelConfig, ...] = (ModelConfig(),)
    mesh: MeshConfig = MeshConfig()
    tensorboard: bool = True  # event files beside the metrics
    wandb_project: str = ""  # of Weights & Biases; empty: off
    # Folder of compiled programs; None: JAX_COMPILATION_CACHE_DIR, or the user's own; empty: off.
    compilation_cache: str | None = None
    stages: tuple[StageConfig, ...] = field(default_factory=lambda: (SFTStage(), RLStage()))

    @property
    def training_stages(self) -> tuple[TrainingStageConfig, ...]:
        """The stages that change weights."""
        return tuple(stage for stage in self.stages if not isinstance(stage, EvalStage))

    @property
    def rl_stages(self) -> tuple[RLStage, ...]:
        """The stages that learn from the grader."""
        return tuple(stage for stage in self.stages if isinstance(stage, RLStage))

    @property
    def sampling_stages(self) -> tuple[SamplingStage, ...]:
        """The stages that sample, and can be validated by the grader."""
        return tuple(stage for stage in self.stages if isinstance(stage, SamplingStage))

    @property
    def eval_stages(self) -> tuple[EvalStage, ...]:
        """The stages that compare models."""
        return tuple(stage for stage in self.stages if isinstance(stage, EvalStage))

    def model(self, name: str) -> ModelConfig:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)
