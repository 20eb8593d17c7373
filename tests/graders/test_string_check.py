"""`string_check` compares JSON values as values, on the device as on the host."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

VALUES = [1, 0.1, "1", "é", None, True, ["é", {"e": []}], {"e": "é", "f": 2}, [], {}, "", -3e10]
SPEC = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_json.x}}",
    "reference": "{{item.r}}",
}


@pytest.fixture(scope="module")
def same(parity):
    return parity(SPEC, [{"r": value} for value in VALUES], width=64, rows=32)


def test_equal_values_are_equal_however_they_are_spelled(same):
    spelled = {
        0: ["1", "1.0", "10e-1", '"1"'],
        1: ["0.10", "1E-1", "0.1"],
        2: ['"\\u0031"', "1"],
        3: ['"\\u00e9"', '"é"'],
        6: ['[ "\\u00e9" , {"e": [ ]} ]'],
        7: ['{"f": 2.0, "e": "\\u00e9"}'],
        11: ["-30000000000", "-3e10", "-0.3E+11"],
    }
    for item, texts in spelled.items():
        assert same.scores(*[f'{{"x": {text}}}' for text in texts], item=item) == [1] * len(texts)
    for item, text in ((0, "true"), (5, "1"), (5, '"True"'), (8, "{}"), (6, '["é"]'), (4, "0")):
        assert same.scores(f'{{"x": {text}}}', item=item) == [0]


TEXTS = st.one_of(
    st.sampled_from(VALUES).map(json.dumps),
    st.sampled_from(VALUES).map(lambda value: json.dumps(value, ensure_ascii=False)),
    st.lists(st.sampled_from(['"', "1", "0", ".", "e", "-", "[", "]", "\\u00e9", "é"]), max_size=6)
    .map("".join),
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXTS, st.integers(0, len(VALUES) - 1)), min_size=1, max_size=32))
def test_any_value_is_compared_as_on_the_host(same, pairs):
    assert same.differences([(f'{{"x": {text}}}', item) for text, item in pairs]) == []
