"""A grader gives the same grades on the device and on the host, and says where it runs."""

import json
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders import ERRORS, build_grader, grade_texts, load_grader
from rft_jax.graders.placement import explain, place
from rft_jax.graders.protocols import HostNode
from rft_jax.graders.types import HostSample, HostScore, Items
from rft_jax.strings import MAX_DEPTH
from rft_jax.utils.errors import InputError

N = 24
ITEM = {"gene": "SCN1A", "aliases": ["NaV1.1 (x)", "É [old]"], "text": 'a"\u00e9'}
RANK = {
    "type": "rank",
    "input": "{{sample.output_json.genes}}",
    "reference": "{{item.gene}}",
    "aliases": "{{item.aliases}}",
}


def check(operation, template="{{sample.output_json.x}}", reference="{{item.text}}"):
    return {
        "type": "string_check",
        "input": template,
        "reference": reference,
        "operation": operation,
    }


SPEC = {
    "type": "multi",
    "calculate_output": "rank + eq + 2 * ilike + 4 * ne - like / 3",
    "graders": {
        "rank": RANK,
        "eq": check("eq"),
        "ilike": check("ilike", "<{{sample.output_text}}>"),
        "ne": check("ne", "{{sample.output_json.x[0]}}{{ item.text }}"),
        "like": check("like", "{{sample.output_json}}", "e"),
    },
}
AWKWARD = [
    "",
    "{",
    "[]",
    "null",
    '{"x": NaN}',
    '{"x": "a\\"\\u00e9"}',
    '{"x": "\\ud800"}',
    '{"x": 1.50e+1, "x": [ 1 , "e\\u0301" ]}',
    '{"x": ["' + "9" * 180 + '"]}',
    '{"x": ' + "9" * 180 + "}",
    '{"genes": ["scn2a", "SCN1A (y)"], "x": {"a": [ ]}}',
    '{"genes": ["é", "é", "nav1.1"]}',
    '{"genes": []}',
    '{"genes": ["a", 1]}',
    '{"genes": ["a"]} x',
    "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    '{"x": ' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}",
    '\ufeff{"x": 1}',
    "A\u0308\u200f\r\n\x00É",
]
PIECES = st.sampled_from(
    ['{"x":', '{"genes":', '"', "[", "]", "}", ",", ":", " ", "\n", "é", "É", "a", "\\u00e9", "1"]
    + ["SCN1A", "scn1a ", "[SCN1A]", "NaV1.1", '"a"', "null", "-0.5e1", "\\", "e", "É [OLD]"]
)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "x": st.sampled_from(["a", 'a"é', 1, 2.5, None, ["é", {"e": []}], {"e": "\u00e9"}]),
        "genes": st.lists(st.sampled_from(["SCN1A", " scn1a", "é", "b (SCN1A)", "(é)"])),
    },
)


@pytest.fixture(scope="module")
def both():
    spec = load_grader(SPEC)
    return build_grader(spec), build_grader(spec, "host")


def assert_same(both, texts):
    device, host = (grade_texts(grader, texts, [ITEM] * len(texts)) for grader in both)
    np.testing.assert_array_equal(device.valid, host.valid)
    np.testing.assert_array_equal(device.reward, host.reward)
    assert device.errors.keys() == host.errors.keys() > set(ERRORS)
    for name, error in device.errors.items():
        np.testing.assert_array_equal(error, host.errors[name], name)
    for name, detail in device.details.items():
        keep = device.valid
        np.testing.assert_array_equal(detail[keep], host.details[name][keep], name)


def test_awkward_answers_earn_the_same(both):
    assert_same(both, AWKWARD)


@settings(max_examples=80)
@given(
    st.lists(
        st.one_of(
            st.lists(PIECES, max_size=14).map("".join),
            DOCUMENTS.map(json.dumps),
            DOCUMENTS.map(lambda document: json.dumps(document, indent=1, ensure_ascii=False)),
        ),
        max_size=N,
    )
)
def test_answers_earn_the_same_on_device_and_host(both, texts):
    assert_same(both, texts + [""] * (N - len(texts)))


@dataclass(frozen=True)
class Unlucky(HostNode):
    """A grader for the host only, which says what it was asked."""

    type_name = "unlucky"
    name: str = "unlucky"

    @classmethod
    def parse(cls, name, fields):
        raise NotImplementedError

    def check(self, items):
        if any("answer" not in row for row in items.rows):
            raise InputError("line 1: no answer")

    def open(self, options):
        return nullcontext(self)

    def grade_batch(self, samples, items, rows):
        scores = {
            "good": HostScore(0.25, details={"unlucky/length": 4.0}),
            "bad": HostScore(
                0, frozenset({"python_grader_runtime_error"}), {"unlucky/length": 3.0}, "oh"
            ),
            "gone": HostScore(
                0, frozenset({"python_grader_server_error"}), {"unlucky/length": 4.0}, "gone"
            ),
        }
        return [scores[sample.output_text] for sample in samples]


def test_a_grader_on_the_host_fails_sample_by_sample():
    grader = build_grader(Unlucky())
    grade = grade_texts(grader, ["good", "bad", "gone"], [{"answer": 1}] * 3)
    assert grade.reward.tolist() == [0.25, 0, 0]
    assert grade.valid.tolist() == [True, True, False]
    assert grade.errors["python_grader_runtime_error"].tolist() == [False, True, False]
    assert grade.errors["python_grader_server_error"].tolist() == [False, False, True]
    assert grade.details["unlucky/length"].tolist() == [4, 3, 4]
    with pytest.raises(InputError, match="no answer"):
        grade_texts(grader, ["good"], [{}])


def test_where_nobody_answered_there_are_details_all_the_same():
    grader = build_grader(load_grader(RANK), "host")
    samples = [HostSample("", has_answer=False), HostSample('{"genes": ["SCN1A"]}', overflow=True)]
    with grader.open_host() as host:
        found, _ = host.grade(samples, Items([ITEM], "items"), [0, 0])
    assert set(found["rank"].details) == {"rank/rank", "rank/list_length", "rank/malformed"}
    assert found["rank"].details["rank/malformed"].tolist() == [1, 0]
    assert grade_texts(grader, [], []).reward.shape == (0,)


def test_a_reward_that_is_not_finite_is_not_valid():
    @dataclass(frozen=True)
    class Broken(Unlucky):
        def grade_batch(self, samples, items, rows):
            return [HostScore(float(sample.output_text)) for sample in samples]

    grade = grade_texts(build_grader(Broken()), ["1", "inf", "nan"], [{"answer": 1}] * 3)
    assert grade.reward.tolist() == [1, 0, 0]
    assert grade.valid.tolist() == [True, False, False]
    assert grade.errors["other_error"].tolist() == [False, True, True]


def test_places_are_explained():
    spec = load_grader(SPEC)
    assert {line["runs_on"] for line in explain(place(spec, "auto"))} == {"device"}
    lines = list(explain(place(spec, "host")))
    assert [line["runs_on"] for line in lines] == ["device"] + ["host"] * 5
    assert [line["node"] for line in lines] == ["multi", "rank", "eq", "ilike", "ne", "like"]
    assert next(explain(place(Unlucky(), "auto")))["runs_on"] == "host"
    with pytest.raises(InputError, match="unlucky: unlucky runs on the host only"):
        place(Unlucky(), "device")
