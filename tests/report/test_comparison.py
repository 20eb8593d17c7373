"""Comparisons out of evaluation lines, as a table and as a page of their own."""

import io
import json
import re

import pytest
from rich.console import Console

from rft_jax.report import compare, show_comparison, write_comparison
from rft_jax.report.comparison import main_metric


def line(model, reward, **more):
    return {
        "model": model, "data": "valid.jsonl", "items": 9, "samples": 2, "parameters": 7,
        "reward_mean": reward, "errors/other_error_mean": 0.0,
        "errors/sample_parse_error_mean": reward, "errors/sample_parse_error_count": 3,
        "intervals": {"reward_mean": [reward - 0.1, reward + 0.1]}, **more,
    }  # fmt: skip


@pytest.fixture
def lines():
    pair = {"a": "runs/x/rft", "b": "runs/x/sft", "metric": "reward_mean"}
    pair |= {"difference": 0.25, "low": 0.1, "high": 0.4}
    return [line("runs/x/sft", 0.0), line("runs/x/rft", 0.25), pair]


def test_a_comparison_has_the_shape_of_results_json(lines):
    found = compare(lines[:2], lines[2:], ["sft", "rft"])
    assert found["cases"] == 9 and found["samples"] == 2
    assert found["models"]["rft"] == {
        "parameters": 7,
        "reward_mean": 0.25,
        "errors/sample_parse_error_mean": 0.25,
        "intervals": {"reward_mean": [0.15, 0.35]},
    }
    assert found["paired"] == [lines[-1] | {"a": "rft", "b": "sft"}]
    assert list(compare(lines[:2])["models"]) == ["sft", "rft"]
    assert list(compare(lines[:1])["models"]) == ["sft"]


def test_the_table_has_models_side_by_side_with_intervals(lines):
    stream = io.StringIO()
    show_comparison(
        "valid.jsonl", compare(lines[:2], lines[2:], ["sft", "rft"]), Console(file=stream)
    )
    rows = [row.split() for row in stream.getvalue().splitlines()]
    assert ["metric", "sft", "rft"] in rows
    assert ["reward_mean", "0.000", "[-0.100,", "0.100]", "0.250", "[0.150,", "0.350]"] in rows
    assert "rft - sft, reward_mean" in stream.getvalue()


def test_models_are_told_apart_by_one_metric_on_a_terminal(lines):
    other = lines[-1] | {"metric": "mean_list_length"}
    evaluation = compare(lines[:2], [other, *lines[2:]], ["sft", "rft"])
    assert main_metric(evaluation) == "reward_mean"
    stream = io.StringIO()
    show_comparison("valid.jsonl", evaluation, Console(file=stream))
    assert "rft - sft, reward_mean" in stream.getvalue()
    assert "rft - sft, mean_list_length" not in stream.getvalue()


def test_the_page_holds_the_comparison_alone(lines, tmp_path):
    path = tmp_path / "evaluation.html"
    write_comparison(path, "Evaluation", {"valid": compare(lines[:2], lines[2:])})
    (data,) = re.findall('id="data">(.*?)</script>', path.read_text())
    data = json.loads(data)
    assert data["stages"] == [] and data["config"] is None
    assert list(data["evaluations"]["valid"]["models"]) == ["sft", "rft"]
