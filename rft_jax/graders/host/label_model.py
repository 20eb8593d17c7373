"""`label_model`: a model puts a label on the answer; 1 if it is one of those that pass, else 0.

    {"type": "label_model", "model": "gpt-4.1-mini", "labels": ["polite", "rude"],
     "passing_labels": ["polite"],
     "input": [{"role": "user", "content": "Polite or rude? {{ sample.output_text }}"}]}

See `judge` for where the model is, and `device_judge` for one on the device.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from rft_jax.config import HostOptions
from rft_jax.graders.host.judge import FIELDS, JudgeRequest
from rft_jax.graders.host.service import ServiceSession
from rft_jax.graders.judge_spec import parse_labels
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import Items


@dataclass(frozen=True)
class LabelModel:
    """A validated `label_model`."""

    name: str
    judge: JudgeRequest
    labels: tuple[str, ...]
    passing_labels: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "LabelModel":
        """See `HostGraderType.parse`."""
        fields.only(*FIELDS, "labels", "passing_labels")
        labels, passing = parse_labels(fields)
        return cls(name, JudgeRequest.parse(fields), labels, passing)

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        self.judge.check(items)

    def open(self, options: HostOptions) -> AbstractContextManager[ServiceSession]:
        """See `HostGraderType.open`."""
        result = {"type": "string", "enum": list(self.labels)}
        return self.judge.open(self.name, result, self._read, options)

    def _read(self, verdict: Any) -> float | None:
        return float(verdict in self.passing_labels) if verdict in self.labels else None
