"""A prompt shows the findings in one format, and never what gives the answer away."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.tasks.rare_disease import prompts
from rft_jax.tasks.rare_disease.phenopackets import Case, load_cases
from rft_jax.tasks.rare_disease.prompts import PromptOptions

PUBLIC_ARCHIVE = Path(__file__).parents[4] / "shared/data/phenopackets_public.zip"
SECRETS = ("GENEA", "HGNC:7", "PMID", "101", "patient_1", "c.3A>T", "HP:", "syndrome", "COHORT")
CASE = Case(
    case_id="PMID_101_patient_1",
    pmids=("PMID:101",),
    genes=("GENEA",),
    gene_ids=("HGNC:7",),
    variants=("NM_1.2:c.3A>T",),
    sex="female",
    age_years=6.4,
    age_note="",
    present=(("HP:1", "Pes planus"),),
    absent=(("HP:2", "Flat face"),),
)
TERMS = st.lists(
    st.integers(0, 99).map(lambda n: (f"HP:{n:07}", f"finding {n}")), max_size=40, unique=True
)


def text(case, **options):
    return prompts.case_messages(case, PromptOptions(**options))[-1]["content"]


def test_the_format():
    assert text(CASE) == "female, 6 years\npresent: Pes planus\nabsent: Flat face"
    assert text(CASE, present_only=True) == "female, 6 years\npresent: Pes planus"
    unknown = dataclasses.replace(CASE, sex="", age_years=None, absent=())
    assert text(unknown) == "patient\npresent: Pes planus"
    fetus = dataclasses.replace(CASE, age_years=None, age_note="fetus of 22 weeks")
    assert text(fetus).startswith("female, fetus of 22 weeks\n")


@pytest.mark.parametrize(
    ("years", "expected"),
    [
        (None, ""),
        (0.0, "newborn"),
        (27 / 365.25, "newborn"),
        (1 / 12, "1 month"),
        (1.5, "18 months"),
        (2.0, "2 years"),
        (6 + 11 / 12, "6 years"),
    ],
)
def test_ages_are_written_as_clinicians_do(years, expected):
    assert prompts.age_text(years) == expected


def test_instructions_are_a_developer_message_that_names_the_format():
    first, second = prompts.case_messages(CASE, PromptOptions(instructions=True))
    assert first["role"] == "developer"
    assert '{"explanation": "...", "genes": ["SYMBOL", ...]}' in first["content"]
    assert second == prompts.case_messages(CASE, PromptOptions())[0]


@pytest.mark.parametrize("instructions", [False, True])
def test_nothing_that_gives_the_answer_away(write_archive, make_packet, instructions):
    (case,) = load_cases(write_archive([make_packet(age={"age": {"iso8601duration": "P6Y"}})]))
    shown = json.dumps(prompts.case_messages(case, PromptOptions(instructions=instructions)))
    assert [secret for secret in SECRETS if secret.lower() in shown.lower()] == []
    row = prompts.item(case, PromptOptions())
    assert (row["gene"], row["case_id"], row["pmid"]) == ("GENEA", CASE.case_id, "PMID:101")


@given(TERMS, TERMS, st.randoms(use_true_random=False))
def test_the_files_order_plays_no_part(present, absent, rng):
    shuffled = [rng.sample(present, len(present)), rng.sample(absent, len(absent))]
    one = dataclasses.replace(CASE, present=tuple(present), absent=tuple(absent))
    two = dataclasses.replace(CASE, present=tuple(shuffled[0]), absent=tuple(shuffled[1]))
    assert text(one) == text(two)


def shown(content, kind):
    match = re.search(f"^{kind}: (.*)$", content, re.MULTILINE)
    return match[1].split("; ") if match and match[1] else []


@given(TERMS, TERMS, st.integers(1, 20), st.integers(0, 20))
def test_caps_hold_and_no_finding_is_both(present, absent, max_present, max_absent):
    case = dataclasses.replace(CASE, present=tuple(present), absent=tuple(absent))
    content = text(case, max_present=max_present, max_absent=max_absent)
    seen, missing = shown(content, "present"), shown(content, "absent")
    looked_for = {label for _, label in absent} - {label for _, label in present}
    assert len(set(seen)) == len(seen) == min(len(present), max_present)
    assert len(set(missing)) == len(missing) == min(len(looked_for), max_absent)
    assert set(seen) <= {label for _, label in present}
    assert set(missing) <= looked_for


def test_the_order_differs_between_cases():
    terms = tuple((f"HP:{n}", f"finding {n}") for n in range(12))
    cases = [dataclasses.replace(CASE, case_id=f"{n}", present=terms) for n in range(5)]
    assert len({text(case) for case in cases}) == 5


def test_the_answer_has_the_explanation_first():
    assert (
        prompts.answer("A fits.", ["A", "B"]) == '{"explanation": "A fits.", "genes": ["A", "B"]}'
    )


def test_the_grader_pays_by_rank_and_hardly_for_presence():
    grader = prompts.grader()
    assert json.loads(json.dumps(grader)) == grader
    assert grader["credit"][:3] == [1.0, 0.7, 0.5]
    assert grader["credit"] == sorted(grader["credit"], reverse=True)
    assert len(grader["credit"]) == grader["max_items"] == 20
    assert set(grader["credit"][10:]) == {0.05}


@pytest.mark.slow
@pytest.mark.skipif(not PUBLIC_ARCHIVE.exists(), reason="needs ../shared")
def test_no_public_prompt_names_its_gene_or_publication():
    options = PromptOptions(max_present=1000, max_absent=1000)
    for case in load_cases(PUBLIC_ARCHIVE):
        if case.scorable:
            content = prompts.case_messages(case, options)[0]["content"]
            words = set(re.findall(r"[\w-]+", content.lower()))
            assert case.gene.lower() not in words
            assert not any(pmid.removeprefix("PMID:") in words for pmid in case.pmids)
