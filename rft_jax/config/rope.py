"""Scalings of rotary positions, of which a model has one or none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearRope:
    """Rotary positions divided by a factor (https://arxiv.org/abs/2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's scaling: low frequencies are divided, high ones kept, a ramp lies between."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int  # of pre-training


@dataclass(frozen=True)
class YarnRope:
    """YaRN (https://arxiv.org/abs/2309.00071)."""

    factor: float
    original_positions: int  # of pre-training
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0  # on queries and keys alike
    truncate: bool = True  # the ramp's ends to whole dimensions


@dataclass(frozen=True)
class ProportionalRope:
    """Gemma 4's: the first pairs of a head's dimensions turn as they would if all did."""

    turned: float = 0.25  # the share of pairs that turn
    factor: float = 1.0  # divides their frequencies


RopeScaling = LinearRope | Llama3Rope | YarnRope | ProportionalRope
