"""What graders take and return."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.graders.host_json import Document, parse_document
from rft_jax.strings import ByteString, JsonScan, Unescaped, scan_last_json, unescape

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
NOT_THE_MODELS = (
    "other_error",
    "python_grader_server_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
)

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
        answer: The tokens of `output_text`, for judges on the device; None if only the text is
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
            host that could not be asked, took too long or gave no verdict, a score that is not
            finite.
        scores: float32[N] by the name of a grader; those of a `multi` by its keys.
        errors: bool[N] by each name of `ERRORS`, and by `<part>/<error>` for parts of a `multi`.
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
        errors: bool[N] by name, those of `ERRORS` that the node can have, and those of its parts by
            `<part>/<error>`; where one of `NOT_THE_MODELS` holds the score means nothing.
        details: float32[N] by `<name>/<what>`.
        parts: Scores of the nodes below by name; empty for a leaf.
    """

    score: jax.Array
    errors: dict[str, jax.Array]
    details: dict[str, jax.Array]
    parts: dict[str, jax.Array]


class SampleView:
    """A sample with what several nodes need of it, computed once while a grade is traced.

    Attributes:
        sample: The N completions.
        on_host: By name, what the nodes that run on the host have found.
        judge_params: By model, the weights of judges on the device.
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
    def _json(self) -> tuple[JsonScan, jax.Array]:
        return scan_last_json(self.sample.output_text)

    @property
    def scan(self) -> JsonScan:
        """The tokens of the JSON in `output_text`; see `strings.json_anywhere`."""
        return self._json[0]

    @property
    def is_json(self) -> jax.Array:
        """bool[N]: `output_text` is JSON from its start to its end, be it too deep."""
        return self._json[1]

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
        score: Finite.
        errors: Names of `ERRORS` that hold.
        details: Numbers by `<name>/<what>`, the same names for every sample.
        message: What went wrong, for people; empty if nothing did.
        answers_fault: False for a failure that has its reason outside of the answer, though its
            name in `errors` does not say so, as of a time-out: the sample is not valid.
    """

    score: float
    errors: frozenset[str] = frozenset()
    details: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    answers_fault: bool = True


class HostView:
    """A completion on the host, with its JSON parsed once."""

    def __init__(self, sample: HostSample):
        self.sample = sample

    @functools.cached_property
    def document(self) -> Document:
        """The JSON in `output_text`."""
        return parse_document(self.sample.output_text)


@dataclass(frozen=True)
class Items:
    """The rows of a data set, and where they are from.

    Attributes:
        rows: The items.
        source: The file; item i is line i + 1.
    """

    rows: Sequence[Mapping[str, Any]]
    source: str
