"""SARA: made-up cases in the release's layout, and the real ones where they are."""

from pathlib import Path

import pytest

from rft_jax import build_grader, grade_texts
from rft_jax.tasks.law import sara
from rft_jax.utils.errors import InputError

from .made_up import CASE, CASES, write_sara

REAL = Path(__file__).parents[3] / "shared/data/domains/law"


@pytest.fixture
def release(tmp_path):
    return write_sara(tmp_path)


def test_cases_and_split(release):
    rows = sara.SaraData().rows(release)
    assert {item["case"] for item in rows["valid"]} == {"tax_case_2", "s63_b_pos"}
    by_name = {item["case"]: item for item in (*rows["train"], *rows["valid"])}
    assert by_name["tax_case_1"]["amount"] == 6512
    assert by_name["s151_a_neg"]["label"] == "Contradiction"
    assert rows["answers"][0]["messages"][-1]["content"].startswith("Answer: ")


def test_the_split_of_the_repositorys_history(release):
    (release / "splits" / "test").unlink()
    (release / "dataset").mkdir()
    text, question = CASES["s63_b_pos"]
    asked = question.removesuffix(" Entailment")
    (release / "dataset" / "test.tsv").write_text(f"{text}\t{asked}\tEntailment\n")
    assert [item["case"] for item in sara.SaraData().rows(release)["valid"]] == ["s63_b_pos"]


@pytest.mark.parametrize(
    ("statutes", "sum_has", "statement_has"),
    [("cited", {63, 151}, {151}), ("all", {63, 151}, {63, 151}), ("none", set(), set())],
)
def test_statutes_in_the_prompt(release, statutes, sum_has, statement_has):
    rows = sara.SaraData(statutes=statutes).rows(release)
    prompts = {item["case"]: item["messages"][-1]["content"] for item in rows["train"]}

    def shown(case):
        return {number for number in (63, 151) if f"Law of {number}" in prompts[case]}

    assert shown("tax_case_1") == sum_has and shown("s151_a_pos") == statement_has


def test_the_right_answer_is_not_in_the_prompt(release):
    rows = sara.SaraData(instructions=False).rows(release)
    for item in (*rows["train"], *rows["valid"]):
        prompt = item["messages"][-1]["content"]
        assert sara.right_answer(item) not in prompt and "x(y)" not in prompt


def test_graders(release):
    item = {"kind": "sum", "amount": 20000, "label": ""}
    texts = [f"Answer: {amount}" for amount in ("$20,000", "$20,500", "$24,000", "$26,000", "0")]
    paid = grade_texts(build_grader(sara.grader()), texts, [item] * 5).reward
    assert paid == pytest.approx([1, 0.3 * (1 - 499 / 1999), 0, 0, 0], abs=1e-2)
    official = grade_texts(build_grader(sara.official_grader()), texts, [item] * 5).reward
    assert official.tolist() == [1, 1, 1, 0, 0]
    statement = {"kind": "statement", "label": "Entailment", "amount": 0}
    texts = ["Answer: entailment", "Answer: Contradiction", "I cannot say"]
    assert grade_texts(build_grader(sara.grader()), texts, [statement] * 3).reward.tolist() == [
        1,
        0,
        0,
    ]


def test_a_citation_is_left_out_and_asked_for(release):
    rows = sara.SaraData(kinds="citation").rows(release)
    assert [item["case"] for item in rows["valid"]] == ["s63_b_pos"]
    items = [*rows["train"], *rows["valid"]]
    found = {(item["section"], item["subsection"], item["parent"]) for item in items}
    assert found == {("151", "(a)", "(a)"), ("63", "(b)", "(b)")}
    for item in items:
        prompt = item["messages"][-1]["content"]
        assert "ection ___" in prompt and "Law of 63" in prompt and "Law of 151" in prompt
        assert item["subsection"] not in prompt
    assert rows["answers"][0]["messages"][-1]["content"] == sara.right_answer(rows["train"][0])


def test_what_a_citation_earns():
    item = {"kind": "citation", "section": "152", "subsection": "(d)(2)(B)", "parent": "(d)(2)"}
    rows = [
        (sara.right_answer(item), 1, 1),
        ('{"section": "152", "subsection": "(d)(2)"}', 0.5, 0),
        ('{"section": "152", "subsection": "(c)(1)"}', 0.2, 0),
        ('{"section": "151", "subsection": "(d)(2)(B)"}', 0, 0),
        ('{"section": "152, 151", "subsection": "(d)(2)(B) or (d)(2)"}', 0, 0),
        ("152(d)(2)(B)", 0, 0),
    ]
    texts = [row[0] for row in rows]
    for grader, column in ((sara.citation_grader(), 1), (sara.official_citation_grader(), 2)):
        paid = grade_texts(build_grader(grader, "host"), texts, [item] * len(rows)).reward
        assert paid == pytest.approx([row[column] for row in rows])
    top = item | {"subsection": "(d)", "parent": "(d)"}  # has no level above
    texts = ['{"section": "152", "subsection": "(d)"}', '{"section": "152", "subsection": ""}']
    paid = grade_texts(build_grader(sara.citation_grader(), "host"), texts, [top] * 2).reward
    assert paid == pytest.approx([1, 0.2])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tax_case_3", "nothing", "has no '% Text'"),
        ("tax_case_3", CASE.format(text="x", question="How much?"), "does not end with an amount"),
        ("s9_x_pos", CASE.format(text="x", question="It holds. Entailment"), "of a known section"),
    ],
)
def test_a_damaged_case_is_named(release, name, content, says):
    (release / "cases" / f"{name}.pl").write_text(content)
    with pytest.raises(InputError, match=rf"{name}.pl: .*{says}"):
        sara.SaraData().rows(release)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared")
def test_the_real_files():
    rows = sara.SaraData().rows(REAL)
    kinds = {
        name: [sum(i["kind"] == kind for i in rows[name]) for kind in ("sum", "statement")]
        for name in ("train", "valid")
    }
    assert kinds == {"train": [80, 176], "valid": [20, 100]}
    items = [*rows["train"], *rows["valid"]]
    answers = [f"Answer: {sara.right_answer(item)}" for item in items]
    assert grade_texts(build_grader(sara.grader()), answers, items).reward.tolist() == [1] * 376
    cited = sara.SaraData(kinds="citation").rows(REAL)
    assert [len(cited[name]) for name in ("train", "valid")] == [176, 98]
    zero = grade_texts(build_grader(sara.official_grader()), ["Answer: $0"] * 376, items).reward
    assert zero.sum() in range(20, 27)  # always 0 passes SARA's criterion on a quarter of the sums
