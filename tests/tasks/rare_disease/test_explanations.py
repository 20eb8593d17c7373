"""Explanations are held against the patient, the list, and the annotations."""

import json

import pytest

from rft_jax.tasks.rare_disease import explanations
from rft_jax.tasks.rare_disease.explanations import judge, judge_cases

ANNOTATED = {"GENEA": {"Blue skin", "Pits and fissures"}, "GENEB": {"Green eye"}}
PRESENT = {"Blue skin", "Pits and fissures", "Green eye"}


def answer(explanation, *genes):
    return json.dumps({"genes": genes, "explanation": explanation})


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (answer("GENEA fits Blue skin.", "GENEA", "GENEB"), "holds"),
        (answer("GENEA fits Blue skin and Pits and fissures.", "GENEA"), "holds"),
        (answer("GENEA fits Pits and fissures and Blue skin.", "GENEA"), "holds"),
        (answer("GENEA fits Blue skin and Green eye.", "GENEA"), "not_annotated"),
        (answer("GENEC fits Blue skin.", "GENEC"), "not_annotated"),
        (answer("GENEA fits Thick skin.", "GENEA"), "not_of_patient"),
        (answer("GENEA fits Blue skin and Thick skin.", "GENEA"), "not_of_patient"),
        (answer("GENEB fits Green eye.", "GENEA", "GENEB"), "other_gene"),
        (answer("No finding points to GENEA.", "GENEA"), "names_nothing"),
        (answer("GENEA fits .", "GENEA"), "names_nothing"),
        (answer("GENEA fits the findings best.", "GENEA"), "names_nothing"),
        (answer("GENEA fits Blue skin."), "names_nothing"),
        ("GENEA fits Blue skin.", "names_nothing"),
        ("[1]", "names_nothing"),
    ],
)
def test_a_verdict(text, verdict):
    assert judge(text, PRESENT, ANNOTATED) == verdict


def test_cases_of_a_run_are_counted_by_model(tmp_path, monkeypatch, capsys):
    prompt = [{"role": "user", "content": "female\npresent: Blue skin; Green eye\nabsent: x"}]
    cases = [
        {"model": model, "prompt": prompt, "answer": answer(text, "GENEA")}
        for model, text in (
            ("one", "GENEA fits Blue skin."),
            ("one", "GENEA fits Green eye."),
            ("two", "GENEA fits x."),
        )
    ]
    assert judge_cases(cases, ANNOTATED) == {
        "one": {"holds": 1, "not_annotated": 1},
        "two": {"not_of_patient": 1},
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "seen").mkdir()
    rows = [{"gene": gene, "findings": sorted(of)} for gene, of in ANNOTATED.items()]
    for file, lines in (("data/annotated.jsonl", rows), ("seen/cases.jsonl", cases)):
        (tmp_path / file).write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    arguments = ["explanations", "--workdir", str(tmp_path), "--stage", "seen"]
    monkeypatch.setattr("sys.argv", arguments)
    explanations.main()
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        {"model": "one", "answers": 2, "holds": 0.5, "not_annotated": 0.5},
        {"model": "two", "answers": 1, "not_of_patient": 1.0},
    ]
