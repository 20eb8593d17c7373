"""`score_model`: a model reads the answer and gives it a number.

    {"type": "score_model", "model": "gpt-4.1-mini", "range": [0, 1],
     "input": [{"role": "user", "content": "Rate from 0 to 1: {{ sample.output_text }}"}]}

The number is clipped to `range`; one that is said in a sentence has to lie in it. A verdict may
stand in JSON as `result`, in a fence, after a thought or in a sentence; a judge that refuses or
gives none leaves the sample invalid. See `judge` for where the model is, and `device_judge` for one
on the device.
"""

import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rft_jax.config import HostOptions
from rft_jax.graders.host.judge import FIELDS, JudgeRequest
from rft_jax.graders.host.payload import finite_number
from rft_jax.graders.host.service import ServiceSession
from rft_jax.graders.host.spoken import number_said, read_text
from rft_jax.graders.judge_spec import parse_range
from rft_jax.graders.protocols import HostNode
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import Items


@dataclass(frozen=True)
class ScoreModel(HostNode):
    """A validated `score_model`; scores are from low to high."""

    type_name = "score_model"
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

    @property
    def judge_model(self) -> str:
        """See `HostGraderType.judge_model`."""
        return self.judge.model

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        self.judge.check(items)

    def open(self, options: HostOptions) -> AbstractContextManager[ServiceSession]:
        """See `HostGraderType.open`."""
        hear = functools.partial(number_said, low=self.low, high=self.high)
        return self.judge.open(self.name, {"type": "number"}, self._read, hear, options)

    def _read(self, verdict: object) -> float | None:
        number = finite_number(read_text(verdict))
        return None if number is None else min(max(number, self.low), self.high)
