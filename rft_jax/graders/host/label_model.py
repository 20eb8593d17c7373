"""`label_model`: a model puts a label on the answer; 1 if it is one of those that pass, else 0.

    {"type": "label_model", "model": "gpt-4.1-mini", "labels": ["polite", "rude"],
     "passing_labels": ["polite"],
     "input": [{"role": "user", "content": "Polite or rude? {{ sample.output_text }}"}]}

Labels are read in any case, in JSON as `result`, in a fence, after a thought or in a sentence; a
judge that refuses or gives none leaves the sample invalid. See `judge` for where the model is, and
`device_judge` for one on the device.
"""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rft_jax.config import HostOptions
from rft_jax.graders.host.judge import FIELDS, JudgeRequest
from rft_jax.graders.host.service import ServiceSession
from rft_jax.graders.host.spoken import label_said
from rft_jax.graders.judge_spec import parse_labels
from rft_jax.graders.protocols import HostNode
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import Items
from rft_jax.strings import fold_text


@dataclass(frozen=True)
class LabelModel(HostNode):
    """A validated `label_model`."""

    type_name = "label_model"
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

    @property
    def judge_model(self) -> str:
        """See `HostGraderType.judge_model`."""
        return self.judge.model

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        self.judge.check(items)

    def open(self, options: HostOptions) -> AbstractContextManager[ServiceSession]:
        """See `HostGraderType.open`."""
        result = {"type": "string", "enum": list(self.labels)}
        return self.judge.open(self.name, result, self._read, self._hear, options)

    def _read(self, verdict: object) -> float | None:
        if not isinstance(verdict, str):
            verdict = verdict if verdict is None else json.dumps(verdict)
        if verdict in self.labels:
            return float(verdict in self.passing_labels)
        alike = [label for label in self.labels if _plain(label) == _plain(str(verdict))]
        return float(alike[0] in self.passing_labels) if len(alike) == 1 else None

    def _hear(self, text: str) -> float | None:
        label = label_said(text, self.labels)
        return None if label is None else float(label in self.passing_labels)


def _plain(label: str) -> str:
    """Without case and punctuation around it."""
    return fold_text(label).strip("\"'*.! \t\r\n")
