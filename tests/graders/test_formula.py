"""Formulas have the value that Python gives them, or are refused with a sentence."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders.formula import FormulaError, evaluate, parse_formula

VALUES = {"a": [0.0, 0.25, 1.0], "b_2": [1.0, 0.0, 0.5], "max": [0.5, 0.75, 0.0]}


def compute(text):
    """Values and finiteness, [3]."""
    formula = parse_formula(text, tuple(VALUES))
    value, finite = evaluate(formula, {k: jnp.array(v, jnp.float32) for k, v in VALUES.items()})
    return np.broadcast_to(value, 3), np.broadcast_to(finite, 3)


def python_value(text, row):
    """The formula by Python's own parser, None where it has no finite real value."""
    names = {name: values[row] for name, values in VALUES.items() if name != "max"}
    functions = {name: getattr(math, name) for name in ("floor", "ceil", "exp", "sqrt", "log")}
    functions |= {"max": max, "min": min, "abs": abs}
    try:
        value = eval(f"({text})".replace("^", "**"), {"__builtins__": {}}, functions | names)
    except (ArithmeticError, ValueError):
        return None
    return None if isinstance(value, complex) or not math.isfinite(value) else float(value)


@pytest.mark.parametrize(
    "text",
    [
        "1 + 2 * 3 - 4 / 8",
        "2 ^ 3 ^ 2",
        "-2 ^ 2",
        "2 ^ -1",
        "--3",
        "1 - -1",
        "8 / 4 / 2",
        "8 - 4 - 2",
        "(1 + 2) * 3",
        "2 * a * b_2 / max(a + b_2, 1e-9)",
        "min(a, b_2, 0.3)",
        "max(1,2,3,4)",
        "abs(-a) + floor(1.5) + ceil(1.5)",
        "exp(1) + sqrt(2) + log(10)",
        ".5 + 1. + 1e2 + 1.5E-1 + 2e+1",
        "a",
        "  a\n+\tb_2 ",
        "a / b_2",
        "log(a)",
        "sqrt(a - 0.5)",
        "min(1 / a, 1)",
        "(a - 0.5) ^ 0.5",
        "0 ^ 0",
        "0 ^ -1",
        "1e30 * 1e30",
    ],
)
def test_values_are_those_of_python(text):
    value, finite = compute(text)
    for row in range(3):
        expected = python_value(text, row)
        if text == "1e30 * 1e30":
            expected = None  # beyond float32
        assert finite[row] == (expected is not None)
        if expected is not None:
            np.testing.assert_allclose(value[row], expected, rtol=1e-5, atol=1e-6)


def test_a_name_may_be_that_of_a_function():
    np.testing.assert_allclose(compute("max(max, 0.6)")[0], [0.6, 0.75, 0.6], rtol=1e-6)


# Only what float32 computes to the last bit, so that an error cannot grow.
FORMULAS = st.recursive(
    st.sampled_from(["a", "b_2", "0.5", "2", "1e-3", "3."]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(" ".join),
        inner.map(lambda x: f"({x})"),
        inner.map(lambda x: f"-{x}"),
        inner.map(lambda x: f"({x}) ^ 1 ^ 0"),
        st.tuples(st.sampled_from(["abs", "sqrt", "floor", "ceil"]), inner).map(
            "{0[0]}({0[1]})".format
        ),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(
            "{0[0]}({0[1]}, {0[2]})".format
        ),
    ),
    max_leaves=10,
)


def numpy_value(text, row):
    """The formula in float32 by Python's parser and NumPy, None where a step is not finite."""
    names = {name: np.float32(values[row]) for name, values in VALUES.items() if name != "max"}
    functions = {name: getattr(np, name) for name in ("floor", "ceil", "sqrt", "abs")}
    functions |= {"max": np.maximum, "min": np.minimum, "F": np.float32}
    text = re.sub(r"(?<![\w.])(\d[\d.]*(e-\d+)?)", r"F(\1)", text).replace("^", "**")
    with np.errstate(all="raise", under="ignore"):
        try:
            return eval(text, {"__builtins__": {}}, functions | names)
        except FloatingPointError:
            return None


@settings(max_examples=150)
@given(FORMULAS)
def test_any_formula_is_read_as_python_reads_it(text):
    with jax.disable_jit():
        value, finite = compute(text)
    for row in range(3):
        expected = numpy_value(text, row)
        assert finite[row] == (expected is not None)
        if expected is not None:
            assert value[row] == expected


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "character 1: a number, a name or '(' is missing"),
        ("a +", "character 4: a number, a name or '(' is missing"),
        ("a b_2", "character 3: unexpected 'b_2'"),
        ("(a", "character 3: ')' is missing"),
        ("a)", "character 2: unexpected ')'"),
        ("+a", "character 1: a number, a name"),
        ("a % 2", "character 3: '%' has no meaning"),
        ("a ** 2", "character 4: a number, a name"),
        ("a.b", "character 2: '.' has no meaning"),
        ("c + 1", "unknown name 'c' at character 1; the graders are a, b_2, max"),
        ("1 + sin(a)", "unknown name 'sin' at character 5; the functions are abs, ceil"),
        ("exp", "unknown name 'exp' at character 1; the function exp needs its arguments"),
        ("max(a)", "max takes two arguments or more, not 1"),
        ("max()", "a number, a name"),
        ("exp(a, 1)", "exp takes one argument, not 2"),
        ("1e40", "1e40 is too large for float32"),
        ("(" * 200 + "a" + ")" * 200, "nested more than 100 deep"),
        ("-" * 5000 + "a", "nested more than 100 deep"),
        ("2^" * 5000 + "a", "nested more than 100 deep"),
        ("a; b_2", "';' has no meaning"),
        ("1e", "character 2: unexpected 'e'"),
    ],
)
def test_bad_formulas_are_refused_with_the_place_and_the_remedy(text, sentence):
    with pytest.raises(FormulaError) as error:
        parse_formula(text, tuple(VALUES))
    assert sentence in str(error.value)
