"""Every setting and its default, and what is done with configurations as text."""

from rft_jax.config.policy_loss import PolicyLossConfig as PolicyLossConfig
from rft_jax.config.policy_loss import PolicyLossSettings as PolicyLossSettings
from rft_jax.config.schema import GPU_MEMORY_FRACTION as GPU_MEMORY_FRACTION
from rft_jax.config.schema import NOT_OF_SOURCE as NOT_OF_SOURCE
from rft_jax.config.schema import REASONING_EFFORTS as REASONING_EFFORTS
from rft_jax.config.schema import RESERVED as RESERVED
from rft_jax.config.schema import Config as Config
from rft_jax.config.schema import DataConfig as DataConfig
from rft_jax.config.schema import EvalStage as EvalStage
from rft_jax.config.schema import HostOptions as HostOptions
from rft_jax.config.schema import LinearRope as LinearRope
from rft_jax.config.schema import Llama3Rope as Llama3Rope
from rft_jax.config.schema import LoraConfig as LoraConfig
from rft_jax.config.schema import LoraTarget as LoraTarget
from rft_jax.config.schema import MeshConfig as MeshConfig
from rft_jax.config.schema import ModelConfig as ModelConfig
from rft_jax.config.schema import OptimizerConfig as OptimizerConfig
from rft_jax.config.schema import RLStage as RLStage
from rft_jax.config.schema import RolloutConfig as RolloutConfig
from rft_jax.config.schema import RopeScaling as RopeScaling
from rft_jax.config.schema import SFTStage as SFTStage
from rft_jax.config.schema import StageConfig as StageConfig
from rft_jax.config.schema import TfdsConfig as TfdsConfig
from rft_jax.config.schema import TokenizerConfig as TokenizerConfig
from rft_jax.config.schema import TrainingStageConfig as TrainingStageConfig
from rft_jax.config.schema import YarnRope as YarnRope
