"""`rank`: partial credit for the position of the reference in a ranked list.

    {"type": "rank", "name": "gene", "input": "{{sample.output_json.genes}}",
     "reference": "{{item.gene}}", "aliases": "{{item.aliases}}",
     "credit": [1, 0.7, 0.5], "max_items": 20}

The input is a field of the answer's JSON: an array of 1 to `max_items` strings, else the answer
is malformed and earns 0. Its entries, the reference and its aliases are normalized
(`strings.normalize`: case, white space, brackets); an entry that repeats an earlier one does not
count. The score is `credit[r - 1]` for the r-th entry that is left, if it is the first to equal
the reference or an alias; 0 if none does or the table ends before.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, encode_text, json_errors
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import (
    JsonToken,
    StringList,
    equal_pairs,
    find,
    first_occurrences,
    list_from_host,
    normalize,
    normalize_text,
    strings_of,
)
from rft_jax.utils.errors import InputError

CREDIT = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.2, 0.15, 0.15, 0.1) + (0.05,) * 10
MAX_ITEMS = 20
MOST_ITEMS = 256  # every entry is compared with every other


@dataclass(frozen=True)
class Rank:
    """A validated `rank`."""

    lists_answers: ClassVar[bool] = True
    name: str
    input: Template
    reference: Template
    aliases: Template | None
    credit: tuple[float, ...]
    max_items: int

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Rank":
        """See `GraderType.parse`."""
        fields.only("input", "reference", "aliases", "credit", "max_items")
        aliases = "aliases" in fields.values
        return cls(
            name=name,
            input=fields.variable("input", "output_json", "{{sample.output_json.genes}}"),
            reference=fields.variable("reference", "item", "{{item.gene}}"),
            aliases=fields.variable("aliases", "item", "{{item.aliases}}") if aliases else None,
            credit=fields.numbers("credit", CREDIT),
            max_items=fields.integer("max_items", MAX_ITEMS, 1, MOST_ITEMS),
        )

    def encode(self, items: Items) -> StringList:
        """The reference and its aliases of every item; see `GraderType.encode`."""
        return list_from_host([self._names(items, n) for n in range(len(items.rows))])

    def _names(self, items: Items, n: int) -> list[bytes]:
        reference = self.reference.value(items, n)
        if not isinstance(reference, str) or not reference.strip():
            raise InputError(
                f"{items.source}, line {n + 1}: {self.reference.where} needs a string with "
                f"something in it, not {reference!r}; correct the item"
            )
        names = [encode_text(reference, items, n, self.reference.where)]
        if self.aliases is None:
            return names
        aliases = self.aliases.value(items, n)
        if not is_list_of_strings(aliases):
            raise InputError(
                f"{items.source}, line {n + 1}: {self.aliases.where} needs a list of strings, "
                f"not {aliases!r}; correct the item"
            )
        return names + [encode_text(name, items, n, self.aliases.where) for name in aliases]

    def score(self, view: SampleView, encoded: StringList) -> Score:
        """See `GraderType.score`."""
        scan = view.scan
        value = find(scan, view.unescaped, self.input.variable.path)
        strings, uniform_N = strings_of(scan, view.unescaped, value, self.max_items)
        count_N = strings.count_N
        well_formed_N = uniform_N & (count_N >= 1) & (count_N <= self.max_items)
        rank_N = jnp.where(well_formed_N, first_position(strings, encoded), 0)
        table = jnp.array([0, *self.credit, 0], jnp.float32)
        errors = {
            "sample_parse_error": ~scan.valid_N & ~scan.too_deep_N,
            "invalid_variable_error": scan.valid_N & (value.token_N == JsonToken.NONE),
            "other_error": scan.too_deep_N,
        }
        details = {
            f"{self.name}/rank": rank_N,
            f"{self.name}/list_length": jnp.where(well_formed_N, count_N, 0),
            f"{self.name}/malformed": ~well_formed_N,
        }
        details = {name: detail.astype(jnp.float32) for name, detail in details.items()}
        return Score(table[jnp.minimum(rank_N, len(self.credit) + 1)], errors, details, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        value = view.document.find(self.input.variable.path)
        names = value.data if value else None
        rank, length = 0, 0
        if is_list_of_strings(names) and 1 <= len(names) <= self.max_items:
            wanted = {normalize_text(name.decode()) for name in self._names(items, n)}
            unique = dict.fromkeys(map(normalize_text, names))
            rank = next((r for r, name in enumerate(unique, start=1) if name in wanted), 0)
            length = len(names)
        details = {"rank": rank, "list_length": length, "malformed": not length}
        return HostScore(
            self.credit[rank - 1] if 1 <= rank <= len(self.credit) else 0.0,
            json_errors(view, value),
            {f"{self.name}/{what}": float(detail) for what, detail in details.items()},
        )


def first_position(strings: StringList, names: StringList) -> jax.Array:
    """int32[N]: the position, from 1, of the first entry that equals a name among the entries that
    differ from all before them, all of them normalized; 0 if there is none."""
    entries = normalize(strings)
    new_NK = first_occurrences(entries)
    position_NK = jnp.cumsum(new_NK, axis=-1, dtype=jnp.int32)
    found_NK = new_NK & equal_pairs(entries, normalize(names)).any(axis=-1)
    none = position_NK.shape[-1] + 1
    first_N = jnp.where(found_NK, position_NK, none).min(axis=-1)
    return jnp.where(first_N < none, first_N, 0)


def is_list_of_strings(value: Any) -> bool:
    """Whether a JSON value is an array of strings and nothing else."""
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
