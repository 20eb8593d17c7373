"""Settings of the optimizer."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, with a global-norm clip.

    Muon (https://kellerjordan.github.io/posts/muon/) is for pre-training: it takes the layers'
    matrices, AdamW with Nesterov's momentum the rest. Its updates are scaled to the size of
    AdamW's, and it counts weight decay as AdamW does (https://arxiv.org/abs/2502.16982), so that
    the settings are common to both.
    """

    name: Literal["adamw", "muon"] = "adamw"
    # None: 1e-6 (TRL, verl and OpenRLHF for full fine-tuning), or 1e-5 for adapters
    learning_rate: float | None = None
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    b1: float = 0.9  # Muon's momentum is 0.95
    b2: float = 0.999  # torch's and optax's default
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # verl, TRL
    max_nonfinite_updates: int = 5  # updates in a row without a finite gradient that end the run

    def peak_learning_rate(self, lora: bool) -> float:
        """The learning rate, with its default for adapters or for all weights."""
        if self.learning_rate is None:
            return 1e-5 if lora else 1e-6
        return self.learning_rate
