"""`string_check`: 1 if two texts compare as asked, else 0.

`eq` and `ne` compare code point by code point, `ieq` after simple case folding (Unicode
`strings.UNICODE_VERSION`); `like` asks whether the input contains the reference, `ilike` the same
after case folding. There are no patterns.

Where `input` and `reference` are one variable each, and one of them is a field of the answer's
JSON, `eq` and `ne` compare values: 0.10 is 1e-1, "caf\\u00e9" is "café", objects have no order. A
string equals what is no string if it reads as that is shown ("5" and 5).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.host_json import canonical
from rft_jax.graders.protocols import DeviceNode, ProbeTarget
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import (
    JsonToken,
    case_fold,
    contains,
    equal,
    find,
    fold_text,
    hash_of,
    value_hash,
)
from rft_jax.utils.types import PyTree

OPERATIONS = {
    "eq": equal,
    "ne": lambda text, reference: ~equal(text, reference),
    "ieq": lambda text, reference: equal(case_fold(text), case_fold(reference)),
    "like": contains,
    "ilike": lambda text, reference: contains(case_fold(text), case_fold(reference)),
}
ON_HOST = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "ieq": lambda text, reference: fold_text(text) == fold_text(reference),
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: fold_text(reference) in fold_text(text),
}


@dataclass(frozen=True)
class StringCheck(DeviceNode):
    """A validated `string_check`."""

    type_name = "string_check"
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

    @property
    def templates(self) -> tuple[Template, Template]:
        """Both sides."""
        return self.input, self.reference

    @property
    def compares_values(self) -> bool:
        """Whether JSON values are compared, and not texts."""
        kinds = [t.variable.namespace if t.variable else "" for t in self.templates]
        usable = all(kind in ("item", "output_json") for kind in kinds)
        return self.operation in ("eq", "ne") and usable and "output_json" in kinds

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        return ProbeTarget.of_sides(*self.templates, is_right=self.operation != "ne")

    def encode(self, items: Items) -> PyTree:
        """See `GraderType.encode`."""
        texts = tuple(template.encode(items) for template in self.templates)
        return texts, tuple(
            _encode_values(t, items) if self.compares_values else () for t in self.templates
        )

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        texts, values = encoded
        (text, reference), errors, failed_N = render_on_device(view, self.templates, texts)
        holds_N = OPERATIONS[self.operation](text, reference)
        if self.compares_values:
            (hash_NL, text_N), (other_NL, other_text_N) = (
                value or _values(view, template)
                for template, value in zip(self.templates, values, strict=True)
            )
            same_N = (hash_NL == other_NL).all(axis=-1) == (self.operation == "eq")
            holds_N = jnp.where(text_N | other_text_N, holds_N, same_N)
        return Score((holds_N & ~failed_N).astype(jnp.float32), errors, {}, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        texts, errors = render_on_host(view, self.templates, items, n)
        holds = not errors and ON_HOST[self.operation](*texts)
        if self.compares_values and not errors:
            (value, is_text), (other, other_is_text) = (
                _value_on_host(view, template, items, n) for template in self.templates
            )
            if not is_text and not other_is_text:
                holds = (value == other) == (self.operation == "eq")
        return HostScore(float(holds), errors)


def _encode_values(template: Template, items: Items) -> tuple[np.ndarray, ...]:
    """The hashes of the items' values, and which are strings; nothing for a part of the answer."""
    if template.sample_variables:
        return ()
    values = [template.value(items, n) for n in range(len(items.rows))]
    hashes = np.array([hash_of(value) for value in values], np.uint32)
    return hashes.reshape(len(values), -1), np.array([isinstance(v, str) for v in values], bool)


def _values(view: SampleView, template: Template) -> tuple[jax.Array, jax.Array]:
    """The same of the answers' values."""
    value = find(view.scan, view.unescaped, template.only_variable.path)
    hash_LN = value_hash(view.scan, view.unescaped, value)
    return jnp.moveaxis(hash_LN, 0, -1), value.token_N == JsonToken.STRING


def _value_on_host(view: HostView, template: Template, items: Items, n: int) -> tuple[str, bool]:
    """A canonical text of the value, and whether it is a string."""
    if template.sample_variables:
        value = view.document.find(template.only_variable.path)
        assert value is not None, "the template was rendered before"
        return value.canonical, isinstance(value.data, str)
    own = template.value(items, n)
    return canonical(own), isinstance(own, str)
