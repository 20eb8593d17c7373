"""Checks of layers with sizes of their own, and of those that share keys."""

from rft_jax.config.checks import require_positive
from rft_jax.config.model import DeltaNetConfig, ModelConfig
from rft_jax.utils.errors import InputError

SIZES = ("global_head_dim", "global_kv_heads", "shared_intermediate_size")


def validate_kinds(section: str, model: ModelConfig) -> None:
    """Refuses kinds of layers without the sizes that they need.

    Args:
        section: Where the model's settings are.

    Raises:
        InputError: Naming the setting.
    """
    if "short_conv" in model.attention_pattern:
        require_positive(section, model, "conv_width")
    if "delta_net" in model.attention_pattern:
        _validate_delta_net(section, model.delta_net)


def _validate_delta_net(section: str, sizes: DeltaNetConfig | None) -> None:
    if sizes is None:
        raise InputError(f"{section}.delta_net: layers of that kind need sizes of their own")
    section = f"{section}.delta_net"
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim", "conv_width")
    require_positive(section, sizes, *names)
    if sizes.num_value_heads % sizes.num_key_heads:
        raise InputError(
            f"{section}.num_value_heads: {sizes.num_value_heads} is not a multiple of num_key_heads"
        )


def validate_sharing(section: str, model: ModelConfig) -> None:
    """Refuses sizes and an order of layers that Gemma 4's options do not go with.

    Args:
        section: Where the model's settings are.

    Raises:
        InputError: Naming the setting.
    """
    for name in SIZES:
        if (size := getattr(model, name)) is not None and size < 1:
            raise InputError(f"{section}.{name}: must be at least 1, got {size}")
    if model.num_heads % (model.global_kv_heads or 1):
        raise InputError(
            f"{section}.num_heads: {model.num_heads} is not a multiple of global_kv_heads"
        )
    if (model.global_head_dim or 0) % 2:
        raise InputError(f"{section}.global_head_dim: rotary positions need an even number")
    if model.per_layer_size < 0:
        raise InputError(f"{section}.per_layer_size: must be 0 or more")
    pattern = model.attention_pattern
    kinds = [pattern[layer % len(pattern)] for layer in range(model.num_layers)]
    own = [kind for kind in kinds if not kind.startswith("shared_")]
    read = {kind.removeprefix("shared_") for kind in kinds if kind.startswith("shared_")}
    beside = [kind for kind in own if kind in ("full", "sliding", "nope")]  # of the same stack
    last = "sliding" not in read or beside[-1:] == ["sliding"]
    if kinds[: len(own)] != own or not read <= set(own) or not last:
        raise InputError(
            f"{section}.attention_pattern: shared layers come last, after a layer of the kind that "
            "they share keys with, which no full layer follows"
        )
