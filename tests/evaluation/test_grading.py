"""`rft grade` and `rft validate` on files."""

import json
import re

import pytest

from rft_jax.commands.entry import main

from ..small_checkpoint import write_small

GRADER = {
    "type": "multi",
    "name": "claim",
    "calculate_output": "0.6 * decision + 0.4 * reason",
    "graders": {
        "decision": {
            "type": "string_check",
            "operation": "eq",
            "input": "{{sample.output_json.decision}}",
            "reference": "{{item.decision}}",
        },
        "reason": {
            "type": "string_check",
            "operation": "ilike",
            "input": "{{sample.output_json.reason}}",
            "reference": "{{item.reason}}",
        },
    },
}
ITEMS = [
    {"messages": [{"role": "user", "content": f"claim {n}"}], "decision": d, "reason": f"r{n}"}
    for n, d in enumerate(["pay", "deny", "deny"])
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "grader.json").write_text(json.dumps(GRADER))
    write(tmp_path / "items.jsonl", ITEMS)
    return tmp_path


def grade(files, samples, *options):
    return main(
        ["grade", "--grader", str(files / "grader.json"), "--data", str(files / "items.jsonl")]
        + ["--answers", write(files / "samples.jsonl", samples), *options]
    )


@pytest.mark.parametrize("placement", ["auto", "device", "host"])
def test_grade_prints_the_shape_of_openai_s_answer(files, capsys, placement):
    samples = [
        {"output_text": '{"decision": "deny", "reason": "R1 it is"}', "item": 2},
        {"output_text": '{"decision": "deny"}', "item": 1},
        {"output_text": "deny", "item": 2},
        {"output_text": '{"decision": "pay", "reason": ""}', "item": 1},
    ]
    assert grade(files, samples, "--placement", placement) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["reward"] for line in lines] == pytest.approx([1, 0, 0, 0.6])
    assert lines[3]["sub_rewards"] == {"decision": 1.0, "reason": 0.0}
    errors = [{k for k, v in line["metadata"]["errors"].items() if v} for line in lines]
    assert errors == [set(), {"invalid_variable_error"}, {"sample_parse_error"}, set()]
    assert lines[0]["metadata"]["name"] == "claim" and lines[0]["metadata"]["type"] == "multi"
    assert re.search(r"over 4 of 4 answers with a valid grade, in \d+\.\d s$", captured.err)


def test_samples_in_the_items_order_need_no_number(files, capsys):
    assert grade(files, [{"output_text": json.dumps(item)} for item in ITEMS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["reward"] for line in lines] == [1, 1, 1]


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ([{"answer": "x"}], "samples.jsonl, line 1: output_text: is missing; add"),
        ([{"output_text": "x"}], "line 1: item: is missing, though there are 1 samples of 3"),
        ([{"output_text": "x", "item": 4}], "line 1: item: 4 is no line of"),
        ([{"output_text": "x", "item": "1"}], "line 1: item: '1' is no line of"),
    ],
)
def test_samples_that_fit_no_item_are_named(files, capsys, samples, sentence):
    assert grade(files, samples) == 2
    assert sentence in capsys.readouterr().err


def test_explain_says_where_every_node_runs(files, capsys):
    arguments = ["grade", "--grader", str(files / "grader.json"), "--explain"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["multi", "string_check", "string_check"]
    assert {line["runs_on"] for line in lines} == {"device"}
    assert main([*arguments, "--placement", "host"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["runs_on"] for line in lines] == ["device", "host", "host"]
    assert main(arguments[:-1]) == 2
    assert "give --data and --answers, or --explain" in capsys.readouterr().err


def test_validate_checks_every_row_and_probes(files, capsys):
    arguments = ["validate", "--grader", str(files / "grader.json"), "--data"]
    assert main([*arguments, str(files / "items.jsonl")]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["items"] == 3 and summary["probes"]["right"]["mean"] == pytest.approx(1)
    assert summary["warnings"] and summary["warnings"][0] in captured.err
    write(files / "bad.jsonl", [*ITEMS, {"messages": ITEMS[0]["messages"], "decision": "pay"}])
    assert main([*arguments, str(files / "bad.jsonl")]) == 2
    assert "bad.jsonl, line 4: graders.reason.reference needs" in capsys.readouterr().err


def test_validate_takes_a_grader_of_ones_own(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "own_grader.py").write_text(
        "from rft_jax.graders import device_grader\n"
        "from rft_jax.strings import contains\n\n\n"
        "@device_grader(answer='{{ sample.output_text }}', wanted='{{ item.decision }}')\n"
        "def names_it(answer, wanted):\n"
        "    return contains(answer, wanted)\n"
    )
    data = ["--data", str(files / "items.jsonl")]
    assert main(["validate", "--grader", "own_grader:names_it", *data]) == 0
    assert json.loads(capsys.readouterr().out)["grader"] == "own_grader:names_it"
    assert main(["validate", "--grader", "own_grader:another", *data]) == 2
    assert "own_grader: has no another" in capsys.readouterr().err


def test_a_judge_on_the_device_grades(files, capsys, tmp_path_factory):
    model = write_small(tmp_path_factory.mktemp("judge"))
    grader = {
        "type": "label_model",
        "model": f"device:{model}",
        "input": [{"role": "user", "content": "{{item.reason}}: {{sample.output_text}}"}],
        "labels": ["yes", "no"],
        "passing_labels": ["yes"],
    }
    (files / "grader.json").write_text(json.dumps(grader))
    assert grade(files, [{"output_text": text} for text in ("deny", "pay", "")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(0 < line["reward"] < 1 for line in lines)
    assert lines[0]["reward"] != lines[1]["reward"]
    (files / "grader.json").write_text(json.dumps(grader | {"model": "device:nowhere"}))
    assert grade(files, [{"output_text": "deny"}] * 3) == 2
    assert "nowhere: not a work directory" in capsys.readouterr().err


def test_right_answers_come_from_a_field_or_a_supervised_file(files, capsys):
    body = "return float(sample['output_text'] == item['decision'])"
    source = f"def grade(sample, item):\n    {body}\n"
    (files / "grader.json").write_text(json.dumps({"type": "python", "source": source}))
    answers = [
        {"messages": [*item["messages"], {"role": "assistant", "content": item["decision"]}]}
        for item in ITEMS[:2]
    ]
    arguments = ["validate", "--no-sandbox", "--grader", str(files / "grader.json")]
    arguments += ["--data", str(files / "items.jsonl")]
    for more in (
        ["--right", "decision"],
        ["--supervised", write(files / "supervised.jsonl", answers)],
    ):
        assert main([*arguments, *more]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["probes"]["right"]["mean"] == 1 and summary["warnings"] == []
        assert summary["failures"] == {}
    assert main([*arguments, "--right", "verdict"]) == 2
    assert "no item has the key 'verdict'" in capsys.readouterr().err
    assert main([*arguments, "--range", "1", "0"]) == 2
    assert "1 is not below 0; exchange them" in capsys.readouterr().err
