r"""`math` reads final answers as people and models write them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.config import HostOptions
from rft_jax.graders import build_grader, grade_texts, load_grader
from rft_jax.graders.host.pool import Outcome
from rft_jax.graders.types import HostSample, HostView, Items
from rft_jax.utils.errors import InputError

L = 128


def spec(**fields):
    return {
        "type": "math",
        "name": "m",
        "input": "{{sample.output_text}}",
        "reference": "{{item.r}}",
        **fields,
    }


# What is written in the box (or all of the text, if it has one), the reference, and the score.
CASES = [
    # Integers, decimals, signs, separators
    ("42", "42", 1), ("42", "-42", 0), ("-42", "-42", 1), ("\u221242", "-42", 1), ("+7", "7", 1),
    ("- 3", "-3", 1), ("3.50", "3.5", 1), (".5", "0.5", 1), ("3.14", "3.1416", 0), ("42.", "42", 1),
    ("1,234", "1234", 1), ("1{,}234", "1234", 1), (r"1\,234", "1234", 1), ("1\u2009234", "1234", 1),
    ("1 234 567", "1234567", 1), ("12,34,567", "1234567", 1), ("1'234", "1234", 1),
    ("1,234", "1", 0), ("21{,}452.50", "21452.5", 1), ("1,2345", "12345", 0),
    # Fractions and mixed numbers
    (r"\frac34", "0.75", 1), (r"\dfrac{3}{4}", "3/4", 1), (r"\tfrac{3}{4}", "3/4", 1),
    (r"\cfrac{6}{8}", "3/4", 1), (r"\frac{-3}{4}", "-3/4", 1), (r"-\frac{3}{4}", "-0.75", 1),
    (r"\frac{3}{-4}", "-0.75", 1), (r"\frac{2.4}{2}", "1.2", 1), (r"\frac{1}{0.5}", "2", 1),
    (r"\frac 3 4", "3/4", 1), (r"\frac3{4}", "3/4", 1), ("3/4", r"\frac{3}{4}", 1),
    (r"2\frac{2}{3}", "8/3", 1), ("2 2/3", "8/3", 1), (r"2 \frac{2}{3}", "2", 0),
    (r"-1\frac12", "-1.5", 1), ("\u00bd", "0.5", 1), ("2\u00bd", "2.5", 1),
    (r"\frac{1}{0}", "0", 0),
    (r"\frac{1,000}{3}", "1000/3", 1),
    # Percent, powers of ten, scale, money
    (r"50\%", "0.5", 1), (r"50\%", "50", 1), ("50 percent", r"50\%", 1), ("0.5", r"50\%", 1),
    (r"0.5\%", r"50\%", 0), (r"\frac{1}{2}\%", "0.005", 1), ("1.5e3", "1500", 1),
    (r"1.5 \times 10^{3}", "1500", 1), (r"1.5 \cdot 10^3", "1500", 1),
    ("1.5\u00d710\u00b3", "1500", 1),
    (r"2.5\times 10^{-3}", "0.0025", 1), ("10^6", "1000000", 1), ("10^6", "6", 0),
    ("$1.5 million", "1500000", 1), (r"\$1{,}234.50", "1234.5", 1), ("-\\$5", "-5", 1),
    ("($12.6)", "-12.6", 1), ("USD 500", "500", 1), ("\u20ac3", "3", 1), ("\\$21.5k", "21500", 1),
    # Full width
    ("\uff11\uff12", "12", 1), ("\uff0d\uff15", "-5", 1), ("\uff15\uff10\uff05", "0.5", 1),
    # Names, units, words around a number
    ("x = 5", "5", 1), ("x_{1} = 5", "5", 1), ("f(x) = 5", "5", 1), (r"\theta = 30^\circ", "30", 1),
    (r"x \approx 3.14", "3.14", 1), (r"5 \text{ cm}", "5", 1), (r"12\,\mathrm{m/s^2}", "12", 1),
    (r"25\text{ square units}", "25", 1), ("12 apples", "12", 1), (r"90^{\circ}", "90", 1),
    (r"5\text{ m/s}^2", "5", 1), (r"5\,k\Omega", "5", 1), ("5 MΩ", "5", 1), ("3 mN", "3", 1),
    ("3g/mol", "3", 1), ("3g", "3", 0), ("3 mn", "3000000", 1), (r"\text{5 apples}", "5", 1),
    # Lists, tuples, intervals, sets
    ("1, 2", "2, 1", 1), (r"\{1, 2\}", "2, 1", 1), (r"1 \text{ and } 2", "1, 2", 1),
    ("x = 1 or x = 2", "1, 2", 1), ("1, 2, 3", "1, 2", 0), ("1", "1, 2", 0), ("1, 2", "1", 0),
    ("(1, 2)", "(1, 2)", 1), ("(2, 1)", "(1, 2)", 0), ("1, 2", "(1, 2)", 1),
    (r"\left(1, \frac{1}{2}\right)", "(1, 0.5)", 1), ("[1, 2)", "[1, 2)", 1),
    ("[1, 2]", "[1, 2)", 0),
    ("(1, 2)", "1, 2", 0), (r"(-\infty, 3]", r"(-\infty, 3]", 1),
    (r"(\infty, 3]", r"(-\infty, 3]", 0),
    (r"x \in [1, 2]", "[1, 2]", 1), (r"\{2, 2, 1\}", r"\{1, 2\}", 1), ("(5)", "5", 1),
    # Words and choices
    (r"\text{none}", "none", 1), ("Yes", "yes", 1), ("no", "yes", 0), (r"\text{(B)}", "B", 1),
    ("(B)", "B", 1), ("B.", "(B)", 1), ("C", "B", 0), (r"\textbf{B}", "B", 1), ("B", "5", 0),
    # What is more than an answer, or another one
    ("5, 7", "5", 0), ("5 or 7", "5", 0), ("3 < x < 7", "3", 0), (r"\sqrt{2}", "2", 0),
    (r"\frac{\pi}{2}", "2", 0), ("2x", "2", 0), ("5!", "5", 0), ("2^{10}", "2", 0),
    ("5 - 3", "5", 0),
    ("", "5", 0), ("3 + 4i", "3", 0), ("5 7", "5", 0),
    # Where the answer is
    (r"First \boxed{3}, then \boxed{4}.", "4", 1), (r"\boxed{\boxed{4}}", "4", 1),
    (r"\fbox{4}", "4", 1), (r"\boxed{4", "4", 1), (r"\boxed{4} not 5", "4", 1),
    ("**Final answer:** 4", "4", 1), ("The answer is $4$.", "4", 1),
    ("Answer: (1, 2)", "(1, 2)", 1),
    ("#### 4", "4", 1), ("so $x=4$, q.e.d.", "4", 1), (r"thus \(x = 4\) holds", "4", 1),
    (r"\[ x = 4 \]", "4", 1), ("we get 3, then 4 apples", "4", 1), ("Answer: 4\nDone 5", "4", 1),
]  # fmt: skip
MARKS = ("\\boxed", "\\fbox", "answer", "####", "so $", "thus", "\\[", "we get", "Answer")


def written(answer):
    found = any(mark in answer for mark in MARKS)
    return answer if found else f"So it is $\\boxed{{{answer}}}$."


@pytest.fixture(scope="module")
def grader(parity):
    items = [{"r": reference} for _, reference, _ in CASES]
    return parity(spec(), items, width=L, rows=256)


def test_a_hundred_answers(grader):
    assert len(CASES) > 100
    texts = [written(answer) for answer, _, _ in CASES]
    assert grader.differences(list(zip(texts, range(len(CASES)), strict=True))) == []
    scores = grader.on_device([HostSample(text) for text in texts], range(len(CASES))).score
    wrong = [case for case, score in zip(CASES, scores, strict=False) if score != case[2]]
    assert wrong == []


PIECES = st.sampled_from(
    [*"0123456789", *".,-+%$=():;[] \n", "1,234", "\\frac{", "}{", "}", "\\frac12", "10^", "{,}"]
    + ["\\text{", "\\{", "\\}", " or ", "and", "cm", " m", "/s", "^\\circ", "x = ", "no", "B", "½"]
    + [
        "\\boxed{",
        "answer is ",
        "####",
        "$",
        "\\(",
        "\\)",
        "\\sqrt",
        "\\infty",
        "million",
        "percent",
    ]
)


@settings(max_examples=8)
@given(st.lists(st.lists(PIECES, max_size=9).map("".join), min_size=64, max_size=256))
def test_any_text_is_graded_as_on_the_host(grader, texts):
    pairs = [(text, n % len(CASES)) for n, text in enumerate(texts)]
    assert grader.differences(pairs) == []


UNITS = [{"r": "5 \\text{ km/h}"}, {"r": "5"}, {"r": "5 \\text{ apples}"}]
# What is written, the number of the reference, and the score where units are required, converted.
WITH_UNITS = [
    ("5 km/h", 0, 1, 1), ("5\\,\\mathrm{km\\cdot h^{-1}}", 0, 1, 1), ("5", 0, 0, 0),
    ("5000 m/h", 0, 0, 0), ("\\frac{25}{18} \\text{ m/s}", 0, 0, 1), ("5 m/s", 0, 0, 0),
    ("5 km", 0, 0, 0), ("5 kph", 0, 1, 1), ("5 km", 1, 1, 1), ("5", 1, 1, 1),
    ("5 apples", 2, 1, 1), ("5 pears", 2, 0, 0), ("10 km/h", 0, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("column, unit", [(2, "require"), (3, "convert")])
def test_units_are_required_or_converted(column, unit):
    grader, items = load_grader(spec(unit=unit)), Items(UNITS, "items.jsonl")
    for case in WITH_UNITS:
        view = HostView(HostSample(written(case[0])))
        assert grader.score_on_host(view, items, case[1]).score == case[column], case


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["require", "convert"])
def test_units_are_compared_as_on_the_host(parity, unit):
    both = parity(spec(unit=unit), UNITS, width=L)
    assert both.differences([(written(case[0]), case[1]) for case in WITH_UNITS]) == []


def test_a_tolerance_is_the_greater_of_two(grader):
    both = grader.like(spec(absolute=0.5, relative=0.1), [{"r": "10"}, {"r": "(1, 100)"}])
    assert both.scores("\\boxed{11}", "\\boxed{9}", "\\boxed{11.01}") == [1, 1, 0]
    assert both.scores("\\boxed{(1.5, 110)}", "\\boxed{(1.6, 100)}", item=1) == [1, 0]


@pytest.mark.parametrize("reference", ["", "\\sqrt{2}", "x^2", "1/0", "\\boxed{}"])
def test_a_reference_that_cannot_be_read_is_named(reference):
    with pytest.raises(InputError, match="items.jsonl, line 2: reference needs"):
        load_grader(spec()).encode(Items([{"r": 1}, {"r": reference}], "items.jsonl"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"unit": "drop"}, "unit: unknown unit 'drop'; use one of strip, require, convert"),
        ({"symbolic": True}, "symbolic: must be a string"),
        ({"relative": -1}, "relative: must be a number from 0"),
        ({"marker": ""}, "marker: must not be empty"),
        ({"which": "last"}, "which: unknown field"),
        ({"reference": "{{sample.output_text}}"}, "reference: must not use the sample"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))


def test_symbolic_equality_is_not_placed_on_the_device():
    grader = load_grader(spec(symbolic="auto"))
    with pytest.raises(InputError, match="m: what the device cannot decide goes to the host"):
        build_grader(grader, "device")
    assert build_grader(grader).needs_host
    assert not build_grader(load_grader(spec())).needs_host


@pytest.mark.oracle
@pytest.mark.parametrize("placement", ["auto", "host"])
def test_the_host_decides_what_the_device_cannot(placement):
    pytest.importorskip("math_verify")
    cases = [
        ("2\\sqrt{2}", "\\sqrt{8}", 1, 1),
        ("x^2+2x+1", "(x+1)^2", 1, 1),
        ("\\sqrt{4}", "2", 1, 1),
        ("\\sqrt{3}", "\\sqrt{2}", 0, 1),
        ("7^{3}", "343", 1, 1),
        ("\\sqrt{2}", "\\sqrt{2}", 1, 0),
        ("5", "5", 1, 0),
        ("6", "5", 0, 0),
        ("", "\\pi", 0, 0),
    ]
    grader = build_grader(
        load_grader(spec(symbolic="auto")), placement, HostOptions(workers=1, sandbox=False)
    )
    texts = [f"\\boxed{{{answer}}}" for answer, _, _, _ in cases]
    grade = grade_texts(grader, texts, [{"r": reference} for _, reference, _, _ in cases])
    assert grade.reward.tolist() == [wanted for _, _, wanted, _ in cases]
    assert grade.details["m/undecided"].tolist() == [asked for _, _, _, asked in cases]
    assert grade.valid.all()


def nested(**fields):
    """A `math` in every place that a grader can have, by what is around it."""
    math = spec(symbolic="auto", **fields)
    regex = {
        "type": "regex",
        "name": "r",
        "input": "{{sample.output_text}}",
        "pattern": "(?s).*<a>(.*)</a>",
        "grader": math,
    }
    length = {"type": "format", "name": "f", "markers": ["<a>"]}

    def multi(part):
        graders = {"part": part, "form": length}
        return {"type": "multi", "name": "m", "graders": graders, "calculate_output": "part"}

    def switch(part):
        other = {"type": "number", "input": "{{sample.output_text}}", "reference": "1"}
        kinds = {"formula": part, "other": other}
        return {"type": "switch", "name": "s", "on": "{{item.kind}}", "graders": kinds}

    return {
        "alone": math,
        "multi": multi(math),
        "switch": switch(math),
        "regex": regex,
        "regex in regex": regex | {"grader": regex | {"pattern": "(.*)"}},
        "regex in multi": multi(regex),
        "multi in switch": switch(multi(math)),
        "switch in multi": multi(switch(math)),
        "regex in multi in switch": switch(multi(regex)),
    }


class Decides:
    """Stands for the host's worker: two texts are equal if both have a root."""

    asked: list = []

    def __init__(self, source, options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def grade(self, requests):
        requests = [json.loads(request) for request in requests]
        self.asked.extend((r["sample"], r["item"]) for r in requests)
        right = [all("sqrt" in text for text in r.values()) for r in requests]
        return [Outcome(float(found)) for found in right]


# Of those on the device the deepest by default: each takes seconds to compile.
DEEPEST = "regex in multi in switch"
PLACES = [
    pytest.param(place, placement, marks=[pytest.mark.slow] if slow else [])
    for place in nested()
    for placement, slow in (("auto", place != DEEPEST), ("host", False))
]


@pytest.mark.parametrize(("place", "placement"), PLACES)
def test_the_host_is_asked_from_every_place_and_only_what_is_undecided(
    place, placement, monkeypatch
):
    monkeypatch.setattr("rft_jax.graders.host.symbolic.WorkerPool", Decides)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(Decides, "asked", [])
    grader = build_grader(load_grader(nested()[place]), placement)
    answers = ["2\\sqrt{2}", "\\sqrt{8}", "2^3", "2.83", ""]
    texts = [f"<a>so \\boxed{{{answer}}}</a>" for answer in answers]
    rows = [{"r": "\\sqrt{8}", "kind": "formula"}] * 5
    grade = grade_texts(grader, [*texts, "nothing"], [*rows, {"r": "1", "kind": "formula"}])
    assert grade.reward.tolist() == [1, 1, 0, 0, 0, 0] and grade.valid.all()
    assert Decides.asked == [(a, "\\sqrt{8}") for a in ("2\\sqrt{2}", "2^3", "2.83")]


@pytest.mark.slow
def test_items_of_another_kind_are_not_asked_about(monkeypatch):
    monkeypatch.setattr("rft_jax.graders.host.symbolic.WorkerPool", Decides)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(Decides, "asked", [])
    grader = build_grader(load_grader(nested()[DEEPEST]))
    texts = ["<a>\\boxed{2\\sqrt{2}}</a>", "<a>1</a>"]
    rows = [{"r": "\\sqrt{8}", "kind": "formula"}, {"r": "\\pi", "kind": "other"}]
    assert grade_texts(grader, texts, rows).reward.tolist() == [1, 1]
    assert Decides.asked == [("2\\sqrt{2}", "\\sqrt{8}")]
