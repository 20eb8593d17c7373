"""`regex` scores as Python's `re` matches, and hands on what it captures."""

import random

import pytest

from rft_jax.graders import build_grader, grade_texts, load_grader
from rft_jax.graders.types import HostSample, Items
from rft_jax.strings import MAX_DEPTH
from rft_jax.utils.errors import InputError

EQUAL = {
    "type": "string_check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.r}}",
    "operation": "eq",
}


def spec(pattern, **fields):
    text = "{{sample.output_text}}"
    return {"type": "regex", "name": "x", "input": text, "pattern": pattern, **fields}


@pytest.mark.parametrize(
    "fields, cases",
    [
        ({"pattern": r"\d{3}"}, {"a123b": 1, "12": 0, "١٢٣": 1, "": 0}),
        ({"pattern": r"\d{3}", "mode": "fullmatch"}, {"123": 1, "1234": 0, "123\n": 0}),
        ({"pattern": r"^größe$", "flags": "im"}, {"x\nGRÖSSE": 0, "x\nGRÖßE\ny": 1}),
        ({"pattern": r"a.b"}, {"a\r\nb": 0, "a\x00b": 1, "a😀b": 1, "ae\u0301b": 0, "a\u202eb": 1}),
    ],
)
def test_a_match_earns_1(parity, fields, cases):
    assert parity(spec(**fields)).scores(*cases) == list(cases.values())


def test_the_captured_text_is_the_answer_of_the_inner_grader(parity):
    grader = parity(spec(r"(?s).*<answer>\s*(.*?)\s*</answer>", grader=EQUAL), [{"r": "é 1"}])
    right = "<answer>no</answer> <answer>\né 1 </answer>!"
    assert grader.scores(right, "<answer>é 1<answer>", "é 1", "<answer></answer>") == [1, 0, 0, 0]
    score = grader.on_device([HostSample(right), HostSample("é 1")], [0, 0])
    assert score.details["x/matched"][:2].tolist() == [1, 0]


def test_the_captured_text_may_be_json(parity):
    rank = {
        "type": "rank",
        "input": "{{sample.output_json.genes}}",
        "reference": "{{item.r}}",
    }
    grader = parity(spec("(?s)```json\n(?P<doc>.*?)```", group="doc", grader=rank), [{"r": "B"}])
    texts = [
        'So:\n```json\n{"genes": ["a", "b"]}\n```',
        '{"genes": ["b"]}',
        "```json\n{]\n```",
        "```json\n{}\n```",
        "```json\n" + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1) + "```",
    ]
    assert grader.scores(*texts)[:4] == pytest.approx([0.7, 0, 0, 0])
    errors = grader.on_device([HostSample(text) for text in texts], [0] * 5).errors
    assert errors["sample_parse_error"][:5].tolist() == [False, False, True, False, False]
    assert errors["invalid_variable_error"][:5].tolist() == [False, False, False, True, False]
    assert errors["other_error"][:5].tolist() == [False, False, False, False, True]


def test_a_group_without_a_part_in_the_match_is_no_match(parity):
    grader = parity(spec("(a)|b", grader=EQUAL), [{"r": ""}])
    assert grader.scores("b", "a", "c") == [0, 0, 0]
    assert parity(spec("(a?)b", grader=EQUAL), [{"r": ""}]).scores("b", "ab", "c") == [1, 0, 0]


def test_the_input_may_be_a_field_of_the_answer(parity):
    grader = parity(
        spec("^a(.)", grader=EQUAL) | {"input": "{{sample.output_json.x}}"}, [{"r": "b"}]
    )
    assert grader.scores('{"x": "ab"}', '{"x": ["ab"]}', "ab", "{}", "") == [1, 0, 0, 0, 0]


def test_graders_nest(parity):
    inner = spec("(b)", grader=EQUAL) | {"name": "ignored"}
    grader = parity(spec("a(.*)a", grader=inner), [{"r": "b"}])
    assert grader.scores("acbca", "aca", "b") == [1, 0, 0]
    details = grader.on_device([HostSample("aca")], [0]).details
    assert {name: d[0] for name, d in details.items()} == {
        "x/matched": 1,
        "x/captured/matched": 0,
    }


def test_in_a_multi_on_device_and_host():
    multi = {
        "type": "multi",
        "graders": {"one": spec("a(b)", grader=EQUAL), "two": spec("c", flags="i")},
        "calculate_output": "one + 2 * two",
    }
    texts, items = ["ab", "aB C", "abc", ""], [{"r": "b"}] * 4
    for placement in ("device", "host"):
        grade = grade_texts(build_grader(load_grader(multi), placement), texts, items)
        assert grade.reward.tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"pattern": "a("}, r"^pattern: not a regular expression"),
        ({"pattern": "(?=a)"}, r"^pattern: a lookahead"),
        ({"pattern": "\ud800"}, r"^pattern: holds a lone surrogate"),
        ({"flags": "g"}, r"^flags: unknown flag 'g'"),
        ({"mode": "match"}, r"^mode: unknown mode 'match'; use one of search, fullmatch"),
        ({"group": 1}, r"^group: has no use without a grader"),
        ({"grader": EQUAL, "group": 2}, r"^group: the pattern has no group 2"),
        ({"grader": EQUAL, "group": True}, r"^group: must be the number or name"),
        ({"grader": "x"}, r"^grader: must be an object"),
        ({"grader": {**EQUAL, "input": "{{x}}"}}, r"^grader.input: .*unknown namespace"),
        ({"grader": {"type": "multi"}}, r"^grader.type: a multi cannot stand in a regex"),
        ({"grader": {"type": "python", "source": "def grade(s, i): return 1"}}, "host only"),
        ({"grader": EQUAL, "pattern": "(a*)*"}, r"^pattern: a repetition of what can be empty"),
        ({"patern": ""}, r"^patern: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec("(a)") | fields)


def test_an_item_that_does_not_serve_the_inner_grader_is_named():
    with pytest.raises(InputError, match=r"items.jsonl, line 2: grader.reference needs"):
        load_grader(spec("(a)", grader=EQUAL)).encode(Items([{"r": "a"}, {}], "items.jsonl"))


PIECES = [
    "Answer",
    "answer:",
    " ",
    "\n",
    "\r\n",
    "(",
    ")",
    "12",
    "٣",
    "-",
    "é",
    "E\u0301",
    "😀",
    "**",
]
PIECES += ["\x00", "\u05d0", "\u202e", "<a>", "</a>", "\ufffd", "x", ".", "1.5", "K\u212a"]
SPECS = [
    spec(r"answer\W*(-?\d+(?:\.\d+)?)", flags="i", grader=EQUAL),
    spec(r".*<a>(.*?)</a>", flags="s", grader=EQUAL),
    spec(r"\b[k-ÿ]+\b$", flags="im"),
    spec(r"(?:\W|(\w+?))*(\d+)?", mode="fullmatch", group=2, grader=EQUAL),
]


def differences(parity, count):
    rng = random.Random(count)
    found = []
    for fields in SPECS:
        grader = parity(fields, [{"r": r} for r in ("12", "x", "", "-1.5", "٣")])
        texts = ["".join(rng.choices(PIECES, k=rng.randint(0, 20))) for _ in range(count)]
        found += grader.differences([(text, rng.randrange(5)) for text in texts])
    return found


def test_generated_answers_are_graded_as_on_the_host(parity):
    assert differences(parity, 128) == []


@pytest.mark.slow
def test_twenty_thousand_answers_are_graded_as_on_the_host(parity):
    found = differences(parity, 5000)
    print(f"{4 * 5000} pairs: {len(found)} differences")
    assert found == []
