"""`multi`: several graders and a formula of their scores.

    {"type": "multi", "graders": {"gene": {...}, "style": {...}},
     "calculate_output": "0.9 * gene + 0.1 * style", "on_error": "zero"}

A number of the item can stand in the formula: `"{{item.weight}} * gene"`.

Where a part failed on the answer (it is no JSON, a field is missing, its Python raised), the score
is 0, whatever the formula: `1 - wrong` pays nothing for what cannot be looked at. With `on_error`
"continue" the part counts as 0 in the formula instead. Either way the error is set. A part that
failed for reasons outside of the answer (a judge, a sandbox, a time-out) makes the sample invalid.
Where the formula has no finite value, the score is 0 and `formula_parse_error` is set.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.formula import Formula, FormulaError, evaluate, parse_formula
from rft_jax.graders.protocols import CompositeNode, GraderType
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template
from rft_jax.graders.types import NOT_THE_MODELS, Items, SampleView, Score
from rft_jax.utils.errors import InputError

ON_ERROR = ("zero", "continue")


@dataclass(frozen=True)
class Multi(CompositeNode):
    """A validated `multi`.

    Attributes:
        name: The grader's name.
        graders: The parts.
        formula: The formula of their scores and of numbers of the item.
        keys: The names of the parts in the formula.
        numbers: By their names in the formula, the templates of the item's numbers.
        on_error: One of `ON_ERROR`.
    """

    type_name = "multi"
    name: str
    graders: tuple[GraderType, ...]
    formula: Formula
    keys: tuple[str, ...]
    numbers: tuple[tuple[str, Template], ...]
    on_error: str

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Multi":
        """See `GraderType.parse`."""
        fields.only("graders", "calculate_output", "on_error")
        parts = _parts(fields)
        # Inside of another grader, such as a switch, a key alone may not be the only one.
        prefix = f"{name}/" if fields.path else ""
        graders = tuple(_parse_part(fields, prefix, key, part) for key, part in parts.items())
        text, numbers = _named_numbers(fields, tuple(parts))
        try:
            formula = parse_formula(text, (*parts, *(name for name, _ in numbers)))
        except FormulaError as error:
            raise fields.error("calculate_output", str(error)) from None
        given = "on_error" in fields.values
        on_error = fields.choice("on_error", ON_ERROR) if given else ON_ERROR[0]
        return cls(name, graders, formula, tuple(parts), numbers, on_error)

    @property
    def why(self) -> str:
        """See `Node.why`."""
        return "formulas of scores always do"

    @property
    def children(self) -> Mapping[str, GraderType]:
        """See `Node.children`."""
        return dict(zip(self.keys, self.graders, strict=True))

    def with_children(self, children: Mapping[str, GraderType]) -> "Multi":
        """See `GraderType.with_children`."""
        return replace(self, graders=tuple(children[key] for key in self.keys))

    def encode(self, items: Items) -> Any:
        """See `GraderType.encode`."""
        numbers = [
            np.array([_number(template, items, n) for n in range(len(items.rows))], np.float32)
            for _, template in self.numbers
        ]
        return tuple(grader.encode(items) for grader in self.graders), tuple(numbers)

    def score(self, view: SampleView, encoded: Any) -> Score:
        """See `GraderType.score`."""
        parts: dict[str, jax.Array] = {}
        errors: dict[str, jax.Array] = {}
        details: dict[str, jax.Array] = {}
        encoded_parts, numbers = encoded
        names = [name for name, _ in self.numbers]
        values: dict[str, jax.Array] = dict(zip(names, numbers, strict=True))
        failed_N = view.no
        for key, grader, fields in zip(self.keys, self.graders, encoded_parts, strict=True):
            score = grader.score(view, fields)
            parts[grader.name] = values[key] = score.score
            details |= score.details
            for error, flag_N in score.errors.items():
                errors[f"{grader.name}/{error}"] = flag_N
                errors[error] = errors.get(error, view.no) | flag_N
                if self.on_error == "zero" and error not in NOT_THE_MODELS:
                    failed_N |= flag_N
        value, finite = evaluate(self.formula, values)
        finite_N = jnp.broadcast_to(finite, view.no.shape)
        errors["formula_parse_error"] = errors.get("formula_parse_error", view.no) | ~finite_N
        return Score(jnp.where(finite_N & ~failed_N, value, 0), errors, details, parts)


def _named_numbers(
    fields: Fields, keys: Sequence[str]
) -> tuple[str, tuple[tuple[str, Template], ...]]:
    """The formula with a name in place of each `{{item.x}}`, and what the names stand for.

    The text keeps its length, so that complaints name the right character.
    """
    numbers: dict[str, tuple[str, Template]] = {}
    used: list[str] = []

    def name(match: re.Match[str]) -> str:
        if match[0] not in numbers:
            template = fields.as_template("calculate_output", match[0])
            if template.sample_variables:
                raise fields.error(
                    "calculate_output", f"{match[0]} is no number of the item; grade it by a part"
                )
            own = next(n for k in itertools.count() if (n := f"i{k}_") not in (*keys, *used))
            used.append(own)
            numbers[match[0]] = own, template
        return numbers[match[0]][0].ljust(len(match[0]))

    text = re.sub(r"\{\{.*?\}\}", name, fields.string("calculate_output"))
    return text, tuple(numbers.values())


def _number(template: Template, items: Items, n: int) -> float:
    """The number of row n, also one in quotes.

    Raises:
        InputError: It is none, or not finite; naming the line.
    """
    value = template.value(items, n)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise InputError(
            f"{items.source}, line {n + 1}: {template.where} needs a number, not {value!r}; "
            "correct the item"
        )
    return number


def _parts(fields: Fields) -> dict[str, Any]:
    """The graders by name; of the shapes in circulation the object and the array of named ones."""
    if "graders" not in fields.values:
        raise fields.error("graders", "is missing; add an object of name -> grader")
    graders = fields.values["graders"]
    if isinstance(graders, list):
        named = {}
        for n, grader in enumerate(graders):
            name = grader.get("name") if isinstance(grader, Mapping) else None
            if not isinstance(name, str) or name in named:
                raise fields.error(
                    f"graders[{n}]", "needs a name of its own, which the formula can use; add it"
                )
            named[name] = grader
        graders = named
    if not isinstance(graders, Mapping) or not graders:
        raise fields.error("graders", "must be an object of name -> grader with at least one")
    if isinstance(graders.get("type"), str):
        raise fields.error(
            "graders", 'is one bare grader; give it a name: {"<name>": {"type": ...}}'
        )
    return dict(graders)


def _parse_part(fields: Fields, prefix: str, key: str, part: Any) -> GraderType:
    path = f"graders.{key}"
    if not isinstance(part, Mapping):
        raise fields.error(path, "must be an object with a grader; correct it")
    if part.get("type") == "multi":
        raise fields.error(
            f"{path}.type", "a multi cannot stand inside of another; use one formula for all"
        )
    return fields.parse_grader(fields.inside(path, part), prefix + key)
