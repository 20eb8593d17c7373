"""`number` finds the number that was meant and compares it as exact fractions compare."""

import json
import random
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders import load_grader
from rft_jax.graders.types import HostSample, HostView, Items
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


def test_the_first_number_may_be_meant(parity):
    cases = {"1 or 2": 0, "2 or 1": 1, "two": 0, "2": 1}
    assert parity(spec(which="first"), [{"r": 2}]).scores(*cases) == list(cases.values())


def test_the_number_after_a_marker_is_meant(marked):
    cases = {"5 #### 2 3": 1, "#### 3 #### 2": 1, "2": 0, "2 ####": 0, "####-2": 0}
    cases |= {"3 so \\boxed{2} (4)": 1, "\\boxed{\\$2}": 1, "\\boxed 2": 0}
    cases |= {"答え2": 1, "答2": 0, "x答え: 2": 1}
    assert marked.like(MARKS, [{"r": 2}]).scores(*cases) == list(cases.values())


def test_the_input_may_be_a_field_of_the_answer(parity):
    grader = parity(spec(input="{{sample.output_json.x}}"), [{"r": 2}])
    assert grader.scores('{"x": 2.0}', '{"x": "it is 2"}', '{"x": [1, 2]}', "2", "{}", '{"x": ""}')[
        :6
    ] == [1, 1, 1, 0, 0, 0]


def test_a_reference_may_stand_after_the_marker(marked):
    grader = marked.like(MARKS, [{"r": "5 + 2 = 7\n#### 7"}, {"r": "7"}])
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
        ({"end": "#"}, "end: needs a marker"),
        ({"marker": "#", "end": ""}, "end: needs a marker"),
        ({"marker": [1]}, "marker: must not be empty"),
        ({"percent": "both"}, "percent: unknown percent 'both'"),
        ({"accounting": 1}, "accounting: must be true or false"),
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
            number = both.grader._find_on_host(text)
            reference = both.grader._reference(both.items, n).value
            limits = both.grader._reach(reference)
            values = [number.value] if number else []
            gaps = [abs(abs(x - reference) - limit) for x in values for limit in limits]
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


MARKS = spec(marker=["\\boxed{", "Answer:", "####", "<answer>", "答え"])
DATA = Path(__file__).parents[1] / "data_files" / "answers"


def rows_of(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", ["boxed", "last"])
def test_answers_that_were_half_read(request, case):
    fields = json.loads((DATA / f"{case}_grader.json").read_text())
    answers = rows_of(f"{case}_answers")
    pairs = [(answer["output_text"], answer["item"] - 1) for answer in answers]
    expected = [answer["expected"] for answer in answers]
    # Where boxes are marked, another marker that does not occur changes nothing.
    name, fields_on_device = ("marked", MARKS) if case == "boxed" else ("exact", fields)
    items = [{**row, "r": row["answer"]} for row in rows_of(f"{case}_items")]
    both = request.getfixturevalue(name).like(fields_on_device, items)
    assert both.differences(pairs) == []
    samples = [HostSample(text) for text, _ in pairs]
    scores = both.on_device(samples, [item for _, item in pairs]).score[: len(pairs)].tolist()
    assert scores == expected
    grader = load_grader(fields)
    on_host = [
        grader.score_on_host(HostView(s), both.items, n)
        for s, (_, n) in zip(samples, pairs, strict=True)
    ]
    assert [score.score for score in on_host] == expected


KINDS = [
    # Powers of ten
    ("The load is 2.5 × 10^3 N.", 2500, 1), ("2.5 \\times 10^{-3}", 0.0025, 1), ("10^6", 6, 0),
    ("10^6", "1e6", 1), ("2.5·10⁻³", "0.0025", 1), ("5 m^2", 5, 1), ("x_2", 2, 0), ("2^{10}", 2, 0),
    ("2^{10}", 10, 0), ("3*10**4", 30000, 1), ("a 45^\\circ angle", 45, 1),
    # Signs and separators
    ("-\\$5", -5, 1), ("($12.6)", -12.6, 1), ("$(9,999)", -9999, 1), ("(12.6)", 12.6, 1),
    ("21{,}452", 21452, 1), ("21\\,452", 21452, 1), ("21 452", 21452, 1),
    ("21\u2009452", 21452, 1), ("21\u00a0452", 21452, 1), ("21'452", 21452, 1),
    ("USD21,452", 21452, 1), ("12,34,567", 1234567, 1), ("\\frac{2.4}{2}", 1.2, 1),
    ("\\frac34", 0.75, 1), ("2½", 2.5, 1), ("１２", 12, 1),
    # Words of scale, percent
    ("$1,234.5 million", 1234500000, 1), ("$5.818 billion", "5.818e9", 1), ("$21.5k", 21.5, 0),
    ("$21.5k", 21500, 1), ("$3m", 3000000, 1), ("3 m", 3, 1), ("2 thousand", 2000, 1),
    ("12.5 percent", 0.125, 1), ("12.5 per cent", 12.5, 1), ("12.5%", 12.5, 1),
    ("12.5%", 0.125, 1), ("12.5%", "12.5%", 1), ("12.5", "12.5%", 1), ("0.125%", "12.5%", 0),
    ("12.5%", 1250, 0),
]  # fmt: skip


def test_numbers_as_finance_and_engineering_write_them(exact):
    both = exact.like(spec(), [{"r": reference} for _, reference, _ in KINDS])
    pairs = [(text, n) for n, (text, _, _) in enumerate(KINDS)]
    assert both.differences(pairs) == []
    scores = both.on_device([HostSample(text) for text, _ in pairs], range(len(pairs))).score
    wrong = [case for case, score in zip(KINDS, scores, strict=False) if score != case[2]]
    assert wrong == []


@pytest.mark.parametrize(
    "fields, cases",
    [
        ({"percent": "fraction"}, {"50%": 0, "200%": 1, "2": 1, "2%": 0}),
        ({"percent": "number"}, {"2%": 1, "200%": 0, "2": 1, "0.02": 0}),
        ({"accounting": True}, {"(2)": 0, "((-2))": 1, "-(2)": 1, "(5) 2": 1, "(2": 1}),
        ({"which": "last", "marker": "Answer:"}, {"Answer: 1 or 2": 1, "2 answer is 3, 1": 0}),
        ({"which": "first", "marker": "Answer:"}, {"answer: 2 or 1": 1, "2": 0}),
        ({"marker": "So", "end": "."}, {"so 2. 3": 1, "so 3. 2": 0, "so 2": 1}),
    ],
)
def test_options_change_what_is_read(fields, cases):
    grader = load_grader(spec(**fields))
    items = Items([{"r": 2}], "items.jsonl")
    views = [HostView(HostSample(text)) for text in cases]
    scores = [grader.score_on_host(view, items, 0).score for view in views]
    assert scores == list(cases.values())


MARKED = {
    "answer: $7": 1, "Answer : 7": 1, "The answer is $7.": 1, "**Answer:** 7": 1, "ANSWER = 7": 1,
    "Answer: In 2017 Alice pays $7": 1, "Answer: 7 in 2017": 1, "Answer: 3 + 4 = 7": 1,
    "Answer: 7 or 9": 0, "Answer: 7, 9": 0, "Answer:\n\n7\n\n9": 1, "Answer: none of the 7": 1,
    "Answer: none": 0, "Reanswer: 7": 0, "Answers vary: 7": 0, "#### 7": 1, "####7\n8": 1,
    "\\boxed{7}": 1, "\\boxed{} see equation 7": 0, "\\boxed{x_{1} = 7}": 1, "\\boxed{7": 0,
    "Answer: \\boxed{7} (of 9)": 1, "Answer: \\boxed{7, 9}": 0, "\\boxed{7}, not \\boxed{8}": 0,
    "\\boxed{7\\text{ cm}}": 1, "\\boxed{\\text{seven 7}}": 0, "\\boxed{7x}": 0,
    "\\boxed{7!}": 0, "\\boxed{\\sqrt{7}}": 0, "\\boxed{7^2}": 0, "<answer>7</answer> 8": 1,
    "<answer> 7": 1, "<answer>7 or 8</answer>": 0, "\\boxed{-(7)}": 0, "\\boxed{700\\%}": 1,
}  # fmt: skip


def test_what_markers_mark(marked):
    both = marked.like(MARKS, [{"r": 7}])
    assert dict(zip(MARKED, both.scores(*MARKED), strict=True)) == MARKED


PIECES = st.sampled_from(
    [
        "answer",
        "Answer:",
        " is ",
        "=",
        ":",
        "**",
        "\n",
        " ",
        "\\boxed{",
        "\\fbox{",
        "}",
        "{",
        "\\",
        "(",
    ]
    + [
        ")",
        "5",
        "-7",
        "$12",
        "1,234",
        "12.5%",
        "percent",
        "million",
        "x = ",
        "\\frac{1}{2}",
        "7 or 8",
    ]
    + ["\\text{", "cm", "####", "é", "<answer>", "</answer>", "10^{3}", "(12.6)", ",", "ANSWER"]
)


@settings(max_examples=25)
@given(st.lists(st.lists(PIECES, max_size=10).map("".join), min_size=8, max_size=64))
def test_marked_answers_are_graded_as_on_the_host(marked, texts):
    assert marked.differences([(text, 0) for text in texts]) == []


@pytest.fixture(scope="module")
def marked(parity):
    return parity(MARKS, [{"r": 7}])
