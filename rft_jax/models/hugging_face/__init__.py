"""Hugging Face checkpoints as models: `open_checkpoint`, `load_params`, and back, `export`.

checkpoint = open_checkpoint(locate("hf:Qwen/Qwen3-0.6B"))
model = build_model(checkpoint.config, checkpoint.vocab_size)
params = load_params(checkpoint, shardings(mesh, LEARNER_RULES, model.axes))
"""

from rft_jax.models.hugging_face.checkpoint import (
    Checkpoint,
    is_checkpoint,
    open_checkpoint,
    read_config,
)
from rft_jax.models.hugging_face.export import copy_description, export
from rft_jax.models.hugging_face.hub import locate
from rft_jax.models.hugging_face.load import load_params

__all__ = [
    "Checkpoint",
    "copy_description",
    "export",
    "is_checkpoint",
    "load_params",
    "locate",
    "open_checkpoint",
    "read_config",
]
