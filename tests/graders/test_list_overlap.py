"""`list_overlap` compares lists as Python compares sets of normalized names."""

import json
import random

import pytest

from rft_jax.graders import load_grader
from rft_jax.graders.list_overlap import METRICS
from rft_jax.graders.types import HostSample, HostView, Items
from rft_jax.utils.errors import InputError

MAX_ITEMS = 8
REFERENCES = [
    [],
    ["A"],
    ["A", "a ", "B (x)"],
    ["Ünï", "STRASSE", "e\u0301", "😀", "", "a  b"],
    ["a", "b", "c", "d"],
]


def spec(metric="f1", **fields):
    return {
        "type": "list_overlap",
        "name": "codes",
        "input": "{{sample.output_json.x}}",
        "reference": "{{item.r}}",
        "metric": metric,
        "max_items": MAX_ITEMS,
        **fields,
    }


@pytest.fixture(scope="module")
def overlaps(parity):
    """By metric; each compiles when its device function is first used."""
    return {m: parity(spec(m), [{"r": names} for names in REFERENCES]) for m in METRICS}


def answer(names, ascii_only=False):
    return json.dumps({"x": names}, ensure_ascii=ascii_only)


@pytest.mark.parametrize(
    "names, item, precision, recall, f1, jaccard",
    [
        (["a"], 1, 1, 1, 1, 1),
        (["a", "b", "x", "y"], 4, 1 / 2, 1 / 2, 1 / 2, 1 / 3),
        (["b", "B", " b [y]"], 2, 1, 1 / 2, 2 / 3, 1 / 2),
        (["a"], 4, 1, 1 / 4, 2 / 5, 1 / 4),
        ([], 0, 1, 1, 1, 1),
        ([], 1, 0, 0, 0, 0),
        (["a"], 0, 0, 0, 0, 0),
        ([""], 3, 1, 1 / 6, 2 / 7, 1 / 6),
        (["x"], 1, 0, 0, 0, 0),
    ],
)
def test_metrics_follow_their_formulas(overlaps, names, item, precision, recall, f1, jaccard):
    view = HostView(HostSample(answer(names)))
    found = [b.grader.score_on_host(view, b.items, item).score for b in overlaps.values()]
    assert found == pytest.approx([precision, recall, f1, jaccard], abs=1e-6)
    assert overlaps["f1"].scores(answer(names), item=item) == pytest.approx([f1], abs=1e-6)


def test_what_is_no_list_of_strings_earns_nothing(overlaps):
    texts = [answer(x) for x in ("a", ["a", 1], [["a"]], {"a": 1}, None)]
    texts += ["", '{"x": ["a"]', '{"y": ["a"]}', '["a"]', answer(["a"] * (MAX_ITEMS + 1))]
    both = overlaps["f1"]
    assert both.scores(*texts, item=1) == [0] * len(texts)
    score = both.on_device([HostSample(text) for text in texts], [1] * len(texts))
    flags = {error: score.errors[error][: len(texts)].tolist() for error in score.errors}
    assert flags["sample_parse_error"] == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert flags["invalid_variable_error"] == [0, 0, 0, 0, 0, 0, 0, 1, 1, 0]


def test_an_answer_as_long_as_is_allowed_counts(overlaps):
    names = ["a", "b", *(f"x{k}" for k in range(MAX_ITEMS - 2))]
    assert overlaps["f1"].scores(answer(names), item=4) == pytest.approx([4 / (4 + MAX_ITEMS)])


def generated(rng, count):
    """Answers that share names with the reference, spelled in several ways."""
    others = ["x", "SCN1A (NaV1.1)", "日本", "\u202eb", "a\r\nb", "a\x00", '"', "\\", "c [d] (e)"]
    for _ in range(count):
        item = rng.randrange(len(REFERENCES))
        names = [rng.choice([*REFERENCES[item], *others]) for _ in range(rng.randint(0, 9))]
        forms = [str.upper, str.lower, "{} (y)".format, " {}\t".format, str]
        text = answer([rng.choice(forms)(name) for name in names], rng.random() < 0.5)
        text = text[: rng.randint(0, len(text))] if rng.random() < 0.05 else text
        if len(text.encode()) <= 256:
            yield text, item


def test_generated_lists_are_graded_as_on_the_host(overlaps):
    pairs = list(generated(random.Random(0), 300))
    assert overlaps["f1"].differences(pairs) == []


@pytest.mark.slow
def test_twenty_thousand_lists_are_graded_as_on_the_host(overlaps):
    pairs = list(generated(random.Random(1), 20_500))
    for metric, both in overlaps.items():
        differences = both.differences(pairs)
        print(f"{metric}: {len(pairs)} pairs, {len(differences)} differences")
        assert differences == []


@pytest.mark.parametrize("reference", ["a", ["a", 1], None, {"a": 1}])
def test_a_reference_that_is_no_list_of_strings_is_named(reference):
    with pytest.raises(InputError, match="items.jsonl, line 2: reference needs a list of strings"):
        load_grader(spec()).encode(Items([{"r": ["a"]}, {"r": reference}], "items.jsonl"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"metric": "dice"}, "metric: unknown metric 'dice'; use one of precision, recall"),
        ({"input": "{{sample.output_text}}"}, "input: must be one variable"),
        ({"reference": "a, b"}, "reference: must be one variable"),
        ({"max_items": 0}, "max_items: must be a whole number from 1"),
        ({"aliases": "{{item.a}}"}, "aliases: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))
