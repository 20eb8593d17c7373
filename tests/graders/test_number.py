"""`number` finds the number that was meant and compares it as exact fractions compare."""

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders import load_grader
from rft_jax.graders.types import HostSample, Items
from rft_jax.utils.errors import InputError


def spec(**fields):
    return {
        "type": "number",
        "name": "n",
        "input": "{{sample.output_text}}",
        "reference": "{{item.r}}",
        **fields,
    }


EXACT = [
    ("the answer is 42.", 42, 1),
    ("41, no: 42", 42, 1),
    ("42, not 41", 42, 0),
    ("123456788", 123456789, 0),
    ("123456789", 123456789, 1),
    ("123,456,789.000", "123456789", 1),
    ("1.23456789e8", 123456789, 1),
    ("100000000000000000001", "100000000000000000000", 0),
    ("0.1000000000000000000000000001", 0.1, 0),
    ("-3", -3, 1),
    ("\u22123", -3, 1),
    ("-$3.50", -3.5, 1),
    ("\u2212€1,000", -1000, 1),
    ("5-3", 3, 1),
    ("from 5 to -3", -3, 1),
    ("50%", 0.5, 1),
    ("50\\%", "50%", 1),
    ("50 %", "1/2", 1),
    ("3/4", 0.75, 1),
    ("1/3", "1/3", 1),
    ("2/6", "1/3", 1),
    ("0.333333333333", "1/3", 0),
    ("33333333/99999999", "1/3", 1),
    ("\\boxed{-\\frac{3}{4}}", -0.75, 1),
    ("on 1/2/2024", 2024, 1),
    ("-0", 0, 1),
    ("0.00", 0, 1),
    ("1e999999", "1e999999", 1),
    ("SCN1A", 1, 0),
    ("version 1.2.3", 1.2, 1),
    (".5", 0.5, 1),
    ("no.5", 5, 1),
    ("1,2345", 2345, 1),
    ("7\x00", 7, 1),
    ("答案是42。", 42, 1),
    ("7e\u0301", 7, 1),
    ("7\r\n", 7, 1),
    ("٤٢", 42, 0),
    ("", 0, 0),
    ("none", 0, 0),
]


@pytest.fixture(scope="module")
def exact(parity):
    return parity(spec(), [{"r": reference} for _, reference, _ in EXACT])


def test_numbers_are_told_apart_to_the_last_digit(exact):
    texts = [text for text, _, _ in EXACT]
    pairs = list(zip(texts, range(len(EXACT)), strict=True))
    assert exact.differences(pairs) == []
    scores = exact.on_device([HostSample(text) for text in texts], range(len(EXACT))).score
    wrong = [case for case, score in zip(EXACT, scores, strict=False) if score != case[2]]
    assert wrong == []


@pytest.mark.parametrize(
    "which, marker, cases",
    [
        ("first", None, {"1 or 2": 0, "2 or 1": 1, "two": 0, "2": 1}),
        ("marked", "####", {"5 #### 2 3": 1, "#### 3 #### 2": 1, "2": 0, "2 ####": 0, "####-2": 0}),
        ("marked", "\\boxed{", {"3 so \\boxed{2} (4)": 1, "\\boxed{\\$2}": 1, "\\boxed 2": 0}),
        ("marked", "答え", {"答え2": 1, "答2": 0, "x答え: 2": 1}),
    ],
)
def test_the_number_that_is_meant(parity, which, marker, cases):
    fields = {"which": which} | ({"marker": marker} if marker else {})
    assert parity(spec(**fields), [{"r": 2}]).scores(*cases) == list(cases.values())


@pytest.mark.parametrize(
    "reference, fields, cases",
    [
        (3.14, {"absolute": 0.01}, {"3.15": 1, "3.13": 1, "3.1500000001": 0, "3.1299999": 0}),
        (-200, {"relative": 0.01}, {"-202": 1, "-198": 1, "-202.01": 0, "200": 0}),
        (300, {"relative": 0.01, "absolute": 5}, {"305": 1, "305.1": 0}),
        (0, {"relative": 0.5}, {"0": 1, "1e-30": 0}),
        (10, {"partial_absolute": 4}, {"10": 1, "11": 0.75, "8": 0.5, "14": 0, "6.001": 0.00025}),
        (10, {"absolute": 1, "partial_relative": 0.5}, {"11": 1, "9": 1, "12": 0.75, "5": 0}),
        (10, {"absolute": 5, "partial_absolute": 4}, {"15": 1, "15.1": 0}),
        (123456789, {"partial_absolute": 4}, {"123456790": 0.75, "123,456,787": 0.5}),
        ("1e200", {"partial_relative": 1}, {"9e199": 0.9, "1.5e200": 0.5, "0": 0, "3e210": 0}),
        ("1/3", {"partial_relative": 0.1}, {"1/3": 1, "0.35": 0.5, "0.3": 0}),
    ],
)
def test_credit_follows_the_formula(exact, reference, fields, cases):
    scores = exact.like(spec(**fields), [{"r": reference}]).scores(*cases)
    assert scores == pytest.approx(list(cases.values()), abs=1e-6)


def test_the_input_may_be_a_field_of_the_answer(parity):
    grader = parity(spec(input="{{sample.output_json.x}}"), [{"r": 2}])
    assert grader.scores('{"x": 2.0}', '{"x": "it is 2"}', '{"x": [1, 2]}', "2", "{}", '{"x": ""}')[
        :6
    ] == [1, 1, 1, 0, 0, 0]


def test_a_reference_may_stand_after_the_marker(parity):
    grader = parity(spec(which="marked", marker="####"), [{"r": "5 + 2 = 7\n#### 7"}, {"r": "7"}])
    assert grader.scores("#### 7") == grader.scores("#### 7", item=1) == [1]


@pytest.mark.parametrize("reference", ["", "x", "5 or 6", None, [1], float("nan"), "7 apples"])
def test_a_reference_that_is_no_number_is_named(reference):
    with pytest.raises(InputError, match=r"items.jsonl, line 2: reference needs a number"):
        load_grader(spec()).encode(Items([{"r": 1}, {"r": reference}], "items.jsonl"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"which": "best"}, "which: unknown which 'best'"),
        ({"which": "marked"}, "marker: is missing"),
        ({"which": "marked", "marker": ""}, "marker: must not be empty"),
        ({"which": "marked", "marker": "\ud800"}, "marker: holds a lone surrogate"),
        ({"marker": "#"}, "marker: has no use"),
        ({"absolute": -1}, "absolute: must be a number from 0"),
        ({"relative": "1"}, "relative: must be a number"),
        ({"partial_relative": True}, "partial_relative: must be a number"),
        ({"absolute": float("inf")}, "absolute: must be a number"),
        ({"reference": "{{sample.output_text}}"}, "reference: must not use the sample"),
        ({"tolerance": 1}, "tolerance: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))


WORDS = ["is", "=", "SCN1A", "\r\n", "e\u0301", "😀", "(", ".", "\x00", "####", "\u202e", "x2", "%"]
TOLERANCES = [{}, {"absolute": 0.01}, {"relative": 0.001, "partial_relative": 0.01}]
TOLERANCES += [{"absolute": 1, "partial_absolute": 3}]


def spelled(rng, value):
    """A decimal as somebody may write it."""
    forms = [str(value), f"{value:f}", f"{value:,f}", f"{value:E}", f"{value * 100:f}%"]
    return rng.choice(forms).replace("-", rng.choice(["-", "\u2212", "-$"]))


def generated(rng, count):
    """Pairs of a text and an item: numbers far apart, close, and right at the tolerances."""
    for _ in range(count):
        digits = rng.choice([1, 2, 4, 9, 17])
        reference = Decimal(rng.randint(-(10**digits), 10**digits)).scaleb(-rng.randint(0, digits))
        steps = ["0.01", "0.010000001", "0.009999999", "1", "3", "1e-9", "0.5", "2", "1000"]
        shares = ["0.001", "0.01", "0.005", "0.0010000001", "0.1"]
        gap = rng.choice([Decimal(0), Decimal(rng.choice(steps))])
        gap += rng.choice([0, 0, 1]) * abs(reference) * Decimal(rng.choice(shares))
        words = [rng.choice(WORDS) for _ in range(rng.randint(0, 4))]
        words.insert(
            rng.randint(0, len(words)), spelled(rng, reference + rng.choice([1, -1]) * gap)
        )
        if rng.random() < 0.1:
            words.append(f"{rng.randint(0, 99)}/{rng.randint(0, 99)}")
        yield rng.choice([" ", " ", ""]).join(words), {"r": str(reference)}


def compare(exact, pairs):
    """Differences for all tolerances, and how many pairs lie within 1e-6 of a threshold."""
    texts, items = zip(*pairs, strict=True)
    differences, near = [], 0
    for tolerances in TOLERANCES:
        both = exact.like(spec(**tolerances), items)
        differences += both.differences(list(zip(texts, range(len(texts)), strict=True)))
        for n, text in enumerate(texts):
            numbers = both.grader._numbers([text])
            reference = both.grader._reference(both.items, n)
            limits = both.grader._reach(reference)
            gaps = [abs(abs(x - reference) - limit) for x in numbers[-1:] for limit in limits]
            near += any(gap <= abs(reference) / 10**6 for gap in gaps)
    return differences, near


def test_generated_pairs_are_graded_as_on_the_host(exact):
    differences, _ = compare(exact, list(generated(random.Random(0), 256)))
    assert differences == []


@pytest.mark.slow
def test_twenty_thousand_pairs_are_graded_as_on_the_host(exact):
    differences, near = compare(exact, list(generated(random.Random(1), 5120)))
    print(f"{4 * 5120} pairs: {len(differences)} differences, {near} within 1e-6 of a threshold")
    assert differences == []


@settings(max_examples=50)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=64))
def test_any_text_is_graded_as_on_the_host(exact, texts):
    encodable = [text.encode(errors="replace").decode() for text in texts]
    assert exact.differences([(text, 0) for text in encodable]) == []
