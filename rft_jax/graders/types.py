"""What graders take and return, and what a grader type has to provide.

A grader type is one file with a frozen dataclass, and one line in `registry.TYPES`. Either it has
the methods of `GraderType`: then it runs on the device, and `score_on_host` says the same in
plain Python; or those of `HostGraderType`: then it runs on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from rft_jax.config import HostOptions
from rft_jax.graders.host_json import Document, parse_document
from rft_jax.strings import ByteString, JsonScan, Unescaped, scan_json, unescape

if TYPE_CHECKING:
    from rft_jax.graders.spec_reader import Fields

# OpenAI's names.
ERRORS = (
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
)
# Those that are not the model's doing: the sample is not valid and takes no part in learning.
NOT_THE_MODELS = ("other_error", "python_grader_server_error", "model_grader_server_error")

# Ends the name of a detail that numbers the different answers, below 0 for none: what a majority
# is counted of.
ANSWER = "/answer"


class Tokens(NamedTuple):
    """Token sequences.

    Attributes:
        ids: int32[N, T]; what is at and beyond the length has no meaning.
        length: int32[N].
    """

    ids: jax.Array
    length: jax.Array


class Sample(NamedTuple):
    """N completions to grade.

    Attributes:
        output_text: ByteString of [N, L], what follows the end-of-think token.
        has_answer: bool[N], false without an end-of-think token; the text is then empty.
        truncated: bool[N], the completion was cut at the token limit.
        overflow: bool[N], the text did not fit in L bytes and was cut.
        completion_tokens: int32[N].
        answer: the tokens of `output_text`, for judges on the device; None if only the text is
            there.
    """

    output_text: ByteString
    has_answer: jax.Array
    truncated: jax.Array
    overflow: jax.Array
    completion_tokens: jax.Array
    answer: Tokens | None = None


class Grade(NamedTuple):
    """Grades of N completions.

    Attributes:
        reward: float32[N], always finite; 0 where there is no answer or it is not valid.
        valid: bool[N], false where no grade could be computed for a reason that is not the
            model's: a text longer than L, JSON deeper than the scanner's limit, a grader on the
            host that could not be asked.
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
        errors: bool[N] by name, those of `ERRORS` that the node can have; where one of
            `NOT_THE_MODELS` holds the score means nothing.
        details: float32[N] by `<name>/<what>`.
        parts: scores of the nodes below by name; empty for a leaf.
    """

    score: jax.Array
    errors: dict[str, jax.Array]
    details: dict[str, jax.Array]
    parts: dict[str, jax.Array]


class SampleView:
    """A sample with what several nodes need of it, computed once while a grade is traced.

    Attributes:
        sample: the N completions.
        on_host: by name, what the nodes that run on the host have found.
        judge_params: by model, the weights of judges on the device.
    """

    def __init__(
        self,
        sample: Sample,
        on_host: Mapping[str, Score] | None = None,
        judge_params: Mapping[str, Any] | None = None,
    ):
        self.sample = sample
        self.on_host = on_host or {}
        self.judge_params = judge_params or {}

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


class HostSample(NamedTuple):
    """One completion on the host; the fields are those of `Sample`."""

    output_text: str
    has_answer: bool = True
    truncated: bool = False
    overflow: bool = False
    completion_tokens: int = 0


@dataclass(frozen=True)
class HostScore:
    """What one node found for one completion, on the host.

    Attributes:
        score: finite.
        errors: names of `ERRORS` that hold.
        details: numbers by `<name>/<what>`, the same names for every sample.
        message: what went wrong, for people; empty if nothing did.
    """

    score: float
    errors: frozenset[str] = frozenset()
    details: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


class HostView:
    """A completion on the host, with its JSON parsed once."""

    def __init__(self, sample: HostSample):
        self.sample = sample

    @functools.cached_property
    def document(self) -> Document:
        """`output_text` as JSON."""
        return parse_document(self.sample.output_text)


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
    """A validated grader of a type that runs on the device: a frozen, hashable dataclass."""

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

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """Grades one sample of item n in plain Python, through the libraries that define the type.

        What `score` is held against, and what runs when a grader is placed on the host.

        Raises:
            InputError: a library is missing; naming the package to install.
        """


@runtime_checkable
class HostGraderType(Protocol):
    """A validated grader of a type that can run on the host only: a frozen, hashable dataclass."""

    name: str

    @classmethod
    def parse(cls, name: str, fields: Fields) -> HostGraderType:
        """As `GraderType.parse`."""

    def check(self, items: Items) -> None:
        """Looks whether every item serves the grader.

        Raises:
            InputError: naming the line and the template.
        """

    def open(self, options: HostOptions) -> AbstractContextManager[HostSession]:
        """Acquires what grading needs, such as a pool of workers.

        Raises:
            InputError: it cannot be had here; naming the remedy.
        """


class HostSession(Protocol):
    """An open grader on the host."""

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """Grades samples, sample i of item rows[i]. One that fails fails alone, without raising."""
