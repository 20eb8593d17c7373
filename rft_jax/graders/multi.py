"""`multi`: several graders and a formula of their scores.

    {"type": "multi", "graders": {"gene": {...}, "style": {...}},
     "calculate_output": "0.9 * gene + 0.1 * style"}

A grader that failed counts as 0 in the formula. Where the formula has no finite value, the score is
0 and `formula_parse_error` is set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rft_jax.graders.formula import Formula, FormulaError, evaluate, parse_formula
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import GraderType, Items, SampleView, Score


@dataclass(frozen=True)
class Multi:
    """A validated `multi`; the graders' names are the keys that they have in it."""

    name: str
    graders: tuple[GraderType, ...]
    formula: Formula

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Multi":
        """See `GraderType.parse`."""
        fields.only("graders", "calculate_output")
        graders = tuple(_parse_part(fields, key, part) for key, part in _parts(fields).items())
        text = fields.string("calculate_output")
        try:
            formula = parse_formula(text, tuple(grader.name for grader in graders))
        except FormulaError as error:
            raise fields.error("calculate_output", str(error)) from None
        return cls(name, graders, formula)

    def encode(self, items: Items) -> Any:
        """See `GraderType.encode`."""
        return tuple(grader.encode(items) for grader in self.graders)

    def score(self, view: SampleView, encoded: Any) -> Score:
        """See `GraderType.score`."""
        parts: dict[str, jax.Array] = {}
        errors: dict[str, jax.Array] = {}
        details: dict[str, jax.Array] = {}
        for grader, fields in zip(self.graders, encoded, strict=True):
            score = grader.score(view, fields)
            parts[grader.name] = score.score
            details |= score.details
            for error, flag_N in score.errors.items():
                errors[error] = errors.get(error, view.no) | flag_N
        value, finite = evaluate(self.formula, parts)
        finite_N = jnp.broadcast_to(finite, view.no.shape)
        errors["formula_parse_error"] = ~finite_N
        return Score(jnp.where(finite_N, value, 0), errors, details, parts)


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


def _parse_part(fields: Fields, key: str, part: Any) -> GraderType:
    path = f"graders.{key}"
    if not isinstance(part, Mapping):
        raise fields.error(path, "must be an object with a grader; correct it")
    if part.get("type") == "multi":
        raise fields.error(
            f"{path}.type", "a multi cannot stand inside of another; use one formula for all"
        )
    return fields.parse_grader(fields.inside(path, part), key)
