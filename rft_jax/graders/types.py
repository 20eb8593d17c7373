"""What graders take and return, and what a grader type has to provide.

A grader type is one file with a frozen dataclass that has the methods of `GraderType`, and one
line in `registry.TYPES`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rft_jax.strings import ByteString, JsonScan, Unescaped, scan_json, unescape

if TYPE_CHECKING:
    from rft_jax.graders.fields import Fields

# OpenAI's names, of the errors that can arise on the device.
ERRORS = (
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "invalid_variable_error",
    "other_error",
)


class Sample(NamedTuple):
    """N completions to grade.

    Attributes:
        output_text: ByteString of [N, L], what follows the end-of-think token.
        has_answer: bool[N], false without an end-of-think token; the text is then empty.
        truncated: bool[N], the completion was cut at the token limit.
        overflow: bool[N], the text did not fit in L bytes and was cut.
        completion_tokens: int32[N].
    """

    output_text: ByteString
    has_answer: jax.Array
    truncated: jax.Array
    overflow: jax.Array
    completion_tokens: jax.Array


class Grade(NamedTuple):
    """Grades of N completions.

    Attributes:
        reward: float32[N], always finite; 0 where there is no answer or it is not valid.
        valid: bool[N], false where no grade could be computed for a reason that is not the
            model's: a text longer than L, or JSON deeper than the scanner's limit.
        scores: float32[N] by the name of a grader; those of a `multi` by its keys.
        errors: bool[N] by each name of `ERRORS`.
        details: float32[N] by `<grader>/<what>`.
    """

    reward: jax.Array
    valid: jax.Array
    scores: dict[str, jax.Array]
    errors: dict[str, jax.Array]
    details: dict[str, jax.Array]


class Score(NamedTuple):
    """What one node of a grader found.

    Attributes:
        score: float32[N], finite.
        errors: bool[N] by name, those of `ERRORS` that the node can have; where `other_error`
            holds the score means nothing.
        details: float32[N] by `<name>/<what>`.
        parts: scores of the nodes below by name; empty for a leaf.
    """

    score: jax.Array
    errors: dict[str, jax.Array]
    details: dict[str, jax.Array]
    parts: dict[str, jax.Array]


class SampleView:
    """A sample with what several nodes need of it, computed once while a grade is traced."""

    def __init__(self, sample: Sample):
        self.sample = sample

    @functools.cached_property
    def scan(self) -> JsonScan:
        """The tokens of `output_text` as JSON."""
        return scan_json(self.sample.output_text)

    @functools.cached_property
    def unescaped(self) -> Unescaped:
        """The text of its strings."""
        return unescape(self.scan)

    @property
    def no(self) -> jax.Array:
        """bool[N], all false."""
        return jnp.zeros_like(self.sample.has_answer, dtype=bool)


@dataclass(frozen=True)
class Items:
    """The rows of a data set, and where they are from.

    Attributes:
        rows: the items.
        source: the file; item i is line i + 1.
    """

    rows: Sequence[Mapping[str, Any]]
    source: str


class GraderType(Protocol):
    """A validated grader of one type: a frozen, hashable dataclass."""

    name: str

    @classmethod
    def parse(cls, name: str, fields: Fields) -> GraderType:
        """Reads the grader's JSON object.

        Raises:
            InputError: naming the path inside the JSON and the remedy.
        """

    def encode(self, items: Items) -> Any:
        """What the node needs of every item: a tree of NumPy arrays with leading axis len(items).

        Raises:
            InputError: naming the line and the template.
        """

    def score(self, view: SampleView, encoded: Any) -> Score:
        """Grades N samples on the device; `encoded` has the items' rows, one per sample."""
