"""Granite 4 without Mamba layers (https://www.ibm.com/granite/docs/models/granite)."""

from rft_jax.config import LayerType, ModelConfig
from rft_jax.models.families.base import (
    LLAMA_WEIGHTS,
    Family,
    Settings,
    WeightMap,
    attention_pattern,
)
from rft_jax.models.families.granite import granite_config
from rft_jax.utils.errors import InputError

MLP = "model.layers.{L}.shared_mlp"
MAMBA = {"mamba", "linear_attention"}


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: dense Granite's, of which an MLP is what mixtures share.

    Raises:
        InputError: It has Mamba layers or experts.
    """
    listed = settings.values.get("layer_types", settings.values.get("layers_block_type"))
    if not isinstance(listed, list) or MAMBA & set(listed):
        raise InputError(
            f"{settings.where}: Mamba layers are not supported; use a Granite 4 without them, such "
            "as granite-4.0-micro"
        )
    settings.refuse("num_local_experts", 0)
    positions = {"rope": "full", "nope": "nope"}
    kind: LayerType = "nope"
    if settings.choice("position_embedding_type", positions, "nope") == "full":
        kind = "full"
    names: dict[str, LayerType] = {"attention": kind, "full_attention": kind}
    types = Settings({**settings.values, "layer_types": listed}, settings.where)
    return granite_config(
        settings,
        intermediate_size=settings.integer("shared_intermediate_size", 1024),
        attention_pattern=attention_pattern(types, lambda _: kind, names),
    )


FAMILY = Family(
    "GraniteMoeHybridForCausalLM",
    read_config,
    LLAMA_WEIGHTS
    | {
        "gate_DF": WeightMap(f"{MLP}.input_linear.weight", "0F D"),
        "up_DF": WeightMap(f"{MLP}.input_linear.weight", "1F D"),
        "down_FD": WeightMap(f"{MLP}.output_linear.weight", "D F"),
    },
)
