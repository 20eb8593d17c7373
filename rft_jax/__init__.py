"""rft_jax: reinforcement fine-tuning in JAX, with graders that run on the device.

The names below are the public API. Each is loaded when it is first used, so that `rft --help` and
`import rft_jax.strings` stay quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rft_jax.config import Config as Config
    from rft_jax.config import DataConfig as DataConfig
    from rft_jax.config import DistillStage as DistillStage
    from rft_jax.config import EvalStage as EvalStage
    from rft_jax.config import LoraConfig as LoraConfig
    from rft_jax.config import MeshConfig as MeshConfig
    from rft_jax.config import ModelConfig as ModelConfig
    from rft_jax.config import OptimizerConfig as OptimizerConfig
    from rft_jax.config import PolicyLossConfig as PolicyLossConfig
    from rft_jax.config import RLStage as RLStage
    from rft_jax.config import RolloutConfig as RolloutConfig
    from rft_jax.config import SelfDistillStage as SelfDistillStage
    from rft_jax.config import SFTStage as SFTStage
    from rft_jax.config import TokenizerConfig as TokenizerConfig
    from rft_jax.config.load import load_config as load_config
    from rft_jax.evaluation.models import evaluate as evaluate
    from rft_jax.evaluation.sample import sample_model as sample_model
    from rft_jax.graders import build_grader as build_grader
    from rft_jax.graders import device_grader as device_grader
    from rft_jax.graders import grade_texts as grade_texts
    from rft_jax.graders import load_grader as load_grader
    from rft_jax.training import train as train

__version__ = "0.2.0"

_MODULES = {
    "rft_jax.config": (
        "Config",
        "DataConfig",
        "DistillStage",
        "EvalStage",
        "LoraConfig",
        "MeshConfig",
        "ModelConfig",
        "OptimizerConfig",
        "PolicyLossConfig",
        "RLStage",
        "RolloutConfig",
        "SFTStage",
        "SelfDistillStage",
        "TokenizerConfig",
    ),
    "rft_jax.config.load": ("load_config",),
    "rft_jax.evaluation.models": ("evaluate",),
    "rft_jax.evaluation.sample": ("sample_model",),
    "rft_jax.graders": ("build_grader", "device_grader", "grade_texts", "load_grader"),
    "rft_jax.training": ("train",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Loads a public name on its first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
