"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, over a base.

https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import re
from pathlib import Path
from typing import Any

import jax

from rft_jax.config import LoraConfig, ModelConfig
from rft_jax.models.families import Family, Settings, WeightMap
from rft_jax.models.hugging_face.hub import PREFIX as HUB
from rft_jax.models.hugging_face.layout import Layout
from rft_jax.models.lora import TARGETS, split
from rft_jax.models.model import Model
from rft_jax.utils.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the tensors' names, before the base's own
ALL_LINEAR = "all-linear"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter."""
    return (directory / ADAPTER_CONFIG).is_file()


def base_of(settings: Settings) -> str:
    """The model under an adapter, as `locate` takes it.

    Args:
        settings: adapter_config.json.
    """
    name, revision = settings.text("base_model_name_or_path"), settings.text("revision", "")
    if Path(name).is_dir() or name.count("/") != 1:
        return name
    return f"{HUB}{name}@{revision}" if revision else f"{HUB}{name}"


def read_lora(settings: Settings, family: Family, base: ModelConfig) -> LoraConfig:
    """The adapter's sizes and targets.

    Args:
        settings: adapter_config.json.
        family: Of the base.
        base: The base's architecture.

    Raises:
        InputError: for another method than LoRA, or a variant that is not supported.
    """
    settings.choice("peft_type", {"LORA": "LORA"}, "LORA")
    for key in ("use_dora", "use_rslora", "use_qalora", "lora_bias", "fan_in_fan_out"):
        settings.refuse(key, False)
    for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters"):
        settings.refuse(key, {}, [])
    for key in ("layers_to_transform", "layer_replication", "trainable_token_indices"):
        settings.refuse(key)
    settings.refuse("exclude_modules", [])
    settings.refuse("bias", "none")
    return LoraConfig(
        rank=settings.integer("r", 8),
        alpha=settings.number("lora_alpha", 8.0),
        targets=_targets(settings, family, base),
    )


def adapter_settings(lora: LoraConfig, base: str) -> dict[str, Any]:
    """The content of adapter_config.json.

    Args:
        base: The model under the adapter, as `locate` takes it.
    """
    name, revision = str(Path(base).resolve()), ""
    if base.startswith(HUB):
        name, _, revision = base.removeprefix(HUB).partition("@")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision or None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "bias": "none",
    }


def adapter_layouts(family: Family, model: Model) -> Any:
    """The tree of a model's adapters with a `Layout` for each of their factors."""
    adapters, _ = split(jax.eval_shape(lambda: model.init(jax.random.key(0))))

    def layout(path: tuple, leaf: jax.ShapeDtypeStruct) -> Layout:
        *_, name, factor = (key.key for key in path)
        outputs, inputs = family.weights[name].axes.split()
        module = PREFIX + _module(family, name)
        if factor == "a":
            weight = WeightMap(f"{module}.lora_A.weight", f"R {inputs}")
            return Layout(weight, f"L{inputs}R", leaf.shape)
        return Layout(
            WeightMap(f"{module}.lora_B.weight", f"{outputs} R"), f"LR{outputs}", leaf.shape
        )

    return jax.tree.map_with_path(layout, adapters)


def _module(family: Family, name: str) -> str:
    return family.weights[name].name.removesuffix(".weight")


def _targets(settings: Settings, family: Family, base: ModelConfig) -> tuple[str, ...]:
    """The targets that `target_modules` means by PEFT's rules, which must be so in every layer."""
    wanted = settings.values.get("target_modules")
    texts = wanted if isinstance(wanted, list) else [wanted]
    place = f"{settings.place}: target_modules={wanted!r}"
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{place} must be a list of names")

    def means(text: str, module: str) -> bool:
        if isinstance(wanted, str):
            return text == ALL_LINEAR or re.fullmatch(text, module) is not None
        return module == text or module.endswith(f".{text}")

    targets, used = [], set()
    for target, name in TARGETS.items():
        modules = [_module(family, name).format(L=layer) for layer in range(base.num_layers)]
        found = [[text for text in texts if means(text, module)] for module in modules]
        used.update(text for some in found for text in some)
        if any(found) and not all(found):
            raise InputError(f"{place}: only adapters for all layers are supported")
        if any(found):
            targets.append(target)
    if unused := [text for text in texts if text not in used]:
        raise InputError(
            f"{place}: {', '.join(unused)} cannot have an adapter, only {', '.join(TARGETS)}"
        )
    return tuple(targets)
