"""`format`: 1 if the answer has the form that was asked for, else 0.

    {"type": "format", "name": "form", "markers": ["<answer>", "</answer>"]}
    {"type": "format", "name": "form", "json_only": true}

`markers` are texts that must occur in this order, none overlapping the one before. With `json_only`
the answer must be one JSON document and nothing else. Both may be asked for. How many of the
markers were found in order is a metric, `<name>/markers`, and earns nothing.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from rft_jax.graders.protocols import DeviceNode
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import from_host, occurrences
from rft_jax.utils.types import PyTree


@dataclass(frozen=True)
class Format(DeviceNode):
    """A validated `format`."""

    type_name = "format"
    name: str
    markers: tuple[str, ...]
    json_only: bool

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Format":
        """See `GraderType.parse`."""
        fields.only("markers", "json_only")
        json_only = fields.values.get("json_only", False)
        if not isinstance(json_only, bool):
            raise fields.error("json_only", f"must be true or false, not {json_only!r}; correct it")
        if not json_only and "markers" not in fields.values:
            raise fields.error("markers", "is missing; add a list of texts, or json_only: true")
        markers = fields.values.get("markers", [])
        if not isinstance(markers, list) or not (markers or json_only):
            raise fields.error("markers", "must be a list of texts with at least one; correct it")
        for k, marker in enumerate(markers):
            if not isinstance(marker, str) or not marker:
                raise fields.error(
                    f"markers[{k}]", f"must be a text with something in it, not {marker!r}"
                )
            fields.unicode(f"markers[{k}]", marker)
        return cls(name, tuple(markers), json_only)

    def encode(self, items: Items) -> tuple[()]:
        """Nothing of the items is needed."""
        del items
        return ()

    @property
    def errors(self) -> tuple[str, ...]:
        """See `GraderType.errors`."""
        return ("other_error",) if self.json_only else ()

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        del encoded
        text = view.sample.output_text
        width = text.bytes.shape[-1]
        index = jnp.arange(width, dtype=jnp.int32)
        found_N = jnp.zeros_like(text.length)
        place_N = jnp.zeros_like(text.length)  # where the next marker may start
        for marker in self.markers:
            literal = from_host([marker], len(marker.encode()))
            starts_NL = occurrences(text, literal) & (index >= place_N[:, None])
            first_N = jnp.where(starts_NL, index, width).min(axis=-1, initial=width)
            found_N += first_N < width
            place_N = first_N + len(marker.encode())
        holds_N = found_N == len(self.markers)
        errors = {}
        if self.json_only:
            holds_N &= view.scan.valid_N & view.is_json
            errors["other_error"] = view.scan.too_deep_N & view.is_json
        details = {f"{self.name}/markers": found_N.astype(jnp.float32)}
        return Score(holds_N.astype(jnp.float32), errors, details, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with `str.find` and `json`."""
        text, after, found = view.sample.output_text, 0, 0
        for marker in self.markers:
            start = text.find(marker, after)
            if start < 0:
                break
            after, found = start + len(marker), found + 1
        holds = found == len(self.markers)
        errors = set()
        if self.json_only:
            document = view.document
            holds &= document.root is not None and document.whole
            errors = {"other_error"} if document.too_deep and document.whole else set()
        return HostScore(float(holds), frozenset(errors), {f"{self.name}/markers": float(found)})
