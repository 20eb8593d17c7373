"""`list_overlap`: how much two lists of strings have in common.

    {"type": "list_overlap", "name": "codes", "input": "{{sample.output_json.codes}}",
     "reference": "{{item.codes}}", "metric": "f1", "max_items": 50, "normalize": "case"}

The input is a field of the answer's JSON: an array of at most `max_items` strings (a lone string is
one of one), else the answer is malformed and earns 0. What is equal says `normalize`, as for
`rank`; equal entries count once. References that differ in their brackets only are refused with
"names", which would make them one. Unless `normalize` is "none", two entries that are numbers, of
up to 64 bytes and without a unit, are equal if their values are: "$1496.5" is "$1,496.5", and
"(12.6)" is -12.6; what begins with a needless zero is a code and no number. With A the set of the
answer's entries and R that of the reference's, `metric` is

    precision    |A & R| / |A|
    recall       |A & R| / |R|
    f1           2 |A & R| / (|A| + |R|)
    jaccard      |A & R| / |A | R|

With `"entries": "tokens"` instead of the default "whole", entries are compared word by word, as
`host.list_overlap` says. Two empty lists earn 1; an empty one and another earn 0.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.host.list_overlap import ListOverlap as TokenOverlap
from rft_jax.graders.protocols import DeviceNode, ProbeTarget
from rft_jax.graders.rank import MOST_ITEMS, is_list_of_strings, listed, parse_form, reference_list
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, encode_text, json_errors, json_errors_on_device
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import (
    ByteString,
    JsonToken,
    StringList,
    equal_pairs,
    find,
    list_from_host,
    normalize,
    normalize_text,
    strings_of,
)
from rft_jax.strings.answers import host_answer, read_answer
from rft_jax.strings.byte_string import Array
from rft_jax.strings.numbers import Decimals, from_fractions
from rft_jax.utils.errors import InputError

MAX_ITEMS = 50
ENTRIES = ("whole", "tokens")
NUMBER_BYTES = 64
_CODE = re.compile("[^0-9]*0[0-9]")
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
        names: The reference lists.
        size_M: int32, how many of their entries differ from each other.
        number: Decimals of [M, K], the entries that are numbers.
        is_number_MK: bool.
    """

    names: StringList
    size_M: np.ndarray
    number: Decimals
    is_number_MK: np.ndarray


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
        names = list_from_host(rows)
        keys = [[_key(name.decode(), self.normalize) for name in row] for row in rows]
        shape = names.start_NK.shape
        number = jax.tree.map(
            lambda leaf: np.zeros((*shape, *leaf.shape[1:]), leaf.dtype), from_fractions([])
        )
        is_number_MK = np.zeros(shape, bool)
        for m, row in enumerate(keys):
            for k, key in enumerate(row):
                if isinstance(key, _Number):
                    is_number_MK[m, k] = True
                    for leaf, value in zip(number, key.decimals, strict=True):
                        leaf[m, k] = value[0]
        sizes = np.array([len(set(row)) for row in keys], np.int32)
        return Encoded(names, sizes, number, is_number_MK)

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

    def score(self, view: SampleView, encoded: Encoded) -> Score:
        """See `GraderType.score`."""
        scan = view.scan
        value = find(scan, view.unescaped, self.input.only_variable.path)
        strings, uniform_N = strings_of(scan, view.unescaped, value, self.max_items, lone=True)
        well_formed_N = uniform_N & (strings.count_N <= self.max_items)
        entries = normalize(strings, self.normalize)
        names = normalize(encoded.names, self.normalize)
        number, is_number_NK = _numbers(strings)
        is_number_NK &= self.normalize != "none"
        ours = equal_pairs(entries, entries), number, is_number_NK
        K = is_number_NK.shape[1]
        repeats_NK = (_equal(*ours, number, is_number_NK) & jnp.tri(K, k=-1, dtype=bool)).any(-1)
        new_NK = (jnp.arange(K) < strings.count_N[:, None]) & ~repeats_NK
        same_NKM = _equal(
            equal_pairs(entries, names), number, is_number_NK, encoded.number, encoded.is_number_MK
        )
        found_NK = new_NK & same_NKM.any(axis=-1)
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
        value = view.document.find(self.input.only_variable.path)
        names = listed(value.data) if value else None
        score, length, well_formed = 0.0, 0, False
        if is_list_of_strings(names) and len(names) <= self.max_items:
            answer = {_key(name, self.normalize) for name in names}
            reference = {_key(name.decode(), self.normalize) for name in self._names(items, n)}
            share, whole = METRICS[self.metric](
                len(answer), len(reference), len(answer & reference)
            )
            score = share / max(whole, 1) if answer or reference else 1.0
            length, well_formed = len(names), True
        details: dict[str, Any] = {"list_length": length, "malformed": not well_formed}
        return HostScore(
            score,
            json_errors(view, value),
            {f"{self.name}/{what}": float(detail) for what, detail in details.items()},
        )


class _Number(NamedTuple):
    """An entry that is a number, by what the device knows of it."""

    leaves: tuple[bytes, ...]

    @property
    def decimals(self) -> Decimals:
        """The number; Decimals of one."""
        like = from_fractions([])
        return Decimals(
            *(
                np.frombuffer(leaf, empty.dtype).reshape(1, *empty.shape[1:])
                for leaf, empty in zip(self.leaves, like, strict=True)
            )
        )


def _key(name: str, form: str) -> _Number | str:
    """What is the same for equal entries, on the host."""
    readable = form != "none" and not _CODE.match(name)
    answer = host_answer(name, accounting=True) if readable else None
    if answer and not answer.named and len(name.encode(errors="replace")) <= NUMBER_BYTES:
        (element,) = answer.elements
        if element.number is not None and not element.unit:
            return _Number(tuple(leaf.tobytes() for leaf in from_fractions([element.number])))
    return normalize_text(name, form)


def _numbers(strings: StringList) -> tuple[Decimals, jax.Array]:
    """Decimals of [N, K] and bool[N, K]: the entries that are numbers."""
    start_NK, end_NK = jnp.asarray(strings.start_NK), jnp.asarray(strings.end_NK)
    N, K = start_NK.shape
    width = min(NUMBER_BYTES, strings.text.bytes.shape[-1])
    length_NK = end_NK - start_NK
    index = start_NK[:, :, None] + jnp.arange(width, dtype=jnp.int32)
    byte = jnp.take_along_axis(
        jnp.asarray(strings.text.bytes), index.reshape(N, K * width), axis=-1, mode="clip"
    ).reshape(N, K, width)
    byte = jnp.where(jnp.arange(width) < length_NK[:, :, None], byte, 0)
    text = ByteString(
        byte.reshape(N * K, width), jnp.minimum(length_NK, width).reshape(-1).astype(jnp.int32)
    )
    answer = read_answer(text, accounting=True)
    is_digit = (byte >= ord("0")) & (byte <= ord("9"))
    first_NK = jnp.argmax(is_digit, axis=-1)[:, :, None]
    second = jnp.take_along_axis(
        jnp.pad(is_digit, ((0, 0), (0, 0), (0, 1))), first_NK + 1, axis=-1, mode="clip"
    )
    zero = jnp.take_along_axis(byte, first_NK, axis=-1, mode="clip") == ord("0")
    code_NK = (zero & second)[:, :, 0]
    is_number = answer.is_number_NK[:, 0] & ~answer.named_N & (answer.unit.length[:, 0] == 0)
    is_number_NK = is_number.reshape(N, K) & (length_NK <= NUMBER_BYTES) & ~code_NK
    is_number_NK &= jnp.arange(K) < jnp.asarray(strings.count_N)[:, None]
    return Decimals(*(x.reshape(N, K, *x.shape[1:]) for x in answer.number)), is_number_NK


def _equal(
    text_NKM: jax.Array, a: Decimals, a_is_NK: jax.Array, b: Decimals, b_is_NM: Array
) -> jax.Array:
    """bool[N, K, M]: whether entries are equal, by their values where either is a number."""
    either = a_is_NK[:, :, None] | jnp.asarray(b_is_NM)[:, None, :]
    both = a_is_NK[:, :, None] & jnp.asarray(b_is_NM)[:, None, :]
    for x, y in zip(a, b, strict=True):
        same = x[:, :, None] == jnp.asarray(y)[:, None]
        both &= same.all(axis=-1) if same.ndim == 4 else same
    return jnp.where(either, both, text_NKM)
