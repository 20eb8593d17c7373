"""Formulas of `multi` graders: a small recursive-descent parser, and evaluation in jnp.

    formula = parse_formula("2 * p * r / max(p + r, 1e-9)", names=("p", "r"))
    value_N, finite_N = evaluate(formula, {"p": p_N, "r": r_N})

Grammar, from weakest to strongest; `^` is from right to left and above the sign, as in Python
(-2^2 is -4):

    sum = product (("+" | "-") product)*
    product = signed (("*" | "/") signed)*
    signed = "-" signed | power
    power = atom ("^" signed)?
    atom = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"

`log` is the natural logarithm; `min` and `max` take two arguments or more, the others one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "abs": jnp.abs,
    "ceil": jnp.ceil,
    "exp": jnp.exp,
    "floor": jnp.floor,
    "log": jnp.log,
    "max": lambda *values: functools.reduce(jnp.maximum, values),
    "min": lambda *values: functools.reduce(jnp.minimum, values),
    "sqrt": jnp.sqrt,
}
_OF_MANY = ("max", "min")
_OPERATORS: dict[str, Callable[..., jax.Array]] = {
    "+": jnp.add,
    "-": jnp.subtract,
    "*": jnp.multiply,
    "/": jnp.divide,
    "^": jnp.power,
}
_TOKEN = re.compile(r"\s*(?:((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|([-+*/^(),]))")
_DEEPEST = 100  # nested parentheses, functions, signs and powers


class FormulaError(ValueError):
    """A formula cannot be read; the message says where, why and what to do."""


@dataclass(frozen=True)
class FormulaNumber:
    """A literal."""

    value: float


@dataclass(frozen=True)
class Name:
    """A score."""

    name: str


@dataclass(frozen=True)
class Call:
    """An operator or a function of `FUNCTIONS`; "negate" is the sign."""

    function: str
    arguments: tuple[Formula, ...]


Formula = FormulaNumber | Name | Call


def parse_formula(text: str, names: Sequence[str]) -> Formula:
    """Reads a formula.

    Args:
        text: as the module says.
        names: what may be named.

    Raises:
        FormulaError: naming the character and the remedy.
    """
    parser = _Parser(text, names)
    formula = parser.sum(0)
    if parser.token:
        raise parser.error(f"unexpected {parser.token!r}; write an operator before it or remove it")
    return formula


class _Parser:
    """The rest of a formula: `token` is what comes next, empty at the end."""

    def __init__(self, text: str, names: Sequence[str]):
        self.text, self.names = text, names
        self.end, self.token, self.kind = 0, "", 0
        self.advance()

    def error(self, sentence: str) -> FormulaError:
        place = self.end - len(self.token) + 1
        return FormulaError(f"character {place}: {sentence}")

    def advance(self) -> str:
        """Moves on to the next token and returns the one that was next."""
        token = self.token
        match = _TOKEN.match(self.text, self.end)
        if match:
            self.kind = match.lastindex
            self.token, self.end = match[self.kind], match.end()
        elif rest := self.text[self.end :].strip():
            self.token, self.end = rest[0], self.text.index(rest[0], self.end) + 1
            known = "+ - * / ^ ( ) and commas"
            raise self.error(f"{rest[0]!r} has no meaning here; use numbers, names, {known}")
        else:
            self.token, self.end, self.kind = "", len(self.text), 0
        return token

    def expect(self, token: str) -> None:
        if self.token != token:
            raise self.error(f"{token!r} is missing; add it")
        self.advance()

    def sum(self, depth: int) -> Formula:
        left = self.product(depth)
        while self.token in ("+", "-"):
            left = Call(self.advance(), (left, self.product(depth)))
        return left

    def product(self, depth: int) -> Formula:
        left = self.signed(depth)
        while self.token in ("*", "/"):
            left = Call(self.advance(), (left, self.signed(depth)))
        return left

    def signed(self, depth: int) -> Formula:
        if depth > _DEEPEST:
            raise self.error(f"nested more than {_DEEPEST} deep; write it flatter")
        if self.token == "-":
            self.advance()
            return Call("negate", (self.signed(depth + 1),))
        base = self.atom(depth)
        if self.token != "^":
            return base
        return Call(self.advance(), (base, self.signed(depth + 1)))

    def atom(self, depth: int) -> Formula:
        if self.token == "(":
            self.advance()
            inner = self.sum(depth + 1)
            self.expect(")")
            return inner
        if self.kind == 1:
            value = float(self.token)
            if value > float(np.finfo(np.float32).max):
                raise self.error(f"{self.token} is too large for float32; use a smaller number")
            self.advance()
            return FormulaNumber(value)
        if self.kind == 2:
            return self.named(depth)
        raise self.error("a number, a name or '(' is missing; add it")

    def named(self, depth: int) -> Formula:
        place = self.end - len(self.token) + 1
        name = self.advance()
        if self.token == "(" and name in FUNCTIONS:
            return self.call(name, depth)
        if self.token == "(":
            remedy = f"the functions are {', '.join(sorted(FUNCTIONS))}"
        elif name in self.names:
            return Name(name)
        elif name in FUNCTIONS:
            remedy = f"the function {name} needs its arguments in parentheses"
        else:
            remedy = f"the graders are {', '.join(self.names)}"
        raise FormulaError(f"unknown name {name!r} at character {place}; {remedy}")

    def call(self, name: str, depth: int) -> Formula:
        self.expect("(")
        arguments = [self.sum(depth + 1)]
        while self.token == ",":
            self.advance()
            arguments.append(self.sum(depth + 1))
        if name in _OF_MANY and len(arguments) < 2:
            raise self.error(f"{name} takes two arguments or more, not 1; add one")
        if name not in _OF_MANY and len(arguments) > 1:
            raise self.error(f"{name} takes one argument, not {len(arguments)}; remove the others")
        self.expect(")")
        return Call(name, tuple(arguments))


def evaluate(formula: Formula, values: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Computes a formula in float32.

    Args:
        formula: from `parse_formula`.
        values: float32[N] for every name.

    Returns:
        value: float32[N] or float32[].
        finite: bool of the same shape, false where any step was not finite: a division by zero
            is an error even where min would hide it.
    """
    if isinstance(formula, FormulaNumber):
        return jnp.float32(formula.value), jnp.bool_(True)
    if isinstance(formula, Name):
        return values[formula.name], jnp.isfinite(values[formula.name])
    evaluated = [evaluate(argument, values) for argument in formula.arguments]
    arguments = [value for value, _ in evaluated]
    function = {"negate": jnp.negative, **FUNCTIONS, **_OPERATORS}[formula.function]
    value = function(*arguments)
    finite = functools.reduce(jnp.logical_and, [finite for _, finite in evaluated])
    return value, finite & jnp.isfinite(value)
