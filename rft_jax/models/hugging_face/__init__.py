"""Hugging Face checkpoints as models: `open_checkpoint`, `load_params`, and back, `export`.

checkpoint = open_checkpoint(locate("hf:Qwen/Qwen3-0.6B"))
model = build_model(checkpoint.config, checkpoint.vocab_size)
params = load_params(checkpoint, shardings(mesh, LEARNER_RULES, model.axes))
"""

from rft_jax.models.hugging_face.adapter import ADAPTER_CONFIG, is_adapter
from rft_jax.models.hugging_face.checkpoint import (
    CONFIG_FILE,
    Checkpoint,
    find_base,
    is_checkpoint,
    open_checkpoint,
    read_config,
)
from rft_jax.models.hugging_face.describe import describe
from rft_jax.models.hugging_face.export import check_empty, copy_description, export, export_adapter
from rft_jax.models.hugging_face.hub import locate
from rft_jax.models.hugging_face.load import load_adapters, load_params

__all__ = [
    "ADAPTER_CONFIG",
    "CONFIG_FILE",
    "Checkpoint",
    "check_empty",
    "copy_description",
    "describe",
    "export",
    "export_adapter",
    "find_base",
    "is_adapter",
    "is_checkpoint",
    "load_adapters",
    "load_params",
    "locate",
    "open_checkpoint",
    "read_config",
]
