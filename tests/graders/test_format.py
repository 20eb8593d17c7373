"""`format` sees markers in their order, and documents that are JSON and nothing else."""

import random

import pytest

from rft_jax.graders import load_grader
from rft_jax.graders.types import HostSample
from rft_jax.strings import MAX_DEPTH
from rft_jax.utils.errors import InputError

MARKERS = ["<a>", "</a>", "é\n", "<a>"]


def spec(**fields):
    return {"type": "format", "name": "form", **fields}


@pytest.fixture(scope="module")
def marked(parity):
    return parity(spec(markers=MARKERS))


@pytest.mark.parametrize(
    "text, found",
    [
        ("<a>1</a>2é\n3<a>", 4),
        ("<a></a>é\n<a>", 4),
        ("</a><a>x</a>é\r\né\n<a>", 4),
        ("<a>1</a>2é\n", 3),
        ("<a></a>é", 2),
        ("<a></a>e\u0301\n<a>", 2),
        ("é\n</a><a>", 1),
        ("<a<a>/a>", 1),
        ("<A></A>é\n<A>", 0),
        ("", 0),
        ("\x00<a>\x00</a>😀é\n\u202e<a>", 4),
    ],
)
def test_markers_must_occur_in_order(marked, text, found):
    assert marked.scores(text) == [float(found == len(MARKERS))]
    details = marked.on_device([HostSample(text)], [0]).details
    assert details["form/markers"][0] == found


def test_markers_do_not_overlap(parity):
    assert parity(spec(markers=["aba", "aba"])).scores("ababa", "abaaba", "aba") == [0, 1, 0]


def test_json_only_refuses_anything_around_the_document(parity):
    texts = ['{"a": 1}', " [1]\r\n", "1", '```json\n{"a": 1}\n```', '{"a": 1} so', "", "{", "NaN"]
    assert parity(spec(json_only=True)).scores(*texts) == [1, 1, 1, 0, 0, 0, 0, 0]


def test_both_can_be_asked_for(parity):
    both = parity(spec(json_only=True, markers=['"why"', '"answer"']))
    texts = ['{"why": "", "answer": 1}', '{"answer": 1, "why": ""}', '"why" "answer"']
    assert both.scores(*texts) == [1, 0, 0]


def test_json_that_is_too_deep_cannot_be_judged(parity):
    both = parity(spec(json_only=True))
    deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert both.differences([(deep, 0)]) == []
    assert both.on_device([HostSample(deep)], [0]).errors["other_error"][0]


def generated(rng, count):
    pieces = [*MARKERS, "<a", ">", "</", "é", "\n", "\r\n", "e\u0301", "😀", "\x00", "a", "<<a>>"]
    return [("".join(rng.choices(pieces, k=rng.randint(0, 14))), 0) for _ in range(count)]


def test_generated_texts_are_graded_as_on_the_host(marked):
    assert marked.differences(generated(random.Random(0), 1000)) == []


@pytest.mark.slow
def test_twenty_thousand_texts_are_graded_as_on_the_host(marked):
    pairs = generated(random.Random(1), 20_000)
    differences = marked.differences(pairs)
    print(f"{len(pairs)} texts: {len(differences)} differences")
    assert differences == []


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "markers: is missing"),
        ({"json_only": False}, "markers: is missing"),
        ({"json_only": 1}, "json_only: must be true or false"),
        ({"markers": []}, "markers: must be a list of texts"),
        ({"markers": "a"}, "markers: must be a list of texts"),
        ({"markers": ["a", ""]}, r"markers\[1\]: must be a text"),
        ({"markers": [1]}, r"markers\[0\]: must be a text"),
        ({"markers": ["\ud800"]}, r"markers\[0\]: holds a lone surrogate"),
        ({"json_only": True, "regex": "a"}, "regex: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))
