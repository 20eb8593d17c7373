"""`switch`: for every kind of item a grader of its own.

    {"type": "switch", "on": "{{item.kind}}",
     "graders": {"sum": {"type": "number", ...}, "entailment": {"type": "choice", ...}}}

`on` is a template of the item; its text is the key of the grader that grades the item's answers.
The others have no say: neither their scores nor their errors count, and those on the host are not
asked. A grader needs the fields of its own items only. Its score is reported under
`<name of the switch>/<key>`, 0 for items of other kinds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.protocols import CompositeNode, GraderType
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template
from rft_jax.graders.types import Items, SampleView, Score
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import PyTree


@dataclass(frozen=True)
class Switch(CompositeNode):
    """A validated `switch`; `keys` are those of the graders."""

    type_name = "switch"
    chooses = True
    name: str
    on: Template
    graders: tuple[GraderType, ...]
    keys: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Switch":
        """See `GraderType.parse`."""
        fields.only("on", "graders")
        on = fields.template("on")
        if on.sample_variables:
            raise fields.error("on", "must not use the sample; take it from the item")
        parts = fields.values.get("graders")
        if not isinstance(parts, Mapping) or not parts or isinstance(parts.get("type"), str):
            raise fields.error("graders", "must be an object of kind -> grader with at least one")
        graders = []
        for key, part in parts.items():
            if not isinstance(part, Mapping):
                raise fields.error(f"graders.{key}", "must be an object with a grader; correct it")
            inside = fields.inside(f"graders.{key}", part)
            graders.append(fields.parse_grader(inside, f"{name}/{key}"))
        return cls(name, on, tuple(graders), tuple(parts))

    @property
    def why(self) -> str:
        """See `Node.why`."""
        return "choices between kinds always do"

    @property
    def children(self) -> Mapping[str, GraderType]:
        """See `Node.children`."""
        return dict(zip(self.keys, self.graders, strict=True))

    def with_children(self, children: Mapping[str, GraderType]) -> "Switch":
        """See `GraderType.with_children`."""
        return replace(self, graders=tuple(children[key] for key in self.keys))

    def has_say(self, key: str, items: Items, n: int) -> bool:
        """See `GraderType.has_say`."""
        return self._key_of(items, n) == key

    def _key_of(self, items: Items, n: int) -> str:
        """The key of the grader of row n.

        Raises:
            InputError: There is none; naming the line.
        """
        key = self.on.item_text(items, n)
        if key not in self.keys:
            raise InputError(
                f"{items.source}, line {n + 1}: {self.on.where} needs one of the kinds "
                f"{', '.join(self.keys)}, not {key!r}; correct the item or add a grader"
            )
        return key

    def encode(self, items: Items) -> tuple[np.ndarray, tuple[PyTree, ...]]:
        """The number of each item's grader, and what the graders need; None for one without
        items."""
        keys = [self._key_of(items, n) for n in range(len(items.rows))]
        numbers = np.array([self.keys.index(key) for key in keys], np.int32)
        return numbers, tuple(
            _encode_own(grader, items, numbers == number)
            for number, grader in enumerate(self.graders)
        )

    def score(self, view: SampleView, encoded: tuple[jax.Array, tuple[PyTree, ...]]) -> Score:
        """See `GraderType.score`."""
        number_N, fields = encoded
        total_N = jnp.zeros(view.no.shape, jnp.float32)
        parts: dict[str, jax.Array] = {}
        errors: dict[str, jax.Array] = {}
        details: dict[str, jax.Array] = {}
        for number, grader in enumerate(self.graders):
            own_N = number_N == number
            parts[grader.name] = jnp.zeros_like(total_N)
            if fields[number] is None:
                continue
            score = grader.score(view, fields[number])
            parts[grader.name] = jnp.where(own_N, score.score, 0)
            total_N = jnp.where(own_N, score.score, total_N)
            details |= {name: jnp.where(own_N, x, 0) for name, x in score.details.items()}
            for error, flag_N in score.errors.items():
                errors[error] = errors.get(error, view.no) | (flag_N & own_N)
        return Score(total_N, errors, details, parts)


def _encode_own(grader: GraderType, items: Items, own: np.ndarray) -> PyTree:
    """What a grader needs of its own items, in their rows; in those of others one of its own."""
    lines = np.flatnonzero(own)
    if not len(lines):
        return None
    rows = [items.rows[int(n)] for n in lines]
    try:
        encoded = grader.encode(Items(rows, items.source))
    except InputError:
        _name_line(grader, items, lines)
        raise
    row = np.maximum(np.cumsum(own) - 1, 0)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[row], encoded)


def _name_line(grader: GraderType, items: Items, lines: np.ndarray) -> None:
    """Raises what is wrong with a row under the number of its line in the file."""
    for n in lines.tolist():
        try:
            grader.encode(Items([items.rows[n]], items.source))
        except InputError as error:
            here, there = (f"{items.source}, line {number}:" for number in (1, n + 1))
            raise InputError(str(error).replace(here, there, 1)) from None
