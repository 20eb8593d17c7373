"""`string_check`: 1 if two texts compare as asked, else 0.

`eq` and `ne` compare code point by code point; `like` asks whether the input contains the
reference, `ilike` the same after simple case folding (Unicode `strings.UNICODE_VERSION`). There
are no patterns.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from rft_jax.graders.fields import Fields
from rft_jax.graders.template import Template
from rft_jax.graders.types import Items, SampleView, Score
from rft_jax.strings import case_fold, contains, equal

OPERATIONS = {
    "eq": equal,
    "ne": lambda text, reference: ~equal(text, reference),
    "like": contains,
    "ilike": lambda text, reference: contains(case_fold(text), case_fold(reference)),
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
        text = self.input.render(view, encoded[0])
        reference = self.reference.render(view, encoded[1])
        errors = {
            "sample_parse_error": text.not_json | reference.not_json,
            "invalid_variable_error": text.missing | reference.missing,
            "other_error": text.too_deep | reference.too_deep,
        }
        failed_N = errors["sample_parse_error"] | errors["invalid_variable_error"]
        holds_N = OPERATIONS[self.operation](text.text, reference.text) & ~failed_N
        return Score(holds_N.astype(jnp.float32), errors, {}, {})
