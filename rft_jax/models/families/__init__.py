"""Families of open models: for each, a reader of its configuration and a map of its weights."""

from rft_jax.models.families import (
    gemma2,
    gemma3,
    gemma4,
    gpt_oss,
    granite,
    granite_hybrid,
    lfm2,
    llama,
    ministral3,
    olmo3,
    qwen2,
    qwen3,
    qwen3_5,
    qwen3_5_moe,
    qwen3_moe,
    smollm3,
)
from rft_jax.models.families.base import Family, Settings, WeightMap

FAMILIES: dict[str, Family] = {
    family.architecture: family
    for family in (
        llama.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        qwen3_moe.FAMILY,
        qwen3_5.FAMILY,
        qwen3_5_moe.FAMILY,
        gemma2.FAMILY,
        gemma3.FAMILY,
        gemma4.FAMILY,
        gemma4.UNIFIED,
        smollm3.FAMILY,
        olmo3.FAMILY,
        ministral3.FAMILY,
        granite.FAMILY,
        granite_hybrid.FAMILY,
        lfm2.FAMILY,
        gpt_oss.FAMILY,
    )
}
# Architectures of text and images, of which the text is a family's.
WRAPPERS: dict[str, Family] = {
    family.wrapper: family for family in FAMILIES.values() if family.wrapper
}

__all__ = ["FAMILIES", "WRAPPERS", "Family", "Settings", "WeightMap"]
