"""TAT-QA: a made-up context in the release's layout, the official metric, the real files."""

import json
from pathlib import Path

import pytest

from rft_jax import build_grader, grade_texts
from rft_jax.tasks.finance import official, tatqa
from rft_jax.utils.errors import InputError

from .made_up import CONTEXT, write_tatqa

REAL = Path(__file__).parents[3] / "shared/data/domains/finance"


@pytest.fixture
def release(tmp_path):
    return write_tatqa(tmp_path)


@pytest.mark.parametrize(("source", "train"), [("train", 3), ("dev", 3)])
def test_contexts_stay_together(release, source, train):
    rows = tatqa.TatqaData(source=source, valid_contexts=1).rows(release)
    contexts = {name: {item["context"] for item in rows[name]} for name in ("train", "valid")}
    assert len(contexts["train"]) == train and len(contexts["valid"]) == 1
    assert not contexts["train"] & contexts["valid"]


def test_prompt_has_table_and_text_in_order():
    (item, *_) = tatqa.TatqaData(instructions=False).items(CONTEXT)
    expected = " | 2019\nSales | $1,496.5\n\nFirst.\nSecond.\n\nQuestion: What of change?"
    assert item["messages"] == [{"role": "user", "content": expected}]


ITEMS = {item["uid"]: item for item in tatqa.TatqaData().items(CONTEXT)}


def test_grader():
    rows = [
        ("change", ["-12.6"], "million", 1),
        ("change", ["(12.6)"], "million", 1),
        ("change", ["12.6"], "million", 0),
        ("change", ["-12.6"], "", 0.3),
        ("change", ["-12.3"], "million", 0.3 * (1 - (0.3 - 0.005) / (0.63 - 0.005))),
        ("ratio", ["22.22"], "percent", 1),
        ("ratio", ["22.22%"], "percent", 1),
        ("ratio", ["0.2222"], "", 0.3),
        ("years", ["2"], "", 1),
        ("sales", ["$1,496.5"], "million", 1),
        ("types", ["cost-plus type", "fixed-price type"], "", 1),
        ("types", ["fixed-price type"], "", 2 / 3),
        ("types", ["services"], "", 0),
    ]
    texts = [json.dumps({"answer": answer, "scale": scale}) for _, answer, scale, _ in rows]
    grade = grade_texts(build_grader(tatqa.grader()), texts, [ITEMS[row[0]] for row in rows])
    assert grade.reward == pytest.approx([row[3] for row in rows], abs=5e-3)


@pytest.mark.parametrize(
    ("uid", "answer", "scale", "exact", "f1"),
    [
        ("change", ["-12.6"], "million", 1, 1),
        ("change", "(12.6)", "million", 1, 1),
        ("change", ["-12.6 million"], "", 1, 1),
        ("change", ["-12.6 million"], "million", 0, 0),  # scaled twice
        ("ratio", [0.2222], "", 1, 1),
        ("years", "2", "", 1, 1),
        ("sales", ["the $1,496.5"], "million", 0, 0),
        ("types", ["cost-plus type", "the fixed-price type."], "", 1, 1),
        ("types", ["fixed-price type"], "", 0, 0.8),
        ("types", "", "", 0, 0),
    ],
)
def test_official_metric(uid, answer, scale, exact, f1):
    """The figures are what the release's `tatqa_eval.py` prints for them."""
    found = official.match(answer, scale, ITEMS[uid])
    assert (found.exact, found.f1) == (exact, f1)


def test_the_official_metric_is_a_python_grader():
    source = tatqa.official_grader()["source"]
    assert "rft_jax" not in "".join(
        line for line in source.splitlines() if line.startswith(("import ", "from "))
    )
    module = {"__name__": "sandboxed"}
    exec(compile(source, "source", "exec"), module)
    rows = [
        ({"answer": ["(12.6)"], "scale": "million"}, 1),
        ({"answer": ["-12.6"], "scale": ""}, 0),
        ({"scale": "million"}, 0),
        (["-12.6"], 0),
        (None, 0),
    ]
    for given, exact in rows:
        assert module["grade"]({"output_json": given}, ITEMS["change"]) == exact


def test_a_question_without_a_prediction_counts():
    found = official.evaluate([CONTEXT], {"years": ["2", ""]})
    assert found == official.Match(0.2, 0.2)


def test_a_damaged_file_is_named(release):
    path = release / "dataset_raw" / "tatqa_dataset_dev.json"
    path.write_text('[{"table": {}}]')
    with pytest.raises(InputError, match="tatqa_dataset_dev.json: context 1 lacks"):
        tatqa.TatqaData().rows(release)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared")
def test_the_real_files():
    rows = tatqa.TatqaData(source="dev").rows(REAL)
    items = [*rows["train"], *rows["valid"]]
    grade = grade_texts(build_grader(tatqa.grader()), list(map(tatqa.right_answer, items)), items)
    assert len(items) == 1668 and grade.reward.min() == 1
    right = {item["uid"]: [item["answer"], item["scale"]] for item in items}
    assert official.evaluate(tatqa.load_contexts(REAL, "dev"), right).exact == 1
