"""A grader of one's own: a jnp function of texts, for instance in a notebook.

    from rft_jax.graders import build_grader, device_grader, grade_texts
    from rft_jax.strings import case_fold, contains

    @device_grader(answer="{{ sample.output_text }}", wanted="{{ item.city }}")
    def names_the_city(answer, wanted):
        return contains(case_fold(answer), case_fold(wanted))

    grade_texts(build_grader(names_the_city), ["It is PARIS."], [{"city": "Paris"}]).reward

In an experiment, `grader="my_module:names_the_city"` trains against it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import (
    Template,
    TemplateError,
    parse_template,
    render_on_device,
    render_on_host,
)
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import ByteString, from_host
from rft_jax.utils.errors import InputError


@dataclass(frozen=True)
class FunctionGrader:
    """A function as a grader; from `device_grader`."""

    name: str
    function: Callable[..., jax.Array]
    templates: tuple[tuple[str, Template], ...]

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "FunctionGrader":
        """A function has no JSON."""
        raise NotImplementedError

    def encode(self, items: Items) -> Any:
        """See `GraderType.encode`."""
        return tuple(template.encode(items) for _, template in self.templates)

    def score(self, view: SampleView, encoded: Any) -> Score:
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
        score_N = jnp.asarray(self.function(**texts))
        rows = next(iter(texts.values())).length.shape
        if score_N.shape != rows:
            raise InputError(
                f"{self.name}: returned an array of shape {score_N.shape}, not one score for each "
                f"of the {rows[0]} samples; reduce the other axes"
            )
        return score_N.astype(np.float32)


def device_grader(**templates: str) -> Callable[[Callable[..., jax.Array]], FunctionGrader]:
    """Makes a jnp function a grader.

    Args:
        templates: for every argument of the function, by its name, the template of its text. The
            function gets ByteStrings of [N, width] and returns a score or a truth for each row.

    Raises:
        InputError: a template cannot be read.
    """

    def make(function: Callable[..., jax.Array]) -> FunctionGrader:
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
