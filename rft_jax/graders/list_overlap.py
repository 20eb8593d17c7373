"""`list_overlap`: how much two lists of strings have in common.

    {"type": "list_overlap", "name": "codes", "input": "{{sample.output_json.codes}}",
     "reference": "{{item.codes}}", "metric": "f1", "max_items": 50, "normalize": "case"}

The input is a field of the answer's JSON: an array of at most `max_items` strings (a lone string is
one of one), else the answer is malformed and earns 0. What is equal says `normalize`, as for
`rank`; equal entries count once. References that differ in their brackets only are refused with
"names", which would make them one. With A the set of the answer's entries and R that of
the reference's, `metric` is

    precision    |A & R| / |A|
    recall       |A & R| / |R|
    f1           2 |A & R| / (|A| + |R|)
    jaccard      |A & R| / |A | R|

With `"entries": "tokens"` instead of the default "whole", entries are compared word by word, as
`host.list_overlap` says. Two empty lists earn 1; an empty one and another earn 0.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rft_jax.graders.host.list_overlap import ListOverlap as TokenOverlap
from rft_jax.graders.protocols import DeviceNode, ProbeTarget
from rft_jax.graders.rank import (
    MOST_ITEMS,
    is_list_of_strings,
    listed,
    parse_form,
    reference_list,
)
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, encode_text, json_errors, json_errors_on_device
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
ENTRIES = ("whole", "tokens")
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
class ListOverlap(DeviceNode):
    """A validated `list_overlap`."""

    type_name = "list_overlap"
    name: str
    input: Template
    reference: Template
    metric: str
    max_items: int
    normalize: str

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "ListOverlap | TokenOverlap":
        """See `GraderType.parse`."""
        given = "entries" in fields.values
        tokens = given and fields.choice("entries", ENTRIES) == "tokens"
        own = () if tokens else ("normalize",)
        fields.only("input", "reference", "metric", "max_items", "entries", *own)
        metric = fields.choice("metric", tuple(METRICS))
        shared = {
            "name": name,
            "input": fields.variable("input", "output_json", "{{sample.output_json.codes}}"),
            "reference": fields.variable("reference", "item", "{{item.codes}}"),
            "max_items": fields.integer("max_items", MAX_ITEMS, 1, MOST_ITEMS),
        }
        if not tokens:
            return cls(**shared, metric=metric, normalize=parse_form(fields))
        if metric != "f1":
            raise fields.error("metric", 'must be "f1" with entries "tokens"; correct it')
        return TokenOverlap(**shared)

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        return ProbeTarget.of_sides(self.input, self.reference, is_list=True)

    def encode(self, items: Items) -> Encoded:
        """See `GraderType.encode`."""
        rows = [self._names(items, n) for n in range(len(items.rows))]
        sizes = [len(self._normalized(row)) for row in rows]
        return Encoded(list_from_host(rows), np.array(sizes, np.int32))

    def _names(self, items: Items, n: int) -> list[bytes]:
        names = reference_list(self.reference, items, n)
        if self.normalize == "names":
            kept: dict[str, str] = {}
            for name in names:
                other = kept.setdefault(normalize_text(name), name)
                if normalize_text(name, "case") != normalize_text(other, "case"):
                    raise InputError(
                        f"{items.source}, line {n + 1}: {self.reference.where} has {other!r} and "
                        f"{name!r}, which are the same without their brackets; set "
                        '"normalize": "case"'
                    )
        return [encode_text(name, items, n, self.reference.where) for name in names]

    def _normalized(self, names: list[bytes]) -> set[str]:
        return {normalize_text(name.decode(), self.normalize) for name in names}

    def score(self, view: SampleView, encoded: Encoded) -> Score:
        """See `GraderType.score`."""
        scan = view.scan
        value = find(scan, view.unescaped, self.input.variable.path)
        strings, uniform_N = strings_of(scan, view.unescaped, value, self.max_items, lone=True)
        well_formed_N = uniform_N & (strings.count_N <= self.max_items)
        entries = normalize(strings, self.normalize)
        references = normalize(encoded.names, self.normalize)
        new_NK = first_occurrences(entries)
        found_NK = new_NK & equal_pairs(entries, references).any(axis=-1)
        answer_N, both_N = (x.sum(axis=-1, dtype=jnp.int32) for x in (new_NK, found_NK))
        share, whole = METRICS[self.metric](answer_N, encoded.size_M, both_N)
        nothing_N = (answer_N == 0) & (encoded.size_M == 0)
        score_N = jnp.where(nothing_N, 1, share / jnp.maximum(whole, 1))
        errors = json_errors_on_device(view, value.token_N == JsonToken.NONE)
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
        names = listed(value.data) if value else None
        well_formed = is_list_of_strings(names) and len(names) <= self.max_items
        score, length = 0.0, 0
        if well_formed:
            answer = {normalize_text(name, self.normalize) for name in names}
            reference = self._normalized(self._names(items, n))
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
