"""What models and people really write is graded right, on the device and on the host.

The files in `data_files/cases` failed once; each stands for its kind.
"""

import json

import pytest

from rft_jax.config import HostOptions
from rft_jax.data import load_items, load_rows
from rft_jax.graders import Grader, Items, build_grader, grade_texts, load_grader
from rft_jax.graders.probe import probe, warnings
from rft_jax.graders.types import HostSample, HostView


@pytest.fixture(scope="module")
def cases(data_files):
    return data_files / "cases"


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize("name", ["choice", "price"])
def test_cases_earn_what_they_should(cases, name, placement):
    items, answers = (load_rows(cases / f"{name}_{what}.jsonl") for what in ("items", "answers"))
    grader = build_grader(cases / f"{name}_grader.json", placement)
    texts = [answer["output_text"] for answer in answers]
    grade = grade_texts(grader, texts, [items[answer["item"] - 1] for answer in answers])
    assert grade.reward.tolist() == [answer.get("expected", 1) for answer in answers]
    assert grade.valid.all()


def test_a_formula_whose_part_failed_on_the_answer_earns_nothing(cases):
    items = load_items(cases / "penalty_items.jsonl")
    texts = ['{"x": "yes"}', '{"x": "no"}', "no JSON", '{"y": "yes"}']
    grade = grade_texts(build_grader(cases / "penalty.json"), texts, items * len(texts))
    assert grade.reward.tolist() == [1, 0, 0, 0] and grade.valid.all()
    assert grade.errors["sample_parse_error"].tolist() == [False, False, True, False]
    assert grade.errors["invalid_variable_error"].tolist() == [False, False, False, True]


def test_both_orders_of_a_comparison_get_the_same_warnings(cases):
    items = Items(load_items(cases / "mcq_items.jsonl"), "mcq_items.jsonl")
    usual, swapped = (
        warnings(probe(build_grader(cases / f"mcq_{name}.json"), items))
        for name in ("usual", "swapped")
    )
    assert usual == swapped and any("commonest reference' earns 0.900" in s for s in usual)


def test_files_in_circulation_are_read(cases):
    assert load_grader(cases / "grader_bom.json").operation == "eq"
    (item,) = load_items(cases / "toolcall_null.jsonl")
    assert item["messages"][1]["content"] is None


LIST = {
    "type": "list_overlap",
    "metric": "f1",
    "input": "{{sample.output_json.a}}",
    "reference": "{{item.x}}",
}
RANK = {"type": "rank", "input": "{{sample.output_json.a}}", "reference": "{{item.x}}"}


@pytest.mark.parametrize(
    ("spec", "cases"),
    [
        (
            LIST,
            [
                ('{"a": ["Section 152(c)(1)"]}', ["Section 152(d)(2)(B)"], 0),
                ('{"a": ["Total (loan)"]}', ["Total (loan)", "Total (value)"], 2 / 3),
                ('```json\n{"a": ["wind"]}\n```', ["wind"], 1),
                ('<think>{"a": ["hail"]}?</think>So: {"a": ["wind"]}. Done.', ["wind"], 1),
                ('{"a": ["goodwill."]}', ["goodwill"], 1),
                ('{"a": "goodwill"}', ["goodwill"], 1),
                ('{"A": ["goodwill"]}', ["goodwill"], 1),
            ],
        ),
        (
            RANK,
            [
                ('{"a": ["Section 152(c)(1)"]}', "Section 152(d)(2)(B)", 0),
                ('Ranked:\n{"a": ["section 152(c)(1)"]}', "Section 152(c)(1)", 1),
            ],
        ),
    ],
)
def test_lists_of_law_and_finance(spec, cases):
    grader = load_grader(spec)  # as on the device: tests of both types hold the two together
    for text, reference, reward in cases:
        items = Items([{"x": reference}], "items.jsonl")
        score = grader.score_on_host(HostView(HostSample(text)), items, 0)
        assert score.score == pytest.approx(reward)


@pytest.fixture(scope="module", params=["domains", "more"])
def families(cases, request):
    """Texts with what they should earn by their graders: of four domains, and more of each kind."""
    specs = json.loads((cases / f"{request.param}_graders.json").read_text())
    rows = load_rows(cases / f"{request.param}.jsonl")
    return [(spec, [row for row in rows if row["grader"] == name]) for name, spec in specs.items()]


def test_texts_earn_what_they_should(families):
    for spec, rows in families:
        grader = load_grader(spec)
        items = Items([row["item"] for row in rows], "cases.jsonl")
        for n, row in enumerate(rows):
            score = grader.score_on_host(HostView(HostSample(row["text"])), items, n)
            assert score.score == pytest.approx(row["expected"]), row


@pytest.mark.slow
def test_texts_earn_what_they_should_on_the_device(families):
    for spec, rows in families:
        texts, items = ([row[part] for row in rows] for part in ("text", "item"))
        # What goes to the host for a verdict is not asked there: its reward is that of the device.
        grader = Grader(load_grader(spec), HostOptions())
        grade = grade_texts(grader, texts, items)
        assert grade.reward.tolist() == pytest.approx([row["expected"] for row in rows]), spec
        assert grade.valid.all()
