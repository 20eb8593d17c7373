"""`length`: 1 for completions that are short enough, falling to 0 at a limit.

    {"type": "length", "name": "length", "max_tokens": 1024, "buffer": 256}

DAPO's soft overlong punishment (arXiv 2503.14476) plus 1, so that it is from 0 to 1.
With n the completion's tokens, those of its thinking included, the score is

    1                            if n <= max_tokens - buffer
    (max_tokens - n) / buffer    if max_tokens - buffer < n <= max_tokens
    0                            else.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from rft_jax.graders.protocols import DeviceNode
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.utils.types import PyTree

MOST_TOKENS = 1 << 24  # exact as float32


@dataclass(frozen=True)
class Length(DeviceNode):
    """A validated `length`."""

    type_name = "length"
    name: str
    max_tokens: int
    buffer: int

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Length":
        """See `GraderType.parse`."""
        fields.only("max_tokens", "buffer")
        for key in ("max_tokens", "buffer"):
            if key not in fields.values:
                raise fields.error(key, "is missing; add a number of tokens")
        max_tokens = fields.integer("max_tokens", 0, 1, MOST_TOKENS)
        return cls(name, max_tokens, fields.integer("buffer", 0, 0, max_tokens))

    def encode(self, items: Items) -> tuple[()]:
        """Nothing of the items is needed."""
        del items
        return ()

    @property
    def errors(self) -> tuple[str, ...]:
        """See `GraderType.errors`."""
        return ()

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        del encoded
        left_N = self.max_tokens - jnp.asarray(view.sample.completion_tokens)
        partial_N = jnp.clip(left_N / max(self.buffer, 1), 0, 1)
        score_N = jnp.where(left_N >= self.buffer, 1, partial_N)
        return Score(score_N.astype(jnp.float32), {}, {}, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        left = self.max_tokens - view.sample.completion_tokens
        return HostScore(1.0 if left >= self.buffer else max(0.0, left / max(self.buffer, 1)))
