"""`string_check`: 1 if two texts compare as asked, else 0.

`eq` and `ne` compare code point by code point; `like` asks whether the input contains the
reference, `ilike` the same after simple case folding (Unicode `strings.UNICODE_VERSION`). There
are no patterns.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import case_fold, contains, equal, fold_text

OPERATIONS = {
    "eq": equal,
    "ne": lambda text, reference: ~equal(text, reference),
    "like": contains,
    "ilike": lambda text, reference: contains(case_fold(text), case_fold(reference)),
}
ON_HOST = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: fold_text(reference) in fold_text(text),
}


@dataclass(frozen=True)
class StringCheck:
    """A validated `string_check`."""

    name: str
    input: Template
    reference: Template
    operation: str

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "StringCheck":
        """See `GraderType.parse`."""
        fields.only("input", "reference", "operation")
        return cls(
            name=name,
            input=fields.template("input"),
            reference=fields.template("reference"),
            operation=fields.choice("operation", tuple(OPERATIONS)),
        )

    def encode(self, items: Items) -> Any:
        """See `GraderType.encode`."""
        return self.input.encode(items), self.reference.encode(items)

    def score(self, view: SampleView, encoded: Any) -> Score:
        """See `GraderType.score`."""
        (text, reference), errors, failed_N = render_on_device(
            view, (self.input, self.reference), encoded
        )
        holds_N = OPERATIONS[self.operation](text, reference) & ~failed_N
        return Score(holds_N.astype(jnp.float32), errors, {}, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        texts, errors = render_on_host(view, (self.input, self.reference), items, n)
        return HostScore(float(not errors and ON_HOST[self.operation](*texts)), errors)
