"""`python` graders: what is refused, what `grade` is handed, and who answers for what."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.config import HostOptions
from rft_jax.graders import HostSample, Items
from rft_jax.graders.host import PythonGrader
from rft_jax.graders.host.pool import _judge
from rft_jax.graders.host.python import SOURCE_BYTES
from rft_jax.graders.spec_reader import Fields
from rft_jax.utils.errors import InputError

GRADE = "def grade(sample, item):\n    return 1.0\n"
# What is graded here is harmless, so that these tests need no sandbox.
OPTIONS = HostOptions(2, 10, sandbox=False)


def parse(**fields):
    return PythonGrader.parse("g", Fields({"type": "python", **fields}, "g.json", "", None))


def grade(source, texts, rows):
    with parse(source=source).open(OPTIONS) as session:
        return session.grade_batch(
            [HostSample(text) for text in texts], Items(rows, "rows.jsonl"), range(len(rows))
        )


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("x = 1", "defines no function grade"),
        ("def grade(sample):\n    return 1", "line 1: grade must take two arguments"),
        ("def grade(sample, item, more):\n    return 1", "two arguments"),
        ("def grade(sample, *item):\n    return 1", "two arguments"),
        ("def grade(sample, item, *, more=1):\n    return 1", "two arguments"),
        ("async def grade(sample, item):\n    return 1", "must not be async"),
        ("\ndef grade(sample, item)\n    return 1", "line 2: expected ':'"),
        (GRADE + "return 1", "line 3: 'return' outside function"),
        ("x = '\0'", "cannot parse|null bytes"),
        ("(" * 10_000, "too many nested|cannot parse"),
        (GRADE + "#" * SOURCE_BYTES, "has 256 kB or more"),
    ],
)
def test_a_source_that_cannot_grade_is_refused(source, sentence):
    with pytest.raises(InputError, match=f"^g.json: source: .*({sentence})"):
        parse(source=source)


def test_other_fields_are_refused():
    assert parse(source=GRADE, image_tag="2025-05-08", pass_threshold=0.5).source == GRADE
    with pytest.raises(InputError, match="^g.json: timeout: unknown field"):
        parse(source=GRADE, timeout=3)
    with pytest.raises(InputError, match="^g.json: source: is missing"):
        parse()


def test_a_row_that_json_cannot_hold_is_named():
    with pytest.raises(InputError, match="^rows.jsonl, line 2: .*bytes is not JSON serializable"):
        parse(source=GRADE).check(Items([{"x": 1}, {"x": b""}], "rows.jsonl"))


SHOW = """
import json
def grade(sample, item):
    raise ValueError(json.dumps([sample, item], sort_keys=True))
"""


def test_grade_gets_what_openai_hands_it():
    item = {"messages": [{"role": "user", "content": "é"}], "answer": [1, None, "\ud800"]}
    message = grade(SHOW, ['{"a": [1.5, "x"]}'], [item])[0].message
    sample, given_item = json.loads(message.split("ValueError: ")[1])
    assert given_item == item
    assert sample == {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": '{"a": [1.5, "x"]}'},
                "finish_reason": "stop",
            }
        ],
        "output_text": '{"a": [1.5, "x"]}',
        "output_json": {"a": [1.5, "x"]},
        "output_tools": [],
        "output_audio": None,
    }


def test_output_json_of_other_text_is_none():
    source = "def grade(sample, item):\n    return sample['output_json'] is None\n"
    scores = grade(source, ["not JSON", "", "NaN", "null", "0"], [{}] * 5)
    assert [score.score for score in scores] == [1, 1, 1, 1, 0]


def test_scores_keep_the_samples_order():
    source = "def grade(sample, item):\n    return item['n'] + len(sample['output_text'])\n"
    scores = grade(source, ["x" * n for n in range(20)], [{"n": 100 * n} for n in range(20)])
    assert [score.score for score in scores] == [101 * n for n in range(20)]
    assert all(score.details["g/seconds"] > 0 for score in scores)


def test_requests_larger_than_a_pipe_are_graded():
    source = "def grade(sample, item):\n    return len(item['text']) + len(sample['output_text'])\n"
    size = 1 << 21
    assert grade(source, ["x" * size], [{"text": "y" * size}])[0].score == 2 * size


def test_libraries_that_the_source_names_are_loaded_ahead():
    source = """
import sys
AHEAD = "numpy" in sys.modules and "html.parser" in sys.modules
def grade(sample, item):
    import numpy
    from html.parser import HTMLParser
    return AHEAD
"""
    assert grade(source, [""], [{}])[0].score == 1


def test_the_source_is_run_anew_for_every_sample():
    source = """
from dataclasses import dataclass
COUNT = []
@dataclass
class Score:
    value: float
def grade(sample, item):
    COUNT.append(1)
    return Score(len(COUNT)).value
"""
    assert [score.score for score in grade(source, [""] * 6, [{}] * 6)] == [1] * 6


@given(
    st.one_of(
        st.text(st.characters(max_codepoint=255)),
        st.dictionaries(st.sampled_from(["score", "error", "x"]), st.floats() | st.integers()).map(
            json.dumps
        ),
    ),
    st.sampled_from(["whole", "silent", "timeout", "too long", None]),
)
def test_whatever_the_fork_wrote_comes_to_a_score_or_an_error(reply, end):
    outcome = _judge({"end": end, "reply": reply, "status": 0, "seconds": 0.1}, 1.0)
    assert abs(outcome.score) < 3.5e38
    assert (outcome.error == "") == (outcome.message == "")
    assert not outcome.error or outcome.score == 0
