"""What a family consists of, and what its configuration and weights share with Llama's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from rft_jax.config import LayerType, LinearRope, Llama3Rope, ModelConfig, RopeScaling, YarnRope
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
LAYER_TYPES: dict[str, LayerType] = {"full_attention": "full", "sliding_attention": "sliding"}
HALVES = "01"

T = TypeVar("T")


class WeightMap(NamedTuple):
    """Where a weight lies in a Hugging Face checkpoint.

    Attributes:
        name: The tensor's name; {L} and {E} stand for the layer and the expert, along which our
            array stacks many tensors.
        axes: The tensor's axes in the letters of our array's: "KMQ D" is a matrix whose rows are
            K x M x Q. Of a tensor that holds two of our arrays, 0 and 1 tell which: the rows of
            "0F D" come before those of "1F D", and those of "F0 D" and "F1 D" take turns.
    """

    name: str
    axes: str

    @property
    def half(self) -> str:
        """Which of two arrays it is that one tensor holds, 0 or 1; empty of a tensor alone."""
        return next((letter for letter in HALVES if letter in self.axes), "")


@dataclass(frozen=True)
class Family:
    """One architecture of the transformers library."""

    architecture: str  # as config.json names it
    read_config: "Callable[[Settings], ModelConfig]"
    weights: Mapping[str, WeightMap]  # by our name; a model has those that its options ask for
    packed: Mapping[str, WeightMap] = field(default_factory=dict)  # as other checkpoints have them
    model_type: str = ""  # of its config.json, where it comes inside of another's
    wrapper: str = ""  # the architecture of that, which sees images as well


class Settings:
    """A JSON object whose values are read with their types; null is the same as missing."""

    def __init__(self, values: JsonObject, where: str):
        """Takes an object, and the file that it is from for messages."""
        self.values = values
        self.where = where

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        return self._get(key, (int,), "a whole number", default)

    def number(self, key: str, default: float | None = None) -> float:
        """Any number."""
        return float(self._get(key, (int, float), "a number", default))

    def optional_number(self, key: str, default: float | None = None) -> float | None:
        """Any number, or None for null."""
        return None if self.values.get(key, default) is None else self.number(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        """Any text."""
        return self._get(key, (str,), "a text", default)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._get(key, (bool,), "true or false", default)

    def choice(self, key: str, choices: Mapping[str, str], default: str) -> str:
        """What one of a few names stands for."""
        name = self._get(key, (str,), "a name", default)
        if name not in choices:
            supported = ", ".join(choices)
            raise InputError(f"{self.where}: {key} {name!r} is not supported, only {supported}")
        return choices[name]

    def section(self, key: str) -> "Settings":
        """A JSON object inside this one; empty if it is missing."""
        return Settings(self._get(key, (dict,), "an object", {}), f"{self.where}, {key}")

    def without(self, key: str) -> "Settings":
        """The same as if a setting were missing."""
        return Settings({k: v for k, v in self.values.items() if k != key}, self.where)

    def with_section(self, key: str, section: "Settings") -> "Settings":
        """The same with another object inside."""
        return Settings({**self.values, key: section.values}, self.where)

    def refuse(self, key: str, *harmless: object) -> None:
        """Complains about a setting that the decoder has no counterpart for, unless it is off.

        Raises:
            InputError: If the setting has a value that is neither missing nor one of `harmless`.
        """
        if self.values.get(key) not in (None, *harmless):
            raise InputError(f"{self.where}: {key}={self.values[key]!r} is not supported")

    def _get(self, key: str, kinds: tuple[type[T], ...], description: str, default: T | None) -> T:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise InputError(f"{self.where}: {key} is missing")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputError(f"{self.where}: {key} must be {description}, got {value!r}")
        return value


def llama_config(settings: Settings, **options: Any) -> ModelConfig:
    """What Llama's configuration and those that descend from it have in common.

    Args:
        options: Fields of `ModelConfig` that differ from what the common settings say.
    """
    settings.refuse("quantization_config")
    settings.refuse("mlp_bias", False)
    settings.refuse("partial_rotary_factor", 1)
    heads, width = settings.integer("num_attention_heads"), settings.integer("hidden_size")
    fields = {
        "num_layers": settings.integer("num_hidden_layers"),
        "hidden_size": width,
        "num_heads": heads,
        "num_kv_heads": settings.integer("num_key_value_heads", heads),
        "head_dim": settings.integer("head_dim", width // heads),
        "norm_eps": settings.number("rms_norm_eps", 1e-6),
        "tie_embeddings": settings.flag("tie_word_embeddings", False),
    }
    if "intermediate_size" not in options:
        fields["intermediate_size"] = settings.integer("intermediate_size")
    if "activation" not in options:
        fields["activation"] = settings.choice("hidden_act", ACTIVATIONS, "silu")
    if "rope_theta" not in options:
        fields |= rope_fields(settings, 10_000.0)
    return ModelConfig(**fields | options)


def rope_fields(settings: Settings, theta: float) -> dict[str, float | RopeScaling | None]:
    """`rope_theta` and `rope_scaling` of the same settings in either of transformers' two forms.

    Args:
        settings: With `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.
        theta: The default.
    """
    if settings.values.get("rope_parameters") is not None:
        rope = settings.section("rope_parameters")
        return {
            "rope_theta": rope.number("rope_theta", theta),
            "rope_scaling": rope_scaling(rope, settings),
        }
    rope = settings.section("rope_scaling")
    return {
        "rope_theta": settings.number("rope_theta", theta),
        "rope_scaling": rope_scaling(rope, settings),
    }


def rope_scaling(rope: Settings, model: Settings) -> RopeScaling | None:
    """The way rotary positions are stretched.

    Args:
        rope: The object with `rope_type` and its parameters.
        model: The whole configuration, for `max_position_embeddings`.
    """
    rope.refuse("partial_rotary_factor", 1)
    types = {name: name for name in ("default", "linear", "llama3", "yarn")}
    key = "rope_type" if "rope_type" in rope.values else "type"
    kind = rope.choice(key, types, "default")
    if kind == "default":
        return None
    if kind == "linear":
        return LinearRope(rope.number("factor"))
    longest = model.integer("max_position_embeddings", 0)
    original = rope.integer("original_max_position_embeddings", longest)
    if original < 1:
        raise InputError(f"{rope.where}: original_max_position_embeddings is missing")
    if kind == "llama3":
        return Llama3Rope(
            factor=rope.number("factor"),
            low_frequency_factor=rope.number("low_freq_factor"),
            high_frequency_factor=rope.number("high_freq_factor"),
            original_positions=original,
        )
    factor = rope.number("factor", longest / original)
    return YarnRope(
        factor=factor,
        original_positions=original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=_yarn_attention_factor(rope, factor),
        truncate=rope.flag("truncate", True),
    )


def _yarn_attention_factor(rope: Settings, factor: float) -> float:
    """YaRN's equation 22, with the two multipliers that DeepSeek added."""

    def magnitude(multiplier: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1.0

    over, under = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    default = magnitude(over) / magnitude(under) if over and under else magnitude(1.0)
    return rope.number("attention_factor", default)


def attention_pattern(
    settings: Settings,
    default: Callable[[int], LayerType],
    names: Mapping[str, LayerType] = LAYER_TYPES,
) -> tuple[LayerType, ...]:
    """The shortest pattern of layer types that, repeated, gives those of all layers.

    Args:
        settings: With `layer_types` or without.
        default: The type of layer i when they are not listed.
        names: The types that the family has, by their names in the list.
    """
    layers = settings.integer("num_hidden_layers")
    listed = settings.values.get("layer_types")
    if listed is None:
        types: list[LayerType] = [default(layer) for layer in range(layers)]
    elif isinstance(listed, list) and len(listed) == layers and set(listed) <= set(names):
        types = [names[name] for name in listed]
    else:
        raise InputError(
            f"{settings.where}: layer_types must give each of the {layers} layers one of "
            f"{', '.join(names)}"
        )
    return shortest_pattern(types)


def shortest_pattern(types: Sequence[LayerType]) -> tuple[LayerType, ...]:
    """The shortest pattern that, repeated, gives these types."""
    return next(
        tuple(types[:period])
        for period in range(1, len(types) + 1)
        if all(kind == types[layer % period] for layer, kind in enumerate(types))
    )


LLAMA_WEIGHTS = {
    "embed_VD": WeightMap("model.embed_tokens.weight", "V D"),
    "final_norm_D": WeightMap("model.norm.weight", "D"),
    "head_VD": WeightMap("lm_head.weight", "V D"),
    "attention_norm_D": WeightMap("model.layers.{L}.input_layernorm.weight", "D"),
    "q_DKMQ": WeightMap("model.layers.{L}.self_attn.q_proj.weight", "KMQ D"),
    "k_DKQ": WeightMap("model.layers.{L}.self_attn.k_proj.weight", "KQ D"),
    "v_DKQ": WeightMap("model.layers.{L}.self_attn.v_proj.weight", "KQ D"),
    "out_KMQD": WeightMap("model.layers.{L}.self_attn.o_proj.weight", "D KMQ"),
    "q_bias_KMQ": WeightMap("model.layers.{L}.self_attn.q_proj.bias", "KMQ"),
    "k_bias_KQ": WeightMap("model.layers.{L}.self_attn.k_proj.bias", "KQ"),
    "v_bias_KQ": WeightMap("model.layers.{L}.self_attn.v_proj.bias", "KQ"),
    "out_bias_D": WeightMap("model.layers.{L}.self_attn.o_proj.bias", "D"),
    "q_norm_Q": WeightMap("model.layers.{L}.self_attn.q_norm.weight", "Q"),
    "k_norm_Q": WeightMap("model.layers.{L}.self_attn.k_norm.weight", "Q"),
    "mlp_norm_D": WeightMap("model.layers.{L}.post_attention_layernorm.weight", "D"),
    "gate_DF": WeightMap("model.layers.{L}.mlp.gate_proj.weight", "F D"),
    "up_DF": WeightMap("model.layers.{L}.mlp.up_proj.weight", "F D"),
    "down_FD": WeightMap("model.layers.{L}.mlp.down_proj.weight", "D F"),
}
