"""From a grader's specification to its functions: items on the host, grading on the device.

A grader with nodes that run on the host is used in two steps:

    with grader.open_host() as host:
        found, messages = host.grade(samples, items, rows)
        grade = grader.grade(sample, item_fields, found)
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import HostOptions
from rft_jax.graders.device_judge import JudgeModel, judge_nodes, open_judges
from rft_jax.graders.placement import HostGrading, nodes_on_host, place
from rft_jax.graders.protocols import GraderType, HostGraderType
from rft_jax.graders.registry import load_grader, load_pass_threshold
from rft_jax.graders.types import (
    ERRORS,
    NOT_THE_MODELS,
    Grade,
    HostSample,
    Items,
    Sample,
    SampleView,
    Score,
    Tokens,
)
from rft_jax.strings import from_host
from rft_jax.tokenizers import Tokenizer, same_tokens
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonMapping, PyTree, host_array

DEFAULT_OPTIONS = HostOptions()
_TEXT_STEP = 256  # widths of texts graded from the host: those of like length compile once
_TOKEN_STEP = 64
_BATCH = 256  # of them at once
_MESSAGES = 3  # of what went wrong on the host, shown at most
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grader:
    """A grader with a place for each of its nodes; from `build_grader`."""

    spec: GraderType
    options: HostOptions
    pass_threshold: float | None = None  # the reward from which a sample passes, if there is one

    @property
    def type_name(self) -> str:
        """The grader's type, as its JSON has it."""
        return self.spec.type_name

    @property
    def needs_host(self) -> bool:
        """Whether a node runs on the host."""
        return bool(nodes_on_host(self.spec))

    def open_host(self) -> HostGrading:
        """A context manager: the nodes that run on the host, with what they need, open."""
        return HostGrading(nodes_on_host(self.spec), self.options)

    def open_judges(self, open_judge: Callable[[str], JudgeModel]) -> "Grader":
        """The grader with its judges on the device open, one for all nodes with the same model.

        Args:
            open_judge: From a model, as the JSON has it after `device:`.

        Raises:
            InputError: A judge cannot be used; naming the node.
        """
        spec = open_judges(self.spec, functools.cache(open_judge))
        grader = replace(self, spec=spec)
        if judges := judge_nodes(spec):
            grader.check_tokenizer(judges[0].open_judge.tokenizer)
        return grader

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Looks whether the open judges can read a model's tokens.

        Raises:
            InputError: Naming the node.
        """
        for node in judge_nodes(self.spec):
            if not same_tokens(node.open_judge.tokenizer, tokenizer):
                raise InputError(
                    f"{node.name}: the judge {node.model} has another tokenizer than the model "
                    "whose answers it reads; train one of them with the other's tokenizer.path"
                )

    @property
    def judge_params(self) -> dict[str, PyTree]:
        """By model, the weights of the open judges."""
        return {node.model: node.open_judge.params for node in judge_nodes(self.spec)}

    def encode_items(self, items: Sequence[JsonMapping], source: str) -> PyTree:
        """Renders on the host what the grader needs of the items, once per data set.

        Args:
            items: M items; messages call item i line i + 1.
            source: The file that they are from, for messages.

        Returns:
            Tree of NumPy arrays with leading axis M. Its widths are those of this data set: another
            data set compiles anew.

        Raises:
            InputError: Naming source, line and the template that an item does not serve.
        """
        return self.spec.encode(Items(items, source))

    def grade(
        self,
        sample: Sample,
        item_fields: PyTree,
        found_on_host: Mapping[str, Score] | None = None,
        judge_params: Mapping[str, PyTree] | None = None,
    ) -> Grade:
        """Grades N completions; pure jnp.

        Args:
            sample: N completions.
            item_fields: From `encode_items`, the rows of the N completions' items.
            found_on_host: From `HostGrading.grade`, if a node runs there.
            judge_params: `self.judge_params`, if a node is a judge on the device; passed here so
                that a jitted function can have them as an argument.

        Returns:
            Grade. Completions without an answer earn 0 and are a `sample_parse_error`; a
            `truncated_observation_error` is any that was cut at the token limit, and changes
            nothing else.
        """
        view = SampleView(sample, found_on_host, judge_params)
        score = self.spec.score(view, item_fields)
        finite_N = jnp.isfinite(score.score)
        invalid_N = jnp.asarray(sample.overflow) | ~finite_N
        for name in NOT_THE_MODELS:
            invalid_N |= score.errors.get(name, view.no)
        no_answer_N = ~jnp.asarray(sample.has_answer)
        graded_N = ~invalid_N & ~no_answer_N
        # A text that was cut is not the model's error.
        errors = {name: score.errors.get(name, view.no) for name in ERRORS}
        errors |= {name: errors[name] & ~invalid_N for name in ERRORS if name not in NOT_THE_MODELS}
        errors["sample_parse_error"] |= no_answer_N & ~invalid_N
        errors["truncated_observation_error"] = jnp.asarray(sample.truncated)
        errors["other_error"] |= sample.overflow | ~finite_N
        errors |= {name: flag_N for name, flag_N in score.errors.items() if name not in errors}
        scores = score.parts or {self.spec.name: score.score}
        return Grade(
            reward=jnp.where(graded_N, score.score, 0),
            valid=~invalid_N,
            scores={name: jnp.where(graded_N, value, 0) for name, value in scores.items()},
            errors=errors,
            details=score.details,
        )


def build_grader(
    spec: GraderType | HostGraderType | JsonMapping | str | Path,
    placement: str = "auto",
    options: HostOptions = DEFAULT_OPTIONS,
    pass_threshold: float | None = None,
) -> Grader:
    """The grader of a specification, or of the JSON of one, its nodes placed.

    Args:
        spec: From `registry.load_grader`, or what that takes.
        placement: See `placement.place`.
        options: What the nodes on the host may use.
        pass_threshold: The reward from which a sample passes.
    """
    if isinstance(spec, str | Path | Mapping):
        pass_threshold = load_pass_threshold(spec) if pass_threshold is None else pass_threshold
        spec = load_grader(spec)
    return Grader(place(spec, placement), options, pass_threshold)


def grade_texts(grader: Grader, texts: Sequence[str], items: Sequence[JsonMapping]) -> Grade:
    """Grades answers given as plain strings, each with its item, by the same functions.

    Args:
        grader: From `build_grader`.
        texts: N answers.
        items: N items.

    Returns:
        Grade of NumPy arrays.

    Raises:
        InputError: The numbers differ, or an item does not serve the grader.
    """
    if len(texts) != len(items):
        raise InputError(f"{len(texts)} texts but {len(items)} items; give an item for each text")
    samples = [HostSample(text) for text in texts]
    return grade_samples(grader, samples, Items(items, "items"), range(len(items)))


def grade_samples(
    grader: Grader,
    samples: Sequence[HostSample],
    items: Items,
    rows: Sequence[int],
    host: HostGrading | None = None,
    found: Mapping[str, Score] | None = None,
) -> Grade:
    """Grades completions that are on the host, by the same functions.

    Args:
        grader: From `build_grader`.
        samples: N completions.
        items: M items.
        rows: Int[N], the item of each completion.
        host: From `open_host`, to grade more than once; by default opened for this call.
        found: From `ask_host`, if it was asked already.

    Returns:
        Grade of NumPy arrays.

    Raises:
        InputError: An item does not serve the grader.
    """
    fields = grader.encode_items(items.rows, items.source)
    return grade_encoded(grader, samples, items, rows, fields, host, found)


def grade_encoded(
    grader: Grader,
    samples: Sequence[HostSample],
    items: Items,
    rows: Sequence[int],
    fields: PyTree,
    host: HostGrading | None = None,
    found: Mapping[str, Score] | None = None,
    least_bytes: int = 0,
) -> Grade:
    """As `grade_samples`, with the items encoded before.

    Args:
        fields: From `Grader.encode_items`, a row an item.
        least_bytes: Compile for texts of so many bytes, though these be shorter.
    """
    longest = max(
        (len(sample.output_text.encode(errors="replace")) for sample in samples), default=0
    )
    longest = max(longest, least_bytes)
    fields = jax.tree.map(lambda leaf: np.asarray(leaf)[np.asarray(rows, np.int32)], fields)
    sample = Sample(
        output_text=from_host(
            [sample.output_text for sample in samples], _TEXT_STEP * (longest // _TEXT_STEP + 1)
        ),
        has_answer=_column([sample.has_answer for sample in samples], bool),
        truncated=_column([sample.truncated for sample in samples], bool),
        overflow=_column([sample.overflow for sample in samples], bool),
        completion_tokens=_column([sample.completion_tokens for sample in samples], np.int32),
        answer=_encode_answers(grader, samples),
    )
    if found is None:
        found = ask_host(grader, samples, items, rows, host)
    parts = [
        jax.device_get(_grade(grader, grader.judge_params, *_rows((sample, fields, found), first)))
        for first in range(0, max(1, len(samples)), _BATCH)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(samples)], *parts)


def ask_host(
    grader: Grader,
    samples: Sequence[HostSample],
    items: Items,
    rows: Sequence[int],
    host: HostGrading | None = None,
) -> dict[str, Score]:
    """What the nodes on the host find, by name; the first messages of what went wrong are logged.

    Args:
        grader: From `build_grader`.
        samples: N completions.
        items: M items.
        rows: Int[N], the item of each completion.
        host: From `open_host`; by default opened for this call.
    """
    if not grader.needs_host:
        return {}
    with contextlib.nullcontext(host) if host else grader.open_host() as session:
        found, messages = session.grade(samples, items, rows)
        told = session.told
    for message in dict.fromkeys(messages):
        if message not in told and len(told) < _MESSAGES:
            told.add(message)
            _LOG.warning("%s", message)
    return found


def _column(values: Sequence[int], dtype: type[np.generic | bool]) -> jax.Array:
    return host_array(np.array(values, dtype))


def _encode_answers(grader: Grader, samples: Sequence[HostSample]) -> Tokens | None:
    """The texts as tokens, if a judge on the device is to read them."""
    judges = judge_nodes(grader.spec)
    if not judges:
        return None
    rows = [judges[0].open_judge.tokenizer.encode(sample.output_text) for sample in samples]
    length_N = np.array([len(row) for row in rows], np.int32)
    ids_NT = np.zeros((len(rows), _TOKEN_STEP * (length_N.max(initial=0) // _TOKEN_STEP + 1)))
    ids_NT[np.arange(ids_NT.shape[1]) < length_N[:, None]] = [id for row in rows for id in row]
    return Tokens(host_array(ids_NT.astype(np.int32)), host_array(length_N))


def _rows(tree: PyTree, first: int) -> PyTree:
    """The next `_BATCH` rows; of more than one batch the last is filled up with its last row."""
    size = len(jax.tree.leaves(tree)[0])
    rows = np.arange(first, min(first + _BATCH, size))
    if first:
        rows = np.pad(rows, (0, _BATCH - len(rows)), "edge")
    return jax.tree.map(lambda leaf: leaf[rows], tree)


@functools.partial(jax.jit, static_argnums=0)
def _grade(
    grader: Grader,
    judge_params: Mapping[str, PyTree],
    sample: Sample,
    item_fields: PyTree,
    found: Mapping[str, Score],
) -> Grade:
    return grader.grade(sample, item_fields, found, judge_params)
