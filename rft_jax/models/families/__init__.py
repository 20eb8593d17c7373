"""Families of open models: for each, a reader of its configuration and a map of its weights."""

from rft_jax.models.families import gemma2, gemma3, llama, qwen2, qwen3, qwen3_moe
from rft_jax.models.families.base import Family, Settings, WeightMap

FAMILIES: dict[str, Family] = {
    family.architecture: family
    for family in (
        llama.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        qwen3_moe.FAMILY,
        gemma2.FAMILY,
        gemma3.FAMILY,
    )
}

__all__ = ["FAMILIES", "Family", "Settings", "WeightMap"]
