"""Perils and coverage: made-up files in the releases' layouts, and the real ones where they are."""

import json
from pathlib import Path

import pytest

from rft_jax import build_grader, grade_texts
from rft_jax.grammars import read_response_format
from rft_jax.tasks.insurance import coverage, perils
from rft_jax.tasks.insurance.logistic import fit
from rft_jax.utils.errors import InputError

from .made_up import NOTES, write_lgpif, write_vague_contracts

REAL = Path(__file__).parents[3] / "shared/data/domains/insurance"


@pytest.fixture
def lgpif(tmp_path):
    return write_lgpif(tmp_path / "LDAVer2")


def prompts(rows):
    sent = [message for row in rows for message in row["messages"]]
    return {message["content"].lower() for message in sent if message["role"] == "user"}


@pytest.mark.parametrize("instructions", [False, True])
def test_no_note_is_on_two_sides(lgpif, instructions):
    # Every note also stands in capitals, and in a longer one whose copies can come out as it.
    path = lgpif / "Data" / "peril.training.csv"
    header, *lines = path.read_text().splitlines()
    longer = [line.replace('      "', ' today"') for line in lines]
    capitals = [line.upper() for line in lines]
    path.write_text("\n".join([header, *lines, *longer, *capitals]) + "\n")
    data = perils.PerilsData(valid_notes=2, copies=20, word_dropout=0.5, instructions=instructions)
    rows = data.rows(lgpif)
    held_out = prompts(rows["valid"]) | prompts(rows["test"])
    assert prompts(rows["test"]) == {"hail damage", "bus hit pole"} and len(held_out) == 4
    for name in ("train", "answers", "supervised"):
        assert not prompts(rows[name]) & held_out
    assert len(prompts(rows["train"])) > len(prompts(rows["answers"])) == 15


def test_worked_answers_are_right(lgpif):
    rows = perils.PerilsData(valid_notes=2, labeled=4).rows(lgpif)
    right = {item["messages"][0]["content"]: item["peril"] for item in rows["train"]}
    for name, count, listed in (("supervised", 4, 3), ("answers", 6, 1)):
        assert len(rows[name]) == count
        for user, assistant in (row["messages"] for row in rows[name]):
            named = json.loads(assistant["content"])["perils"]
            assert named[0] == right[user["content"]] and len(set(named)) == listed


def test_copies_lack_words(lgpif):
    plain = perils.PerilsData(valid_notes=2, labeled=4).rows(lgpif)
    rows = perils.PerilsData(valid_notes=2, labeled=4, copies=3, word_dropout=0.5).rows(lgpif)
    assert rows["valid"] == plain["valid"] and rows["test"] == plain["test"]
    assert rows["supervised"] == plain["supervised"] and rows["answers"] == plain["answers"]
    whole = {item["note"]: item["peril"] for item in plain["train"]}
    assert len(rows["train"]) > len(whole) == 6
    for item in rows["train"]:
        words = item["messages"][0]["content"].split()
        assert words and set(words) <= set(item["note"].split())
        assert item["peril"] == whole[item["note"]]
    with pytest.raises(InputError, match=r"data\.word_dropout"):
        perils.PerilsData(valid_notes=2, word_dropout=1).rows(lgpif)


def test_perils_grader():
    grader = build_grader(perils.grader())
    texts = [perils.answer(p) for p in (["Hail"], ["Fire", "Hail"], ["Fire", "Wind", "Hail"])]
    texts += [perils.answer(["Fire", "Wind", "Misc", "Hail"]), "Hail"]
    grade = grade_texts(grader, texts, [{"peril": "Hail"}] * len(texts))
    assert grade.reward.tolist() == [1, 0.5, 0.25, 0, 0]
    official = grade_texts(
        build_grader(perils.official_grader(), "host"), texts, [{"peril": "Hail"}] * 5
    )
    assert official.reward.tolist() == [1, 0, 0, 0, 0]


def test_the_schema_of_perils_can_be_a_grammar():
    assert read_response_format(perils.response_format()) is not None


def test_logistic_regression_learns_words():
    rank = fit([(note, peril) for peril, of in NOTES.items() for note in of])
    assert [labels[0] for labels in rank(["hail storm", "car at school hit sign"])] == [
        "Hail",
        "Vehicle",
    ]


def test_a_row_with_two_perils_is_refused(lgpif):
    path = lgpif / "Data" / "peril.training.csv"
    path.write_text(path.read_text().replace("0,0,1,0", "1,0,1,0", 1))
    with pytest.raises(InputError, match=r"peril.training.csv, line 2: has 2 perils"):
        perils.PerilsData().rows(lgpif)


def test_a_run_reads_what_is_written(lgpif, tmp_path):
    data = perils.PerilsData(release=str(lgpif), valid_notes=2, labeled=3)
    files = data.materialize(tmp_path / "data")
    assert len(Path(files.train).read_text().splitlines()) == 6
    assert "Lightning" in Path(files.symbols).read_text().splitlines()
    baseline = (tmp_path / "data" / "test.logistic.jsonl").read_text().splitlines()
    assert len(baseline) == 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "data.release: is empty"),
        ({"release": "nowhere"}, "data.release: nowhere is no folder"),
        ({"release": ".", "train": "mine.jsonl"}, "data.train: this task makes the file"),
        ({"release": "."}, "peril.validation.csv: cannot be read"),
    ],
)
def test_what_is_no_release_is_refused(settings, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        perils.PerilsData(**settings).materialize(tmp_path / "data")


@pytest.mark.parametrize(
    ("yes", "no", "unclear", "label"),
    [(22, 0, 0, "yes"), (24, 7, 4, "unclear"), (2, 30, 1, "no"), (17, 3, 1, "yes")],
)
def test_legalbench_label(yes, no, unclear, label):
    counts = {"yes": yes, "no": no, "unclear": unclear}
    assert coverage.legalbench_label(counts) == label


@pytest.fixture
def vague_contracts(tmp_path):
    return write_vague_contracts(tmp_path / "vague")


def test_versions_of_a_clause_stay_together(vague_contracts):
    rows = coverage.CoverageData(valid_titles=1).rows(vague_contracts)
    assert [len(rows[name]) for name in ("train", "valid", "answers")] == [6, 3, 6]
    assert not {r["title"] for r in rows["train"]} & {r["title"] for r in rows["valid"]}
    assert 'Covers "x".' in rows["train"][0]["messages"][-1]["content"]


def test_what_most_readers_say_earns_all(vague_contracts):
    items = coverage.CoverageData().items(vague_contracts)
    grader = build_grader(coverage.grader())
    grade = grade_texts(grader, [coverage.right_answer(item) for item in items], items)
    assert grade.reward == pytest.approx(1, abs=1e-5)
    always = grade_texts(grader, ['{"covered": "yes", "share_yes": 0.5}'] * len(items), items)
    assert always.reward[0] == pytest.approx(
        0.7 + 0.3 * (1 - (0.1857 - 0.02) / (0.4 - 0.02)), abs=1e-3
    )


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared")
def test_the_real_files():
    items = coverage.CoverageData().items(REAL / "vague_contracts")
    labels = [item["legalbench"] for item in items]
    assert [labels.count(label) for label in ("yes", "no", "unclear")] == [50, 32, 56]
    rows = perils.PerilsData(copies=1).rows(REAL / "lgpif")
    held_out = prompts(rows["valid"]) | prompts(rows["test"])
    assert len(rows["test"]) == 1039 and not prompts(rows["train"]) & held_out
    first = [json.loads(row["output_text"])["perils"][0] for row in rows["test.logistic"]]
    right = [item["peril"] for item in rows["test"]]
    assert sum(a == b for a, b in zip(first, right, strict=True)) / 1039 > 0.8
