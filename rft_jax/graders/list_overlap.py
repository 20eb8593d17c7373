"""`list_overlap`: how much two lists of strings have in common.

    {"type": "list_overlap", "name": "codes", "input": "{{sample.output_json.codes}}",
     "reference": "{{item.codes}}", "metric": "f1", "max_items": 50}

The input is a field of the answer's JSON: an array of at most `max_items` strings, else the answer
is malformed and earns 0. The entries of both lists are normalized (`strings.normalize`: case, white
space, brackets), and equal ones count once. With A the set of the answer's entries and R that of
the reference's, `metric` is

    precision    |A & R| / |A|
    recall       |A & R| / |R|
    f1           2 |A & R| / (|A| + |R|)
    jaccard      |A & R| / |A | R|

Two empty lists earn 1; an empty one and another earn 0.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from rft_jax.graders.rank import MOST_ITEMS, is_list_of_strings
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, encode_text, json_errors
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import (
    JsonToken,
    StringList,
    equal_pairs,
    find,
    first_occurrences,
    list_from_host,
    normalize,
    normalize_text,
    strings_of,
)
from rft_jax.utils.errors import InputError

MAX_ITEMS = 50
# Of the sizes of the answer's set, the reference's, and what both have.
METRICS = {
    "precision": lambda answer, reference, both: (both, answer),
    "recall": lambda answer, reference, both: (both, reference),
    "f1": lambda answer, reference, both: (2 * both, answer + reference),
    "jaccard": lambda answer, reference, both: (both, answer + reference - both),
}


class Encoded(NamedTuple):
    """What is needed of M items.

    Attributes:
        names: the reference lists.
        size_M: int32, how many of their entries differ from each other.
    """

    names: StringList
    size_M: np.ndarray


@dataclass(frozen=True)
class ListOverlap:
    """A validated `list_overlap`."""

    lists_answers: ClassVar[bool] = True
    name: str
    input: Template
    reference: Template
    metric: str
    max_items: int

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "ListOverlap":
        """See `GraderType.parse`."""
        fields.only("input", "reference", "metric", "max_items")
        return cls(
            name=name,
            input=fields.variable("input", "output_json", "{{sample.output_json.codes}}"),
            reference=fields.variable("reference", "item", "{{item.codes}}"),
            metric=fields.choice("metric", tuple(METRICS)),
            max_items=fields.integer("max_items", MAX_ITEMS, 1, MOST_ITEMS),
        )

    def encode(self, items: Items) -> Encoded:
        """See `GraderType.encode`."""
        rows = [self._names(items, n) for n in range(len(items.rows))]
        sizes = [len({normalize_text(name.decode()) for name in row}) for row in rows]
        return Encoded(list_from_host(rows), np.array(sizes, np.int32))

    def _names(self, items: Items, n: int) -> list[bytes]:
        names = self.reference.value(items, n)
        if not is_list_of_strings(names):
            raise InputError(
                f"{items.source}, line {n + 1}: {self.reference.where} needs a list of strings, "
                f"not {names!r}; correct the item"
            )
        return [encode_text(name, items, n, self.reference.where) for name in names]

    def score(self, view: SampleView, encoded: Encoded) -> Score:
        """See `GraderType.score`."""
        scan = view.scan
        value = find(scan, view.unescaped, self.input.variable.path)
        strings, uniform_N = strings_of(scan, view.unescaped, value, self.max_items)
        well_formed_N = uniform_N & (strings.count_N <= self.max_items)
        entries = normalize(strings)
        new_NK = first_occurrences(entries)
        found_NK = new_NK & equal_pairs(entries, normalize(encoded.names)).any(axis=-1)
        answer_N, both_N = (x.sum(axis=-1, dtype=jnp.int32) for x in (new_NK, found_NK))
        share, whole = METRICS[self.metric](answer_N, encoded.size_M, both_N)
        nothing_N = (answer_N == 0) & (encoded.size_M == 0)
        score_N = jnp.where(nothing_N, 1, share / jnp.maximum(whole, 1))
        errors = {
            "sample_parse_error": ~scan.valid_N & ~scan.too_deep_N,
            "invalid_variable_error": scan.valid_N & (value.token_N == JsonToken.NONE),
            "other_error": scan.too_deep_N,
        }
        details = {
            f"{self.name}/list_length": jnp.where(well_formed_N, strings.count_N, 0),
            f"{self.name}/malformed": ~well_formed_N,
        }
        details = {name: detail.astype(jnp.float32) for name, detail in details.items()}
        score_N = jnp.where(well_formed_N, score_N, 0).astype(jnp.float32)
        return Score(score_N, errors, details, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with Python's sets."""
        value = view.document.find(self.input.variable.path)
        names = value.data if value else None
        well_formed = is_list_of_strings(names) and len(names) <= self.max_items
        score, length = 0.0, 0
        if well_formed:
            answer = set(map(normalize_text, names))
            reference = {normalize_text(name.decode()) for name in self._names(items, n)}
            share, whole = METRICS[self.metric](
                len(answer), len(reference), len(answer & reference)
            )
            score = share / max(whole, 1) if answer or reference else 1.0
            length = len(names)
        details: dict[str, Any] = {"list_length": length, "malformed": not well_formed}
        return HostScore(
            score,
            json_errors(view, value),
            {f"{self.name}/{what}": float(detail) for what, detail in details.items()},
        )
