r"""Formulas in one spelling: what is written the same, blanks and sizes of brackets aside.

    same_N = equal(plain_formulas(text), plain_formulas(other))

Blanks, `\left`, `\right`, `\displaystyle`, dollar signs, and points at the end are dropped, and
`\dfrac`, `\tfrac` and `\cfrac` are `\frac`.
"""

import functools
import re

import jax.numpy as jnp

from rft_jax.strings.byte_string import ByteString, compress
from rft_jax.strings.regex import CaptureTables, compile_capture, find_groups

_TOKEN = (
    r"\\(?:left|right|displaystyle)\b|\\[ ,;:!()\[\]]|\\q?quad\b|[\s~$]|[.。]\s*\Z"
    r"|(?P<a>\\)[dtc](?P<b>frac)|(?P<c>\\?[^\\])|(?P<d>\\)"
)


@functools.cache
def _tables() -> CaptureTables:
    return compile_capture(f"(?:{_TOKEN})*", "s", "fullmatch", 0)


def plain_formulas(text: ByteString) -> ByteString:
    """Formulas in one spelling; ByteString of [N, L]."""
    keep = find_groups(_tables(), text).number > 0
    return ByteString(*compress(jnp.asarray(text.bytes), keep))


def plain_formula(text: str) -> str:
    """A formula in one spelling, on the host."""
    found = re.finditer(_TOKEN, text, re.DOTALL)
    return "".join("".join(filter(None, match.groups())) for match in found)
