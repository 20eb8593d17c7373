"""The stage types: what each reads, its step, and its row of metrics.

A new stage type is a settings class in `config.stages`, a class that follows `base.Stage` (or
`base.TrainingStage`, for one that takes steps) and a line in `STAGE_TYPES`.
"""

from rft_jax.config import (
    DistillStage,
    EvalStage,
    RLStage,
    SelfDistillStage,
    SFTStage,
    StageConfig,
)
from rft_jax.runs.run import Run
from rft_jax.stages.base import Loop as Loop
from rft_jax.stages.base import Stage as Stage
from rft_jax.stages.base import TrainingStage as TrainingStage
from rft_jax.stages.comparison import Comparison
from rft_jax.stages.distill import Distill, SelfDistill
from rft_jax.stages.rl import RL
from rft_jax.stages.sft import SFT

STAGE_TYPES: dict[type[StageConfig], type[Stage]] = {
    SFTStage: SFT,
    RLStage: RL,
    DistillStage: Distill,
    SelfDistillStage: SelfDistill,
    EvalStage: Comparison,
}


def make_stage(run: Run, config: StageConfig) -> Stage:
    """The stage of a run that these settings describe."""
    return STAGE_TYPES[type(config)](run, config)
