"""`choice` finds the option that an answer means, by its stated rule."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders import load_grader
from rft_jax.graders.types import HostSample, Items
from rft_jax.utils.errors import InputError

LABELS = ["A", "B", "C", "D"]


def spec(**fields):
    return {
        "type": "choice",
        "name": "c",
        "input": "{{sample.output_text}}",
        "choices": LABELS,
        "reference": "{{item.r}}",
        **fields,
    }


@pytest.fixture(scope="module")
def letters(parity):
    return parity(spec(), [{"r": label} for label in LABELS])


CHOSEN = {
    "B": "B",
    "The answer is (B).": "B",
    "The answer is **(B)**. A good one!": "B",
    "ANSWER:\n\n  B\n\nC and D are wrong.": "B",
    "Answer is option B": "B",
    "The correct answer choice: C, not D": "C",
    "Answer: A. No, answer: B": "B",
    "The answer is not B, but C": "C",
    "Not A. B": "B",
    "A, B, C, D": "D",
    "\\boxed{C}": "C",
    "answers: A or D": "D",
    "An answer? A\r\n": "A",
    "vitamin B12": "",
    "ABCD": "",
    "_A_": "",
    "Éa A\u0301": "A",
    "ÉA": "",
    "(b)": "",
    "answer": "",
    "": "",
    "\u05d0 A\u202e\x00": "A",
    "Answer: E": "",
    "Answer: E, not D": "D",
}


def test_the_chosen_label(letters):
    for n, label in enumerate(LABELS):
        assert letters.scores(*CHOSEN, item=n) == [float(c == label) for c in CHOSEN.values()]
    details = letters.on_device([HostSample(text) for text in CHOSEN], [0] * len(CHOSEN)).details
    assert details["c/no_choice"][: len(CHOSEN)].tolist() == [c == "" for c in CHOSEN.values()]


@pytest.mark.parametrize(
    "fields, reference, cases",
    [
        ({"ignore_case": True}, "b", {"b": 1, "B": 1, "answer: B, a nice one": 1, "a": 0}),
        ({"choices": ["yes", "no", "no way"]}, "no way", {"no way": 1, "no": 0, "no  way": 0}),
        ({"choices": ["+", "-", "0"]}, "-", {"1-": 1, "+ or -": 1, "a+": 0, "10": 0}),
        ({"choices": ["Größe", "kraft"], "ignore_case": True}, "GRÖßE", {"GRÖẞE": 1, "Größen": 0}),
        ({"choices": ["k", "s"], "ignore_case": True}, "K", {"\u212a": 1, "ſ": 0, "K.": 1}),
        ({"choices": [".", "(?"]}, "(?", {"a (? b": 1, "a": 0, "(?.": 0}),
        ({"input": "{{sample.output_json.x}}"}, "B", {'{"x": "B"}': 1, "B": 0, '{"y": "B"}': 0}),
    ],
)
def test_labels_of_many_kinds(parity, fields, reference, cases):
    assert parity(spec(**fields), [{"r": reference}]).scores(*cases) == list(cases.values())


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"choices": "ABCD"}, "^choices: must be a list of two labels"),
        ({"choices": ["A"]}, "^choices: must be a list of two labels"),
        ({"choices": ["A", 1]}, r"^choices\[1\]: must be a text without white space around it"),
        ({"choices": ["A", " B"]}, r"^choices\[1\]: must be a text without white space around it"),
        ({"choices": ["A", ""]}, r"^choices\[1\]: must be a text"),
        ({"choices": ["A", "\ud800"]}, r"^choices\[1\]: holds a lone surrogate"),
        ({"choices": ["A", "A"]}, r"^choices\[1\]: 'A' stands there twice"),
        ({"choices": ["A", "a"], "ignore_case": True}, r"^choices\[1\]: 'a' stands there twice"),
        ({"choices": ["A" * 900, "B" * 900]}, "^choices: as a regular expression: longer than"),
        ({"ignore_case": 1}, "^ignore_case: must be true or false"),
        ({"reference": "{{sample.output_text}}"}, "^reference: must not use the sample"),
        ({"labels": []}, "^labels: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))


@pytest.mark.parametrize("reference", ["E", "a", "", "A ", None, ["A"]])
def test_a_reference_that_is_no_label_is_named(reference):
    message = r"items.jsonl, line 2: reference needs one of the choices A, B, C, D, not"
    with pytest.raises(InputError, match=message):
        load_grader(spec()).encode(Items([{"r": "A"}, {"r": reference}], "items.jsonl"))


PIECES = [
    "answer",
    "Answer",
    " ",
    " ",
    ": ",
    "\r\n",
    "is",
    "option",
    "choice",
    "(",
    ")",
    "**",
    "not",
]
PIECES += [*LABELS, *LABELS, "b", "É", "\u0301", "_", "😀", "\x00", "\u202e", "1", "\ufffd"]


def generated(count):
    rng = random.Random(count)
    for _ in range(count):
        yield "".join(rng.choices(PIECES, k=rng.randint(0, 24))), rng.randrange(len(LABELS))


def test_generated_answers_are_graded_as_on_the_host(letters):
    assert letters.differences(list(generated(512))) == []


@pytest.mark.slow
def test_twenty_thousand_answers_are_graded_as_on_the_host(letters):
    found = letters.differences(list(generated(20_000)))
    print(f"20000 pairs: {len(found)} differences")
    assert found == []


@settings(max_examples=50)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=64))
def test_any_text_is_graded_as_on_the_host(letters, texts):
    encodable = [text.encode(errors="replace").decode() for text in texts]
    assert letters.differences([(text, 0) for text in encodable]) == []
