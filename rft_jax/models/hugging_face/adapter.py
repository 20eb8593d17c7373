"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors, over a base.

https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import re
from pathlib import Path

import jax

from rft_jax.config import LoraConfig, LoraTarget, ModelConfig
from rft_jax.models.families import Family, Settings, WeightMap
from rft_jax.models.hugging_face.hub import PREFIX as HUB
from rft_jax.models.hugging_face.layout import Layout
from rft_jax.models.layer_kinds import layers_with, stacks
from rft_jax.models.lora import TARGETS, split
from rft_jax.models.model import Model
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject, PyTree

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the tensors' names, before the base's own
ALL_LINEAR = "all-linear"
# Initializations that leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change it.
INITIALIZATIONS = (True, False, "gaussian", "eva", "orthogonal")
# What changes no result of a trained adapter, and what is read or refused below.
HARMLESS = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "eva_config",
    "qalora_group_size",
    "layers_pattern",
    "runtime_config",
}
READ = {
    "peft_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "target_modules",
    "init_lora_weights",
    "bias",
}


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter."""
    return (directory / ADAPTER_CONFIG).is_file()


def base_of(settings: Settings) -> str:
    """The model under an adapter, as `locate` takes it.

    Args:
        settings: What adapter_config.json says.
    """
    name, revision = settings.text("base_model_name_or_path"), settings.text("revision", "")
    if Path(name).is_dir() or name.count("/") != 1:
        return name
    return f"{HUB}{name}@{revision}" if revision else f"{HUB}{name}"


def read_lora(settings: Settings, family: Family, base: ModelConfig) -> LoraConfig:
    """The adapter's sizes and targets.

    Args:
        settings: What adapter_config.json says.
        family: The base's.
        base: The base's architecture.

    Raises:
        InputError: For another method than LoRA, or a variant that is not supported.
    """
    settings.choice("peft_type", {"LORA": "LORA"}, "LORA")
    settings.refuse("bias", "none")
    _check_initialization(settings)
    # Variants and options, also those of a newer PEFT: each is off if it is null, false or empty.
    for key in sorted(settings.values.keys() - READ - HARMLESS):
        settings.refuse(key, False, {}, [])
    return LoraConfig(
        rank=settings.integer("r", 8),
        alpha=settings.number("lora_alpha", 8.0),
        targets=_targets(settings, family, base),
    )


def _check_initialization(settings: Settings) -> None:
    start = settings.values.get("init_lora_weights", True)
    if start not in INITIALIZATIONS:
        raise InputError(
            f"{settings.where}: init_lora_weights={start!r} may have changed the weights of the "
            "base; convert the adapter with PEFT's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...), or merge it and use that model"
        )


def adapter_settings(lora: LoraConfig, family: Family, base: str) -> JsonObject:
    """The content of adapter_config.json.

    Args:
        family: The base's.
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
        "target_modules": [
            _peft_target(family, target)
            for target in lora.targets
            if TARGETS[target] in family.weights
        ],
        "bias": "none",
    }


def adapter_layouts(family: Family, model: Model) -> PyTree:
    """The tree of a model's adapters with a `Layout` for each of their factors."""
    adapters, _ = split(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    places = stacks(model.config)

    def layout(path: tuple, leaf: jax.ShapeDtypeStruct) -> Layout:
        stack, name, factor = (key.key for key in path)
        layers = places[stack].layers
        outputs, inputs = family.weights[name].axes.split()
        module = PREFIX + _module(family, name)
        if factor == "a":
            weight = WeightMap(f"{module}.lora_A.weight", f"R {inputs}")
            return Layout(weight, f"L{inputs}R", leaf.shape, layers)
        weight = WeightMap(f"{module}.lora_B.weight", f"{outputs} R")
        return Layout(weight, f"LR{outputs}", leaf.shape, layers)

    return jax.tree.map_with_path(layout, adapters)


def _peft_target(family: Family, target: LoraTarget) -> str:
    """How PEFT finds the modules of a target, and no others: by the end of their names."""
    weight = family.weights[TARGETS[target]]
    if weight.half:
        raise InputError(
            f"lora.targets: {target} of {family.architecture} is one module with another weight "
            "and cannot have an adapter of its own in PEFT's format; export all weights instead"
        )
    block, module = _module(family, TARGETS[target]).split(".")[-2:]
    return module if module == target else f"{block}.{module}"


def _module(family: Family, name: str) -> str:
    return family.weights[name].name.removesuffix(".weight")


def _targets(settings: Settings, family: Family, base: ModelConfig) -> tuple[LoraTarget, ...]:
    """The targets that `target_modules` means by PEFT's rules, which must be so in every layer."""
    wanted = settings.values.get("target_modules")
    texts = [wanted] if isinstance(wanted, str) else wanted
    where = f"{settings.where}: target_modules={wanted!r}"
    named = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not texts or not named:
        raise InputError(f"{where} must be a list of names")

    def means(text: str, module: str) -> bool:
        if isinstance(wanted, str):
            return text == ALL_LINEAR or re.fullmatch(text, module) is not None
        return module == text or module.endswith(f".{text}")

    targets: list[LoraTarget] = []
    used: set[str] = set()
    for target, name in TARGETS.items():
        if name not in family.weights or family.weights[name].half:  # is another matrix's as well
            continue
        modules = [_module(family, name).format(L=layer) for layer in layers_with(base, name)]
        found = [[text for text in texts if means(text, module)] for module in modules]
        used.update(text for some in found for text in some)
        if any(found) and not all(found):
            raise InputError(f"{where}: only adapters for all layers are supported")
        if any(found):
            targets.append(target)
    if unused := [text for text in texts if text not in used]:
        raise InputError(
            f"{where}: {', '.join(unused)} cannot have an adapter, only {', '.join(TARGETS)}"
        )
    return tuple(targets)
