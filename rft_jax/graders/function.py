"""A grader of one's own: a jnp function of texts, for instance in a notebook.

    from rft_jax.graders import build_grader, device_grader, grade_texts
    from rft_jax.strings import case_fold, contains

    @device_grader(answer="{{ sample.output_text }}", wanted="{{ item.city }}")
    def names_the_city(answer, wanted):
        return contains(case_fold(answer), case_fold(wanted))

    grade_texts(build_grader(names_the_city), ["It is PARIS."], [{"city": "Paris"}]).reward

In an experiment, `grader="my_module:names_the_city"` trains against it.
"""

import contextlib
import contextvars
import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.protocols import DeviceNode, ProbeTarget
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import (
    Template,
    TemplateError,
    parse_template,
    render_on_device,
    render_on_host,
)
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import ByteString, CodePoints, from_host
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import PyTree


@dataclass(frozen=True)
class FunctionGrader(DeviceNode):
    """A function as a grader; from `device_grader`."""

    type_name = "function"
    name: str
    function: Callable[..., jax.Array]
    templates: tuple[tuple[str, Template], ...]

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "FunctionGrader":
        """A function has no JSON."""
        raise NotImplementedError

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        templates = tuple(template for _, template in self.templates)
        answers = tuple(template for template in templates if template.sample_variables)
        references = tuple(
            template
            for template in templates
            if not template.sample_variables and template.item_variables
        )
        return ProbeTarget(answers, references, is_right=False)

    def encode(self, items: Items) -> PyTree:
        """See `GraderType.encode`."""
        return tuple(template.encode(items) for _, template in self.templates)

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        names, templates = zip(*self.templates, strict=True)
        texts, errors, failed_N = render_on_device(view, templates, encoded)
        score_N = self._call(dict(zip(names, texts, strict=True)))
        return Score(jnp.where(failed_N, 0, score_N), errors, {}, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """The same function, of one sample; there is no other that it could be held against."""
        names, templates = zip(*self.templates, strict=True)
        texts, errors = render_on_host(view, templates, items, n)
        if errors:
            return HostScore(0.0, errors)
        rows = [from_host([text], max(1, len(text.encode()))) for text in texts]
        return HostScore(float(self._call(dict(zip(names, rows, strict=True)))[0]))

    def _call(self, texts: dict[str, ByteString]) -> jax.Array:
        rows = next(iter(texts.values())).length.shape
        try:
            returned = self.function(**texts)
        except InputError:
            raise
        except Exception as error:  # whatever a user's function raises
            raise InputError(f"{self.name}: {_what_failed(self.function, error)}") from None
        if problem := _what_is_returned(returned, rows[0]):
            raise InputError(f"{self.name}: returned {problem}")
        score_N = jnp.asarray(returned)
        if score_N.shape != rows:
            raise InputError(
                f"{self.name}: returned an array of shape {score_N.shape}, not one score for each "
                f"of the {rows[0]} samples; reduce the other axes"
            )
        return score_N.astype(np.float32)


@dataclass(frozen=True)
class BrokenGrader(FunctionGrader):
    """What `device_grader` makes while errors are deferred; `problem` says what is wrong."""

    problem: str


_DEFERRED = contextvars.ContextVar("_DEFERRED", default=False)


@contextlib.contextmanager
def deferred_errors() -> Iterator[None]:
    """Inside, `device_grader` raises nothing, so that a module's other graders can be used."""
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)


# What Python's strings are asked for, and what there is for arrays of texts.
_FOR_ATTRIBUTE = {
    "lower": "case_fold(text)",
    "upper": "case_fold(text)",
    "casefold": "case_fold(text)",
    "strip": "trim(text)",
    "find": "occurrences(text, part)",
    "startswith": "occurrences(text, part)[:, 0]",
    "count": "occurrences(text, part).sum(axis=1)",
    "split": "split_words(text)",
    "lengths": "text.length",
    "len": "text.length",
    "size": "text.length",
    "text": "text.bytes",
}


def _what_failed(function: Callable[..., jax.Array], error: Exception) -> str:
    """A sentence: where a user's function failed, why, and what to use instead."""
    code = getattr(function, "__code__", None)
    file = code.co_filename if code else ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    source = (frames[-1].line or "") if frames else ""
    where = f" at line {frames[-1].lineno} of {Path(file).name}" if frames else ""
    message = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"failed{where} ({type(error).__name__}: {message}); {_remedy(error, source)}"


def _remedy(error: Exception, source: str) -> str:
    if isinstance(error, AttributeError) and isinstance(error.obj, ByteString | CodePoints):
        instead = _FOR_ATTRIBUTE.get(error.name or "")
        if instead and not instead.startswith("text."):
            return f"texts are arrays: use {instead} of rft_jax.strings"
        return f"texts are arrays: use {instead or 'text.bytes and text.length'}"
    for operator, instead in ((" in ", "contains(text, part)"), ("==", "equal(a, b)")):
        if operator in source:
            return f"texts are arrays: use {instead} of rft_jax.strings"
    if "!=" in source:
        return "texts are arrays: use ~equal(a, b) of rft_jax.strings"
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerBoolConversionError):
        return "every sample has its own value: use jnp.where instead of if, and jnp for float, int"
    return "correct it"


def _what_is_returned(value: object, count: int) -> str:
    """What is wrong with what a function returned, and the remedy; empty if nothing is."""
    each = f"one score for each of the {count} samples is wanted"
    if isinstance(value, ByteString | CodePoints):
        return f"texts; {each}: compare them with equal or contains of rft_jax.strings"
    if isinstance(value, bool | int | float):
        return (
            f"the Python {type(value).__name__} {value}; {each}: use equal, contains or another "
            "function of rft_jax.strings for a comparison of each"
        )
    if value is None or isinstance(value, str | bytes | list | tuple | dict):
        shown = "nothing" if value is None else f"a {type(value).__name__}"
        return f"{shown}; {each}, as an array"
    return ""


def device_grader(**templates: str) -> Callable[[Callable[..., jax.Array]], FunctionGrader]:
    """Makes a jnp function a grader.

    Args:
        templates: For every argument of the function, by its name, the template of its text. The
            function gets ByteStrings of [N, width] and returns a score or a truth for each row.

    Raises:
        InputError: A template cannot be read.
    """

    def make(function: Callable[..., jax.Array]) -> FunctionGrader:
        try:
            return checked(function)
        except InputError as error:
            if not _DEFERRED.get():
                raise
            return BrokenGrader(function.__name__, function, (), str(error))

    def checked(function: Callable[..., jax.Array]) -> FunctionGrader:
        wanted = list(inspect.signature(function).parameters)
        if sorted(wanted) != sorted(templates) or not templates:
            raise InputError(
                f"{function.__name__}: takes {', '.join(wanted) or 'nothing'}, but there are "
                f"templates for {', '.join(templates) or 'nothing'}; give one for each argument"
            )
        parsed = []
        for argument, text in templates.items():
            try:
                parsed.append((argument, parse_template(text, f"{function.__name__}.{argument}")))
            except TemplateError as error:
                raise InputError(f"{function.__name__}.{argument}: {error}") from None
        return FunctionGrader(function.__name__, function, tuple(parsed))

    return make
