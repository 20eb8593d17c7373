"""`score_model`: a model reads the answer and gives it a number.

    {"type": "score_model", "model": "gpt-4.1-mini", "range": [0, 1],
     "input": [{"role": "user", "content": "Rate from 0 to 1: {{ sample.output_text }}"}]}

The number is clipped to `range`. See `judge` for where the model is, and `device_judge` for one on
the device.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from rft_jax.config import HostOptions
from rft_jax.graders.host.judge import FIELDS, JudgeRequest
from rft_jax.graders.host.payload import finite_number
from rft_jax.graders.host.service import ServiceSession
from rft_jax.graders.judge_spec import parse_range
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import Items


@dataclass(frozen=True)
class ScoreModel:
    """A validated `score_model`; scores are from low to high."""

    name: str
    judge: JudgeRequest
    low: float
    high: float

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "ScoreModel":
        """See `HostGraderType.parse`."""
        fields.only(*FIELDS, "range")
        low, high = parse_range(fields)
        return cls(name, JudgeRequest.parse(fields), low, high)

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        self.judge.check(items)

    def open(self, options: HostOptions) -> AbstractContextManager[ServiceSession]:
        """See `HostGraderType.open`."""
        return self.judge.open(self.name, {"type": "number"}, self._read, options)

    def _read(self, verdict: Any) -> float | None:
        number = finite_number(verdict)
        return None if number is None else min(max(number, self.low), self.high)
