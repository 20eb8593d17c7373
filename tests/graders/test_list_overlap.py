"""`list_overlap` compares lists as Python compares sets of normalized names."""

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders import build_grader, grade_texts, load_grader
from rft_jax.graders.host.list_overlap import aligned_f1
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
    ["$1,496.5", "-12.6", "HP:0001", "007", "2"],
]


def spec(metric="f1", **fields):
    return {
        "type": "list_overlap",
        "name": "codes",
        "input": "{{sample.output_json.x}}",
        "reference": "{{item.r}}",
        "metric": metric,
        "max_items": MAX_ITEMS,
        "normalize": "names",
        **fields,
    }


@pytest.fixture(scope="module")
def overlaps(parity):
    """By metric; each compiles when its device function is first used."""
    return {m: parity(spec(m), [{"r": names} for names in REFERENCES]) for m in METRICS}


EQUAL = [
    ("case", "Section 152(c)(1)", ["Section 152(d)(2)(B)"], 0),
    ("case", "section 152(C)(1). ", ["Section 152(c)(1)"], 1),
    ("case", "$(9,999)", ["$(20,597)"], 0),
    ("case", "20,597", ["(20,597)"], 0),
    ("case", "Total (loan)", ["Total (loan)", "Total (value)"], 2 / 3),
    ("case", "goodwill.", ["Goodwill"], 1),
    ("case", "?", ["!"], 0),
    ("none", "goodwill", ["Goodwill"], 0),
    ("none", " a ", [" a "], 1),
    ("none", "a", ["a", " A.", "(é)", "a(1)", "?", ""], 2 / 7),
]


@pytest.fixture(scope="module")
def by_form(parity):
    items = [{"r": reference} for _, _, reference, _ in EQUAL]
    return {form: parity(spec(normalize=form), items, rows=8) for form in ("case", "none")}


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
    texts = [answer(x) for x in (5, ["a", 1], [["a"]], {"a": 1}, None)]
    texts += ["", '{"x": ["a"]', '{"y": ["a"]}', '["a"]', answer(["a"] * (MAX_ITEMS + 1))]
    both = overlaps["f1"]
    assert both.scores(*texts, item=1) == [0] * len(texts)
    score = both.on_device([HostSample(text) for text in texts], [1] * len(texts))
    flags = {error: score.errors[error][: len(texts)].tolist() for error in score.errors}
    assert flags["sample_parse_error"] == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert flags["invalid_variable_error"] == [0, 0, 0, 0, 0, 0, 0, 1, 1, 0]


def test_what_is_equal_is_asked_for(by_form):
    for number, (form, name, _, score) in enumerate(EQUAL):
        assert by_form[form].scores(answer([name]), item=number) == pytest.approx([score])
    assert by_form["case"].scores(json.dumps({"x": "goodwill"}), item=5) == [1]  # a lone string


def tokens(**fields):
    own = {key: value for key, value in spec().items() if key != "normalize"}
    return {**own, "entries": "tokens", **fields}


@pytest.mark.parametrize(
    "names, reference, score",
    [
        (["the wind"], ["Wind."], 1),
        (["wind damage"], ["wind"], 2 / 3),
        (["well-known risk"], ["Well known risk"], 1),
        (["hail", "wind"], ["wind", "hail"], 1),
        (["wind"], ["wind", "hail"], 1 / 2),
        (["5 claims"], ["5.0 claims"], 1),
        (["4 claims"], ["5 claims"], 0),
        ([], [], 1),
        (["x"], [], 0),
    ],
)
def test_entries_are_compared_by_their_tokens(names, reference, score):
    grade = grade_texts(build_grader(tokens()), [answer(names)], [{"r": reference}])
    assert grade.reward[0] == pytest.approx(score)


WORDS = st.lists(st.sampled_from(["a", "b c", "b", "c 1", "1", "2 b", ""]), max_size=4)


@given(WORDS, WORDS)
def test_the_alignment_is_the_best_of_all(names, reference):
    longer, shorter = sorted((names, reference), key=len, reverse=True)
    pairs = [
        [(x, y) if longer is names else (y, x) for x, y in zip(order, shorter, strict=False)]
        for order in itertools.permutations(longer)
    ]
    best = max(sum(aligned_f1([x], [y]) for x, y in way) for way in pairs)
    expected = best / len(longer) if longer else 1
    assert aligned_f1(names, reference) == pytest.approx(expected)


def test_tokens_have_one_metric_and_no_form():
    with pytest.raises(InputError, match='metric: must be "f1" with entries "tokens"'):
        load_grader(tokens(metric="recall"))
    with pytest.raises(InputError, match="normalize: unknown field"):
        load_grader(tokens(normalize="case"))


def test_references_that_a_form_makes_equal_are_refused():
    items = Items([{"r": ["a", "A (x)"]}, {"r": ["Total (loan)", "Total (value)"]}], "i.jsonl")
    with pytest.raises(InputError, match=r"i.jsonl, line 1: .* same without their brackets; set"):
        load_grader(spec()).encode(items)
    load_grader(spec(normalize="case")).encode(items)


@settings(max_examples=60)
@given(st.lists(st.lists(st.text("aA1é().:? \t", max_size=5), max_size=4), min_size=1, max_size=8))
def test_any_names_are_compared_as_on_the_host(by_form, rows):
    last = len(EQUAL) - 1
    for own in by_form.values():
        assert own.differences([(answer(names), last) for names in rows]) == []


@pytest.mark.parametrize(
    "names, found",
    [
        (["$1496.5"], 1),
        (["1,496.50", "1496.5"], 1),
        (["(12.6)", "12.6"], 1),
        (["HP:1", "7", "07"], 0),
        (["hp:0001", "007", "2.0", "(2)"], 3),
        (["2 m", "x = 2", "1"], 0),
    ],
)
def test_numbers_are_equal_by_value(overlaps, names, found):
    view = HostView(HostSample(answer(names)))
    both = overlaps["recall"]
    assert both.grader.score_on_host(view, both.items, 5).score == pytest.approx(found / 5)


def test_an_answer_as_long_as_is_allowed_counts(overlaps):
    names = ["a", "b", *(f"x{k}" for k in range(MAX_ITEMS - 2))]
    assert overlaps["f1"].scores(answer(names), item=4) == pytest.approx([4 / (4 + MAX_ITEMS)])


def generated(rng, count):
    """Answers that share names with the reference, spelled in several ways."""
    others = ["1496.5", "(12.6)", "12.60", "7", "0.5", "1/2", "HP:1", "-12.6", "\uff12", "2"]
    others += ["x", "SCN1A (NaV1.1)", "日本", "\u202eb", "a\r\nb", "a\x00", '"', "\\", "c [d] (e)"]
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
