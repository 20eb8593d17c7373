"""Reading a work directory: bounded, deterministic, and content with what there is."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from rft_jax.report.history import MAX_TEXT, collect_series, evenly, read_run
from rft_jax.utils.errors import InputError


@given(st.integers(0, 500), st.integers(1, 60))
def test_evenly_chosen_indices_are_spread_over_all(count, limit):
    chosen = evenly(count, limit)
    assert len(chosen) == min(count, limit) and chosen == sorted(set(chosen))
    if count:
        assert chosen[-1] == count - 1
    if min(count, limit) > 1:
        gaps = np.diff(chosen)
        assert chosen[0] == 0 and gaps.max() - gaps.min() <= 1


def test_metrics_become_columns_with_nan_where_a_value_was_not_finite(rows):
    series = collect_series(rows)
    assert series["train_loss"].step.tolist() == list(range(1, 101))
    assert np.flatnonzero(np.isnan(series["train_loss"].value)).tolist() == [6]
    assert series["valid_reward_mean"].step.tolist() == [0, 20, 40, 60, 80, 100]
    assert series["timing/tokens_per_s"].value[-1] == 200
    assert "stage" not in series and "step" not in series


def test_a_run_is_read_in_the_order_of_its_stages(make_run, rows, sample, results):
    history = read_run(make_run(rows, {10: [sample()]}, results))
    assert [(stage.name, stage.done, stage.steps) for stage in history.stages] == [
        ("sft", 40, 40),
        ("rft", 100, 100),
    ]
    assert history.results == results and history.written > 0
    (group,) = history.stages[1].groups
    assert group.step == 10 and group.prompt == [{"role": "user", "content": "a question"}]


def test_a_run_without_steps_is_empty(make_run):
    history = read_run(make_run())
    assert [stage.name for stage in history.stages] == ["sft"]
    assert history.stages[0].groups == [] and history.results == {}


def test_what_is_no_work_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a work directory"):
        read_run(tmp_path)


def question(k):
    return [{"role": "user", "content": f"question {k}"}]


def test_samples_are_whole_groups_evenly_spaced_over_prompts(make_run, rows, sample):
    lines = [sample(prompt=question(k)) for k in range(50) for _ in range(4)]
    workdir = make_run(rows, {10: lines, 20: lines})
    groups = read_run(workdir, max_samples=80).stages[1].groups
    assert [group.step for group in groups] == [10] * 10 + [20] * 10
    assert all(len(group.samples) == 4 for group in groups)
    asked = [int(group.prompt[0]["content"].split()[1]) for group in groups[:10]]
    assert asked[0] == 0 and asked[-1] == 49 and max(np.diff(asked)) <= 6
    again = read_run(workdir, max_samples=80).stages[1]
    assert again.groups == groups and again.samples == 400 and again.dumps == 2


def test_samples_stay_within_the_bounds(make_run, rows, sample):
    lines = [sample(prompt=question(k), answer="ü" * 1000) for k in range(20) for _ in range(4)]
    workdir = make_run(rows, {10 * k: lines for k in range(1, 11)})
    for limit in (200_000, 60_000):
        groups = read_run(workdir, max_bytes=limit).stages[1].groups
        text = json.dumps([group._asdict() for group in groups], ensure_ascii=False)
        assert 0.3 * limit < len(text.encode()) < 1.1 * limit
        assert {group.step for group in groups} == {10 * k for k in range(1, 11)}


def test_one_huge_group_gives_as_many_samples_as_fit(make_run, rows, sample):
    workdir = make_run(rows, {10: [sample(answer="x" * 1000) for _ in range(64)]})
    (group,) = read_run(workdir, max_bytes=20_000).stages[1].groups
    assert 8 < len(group.samples) < 20
    (group,) = read_run(workdir, max_bytes=10).stages[1].groups
    assert len(group.samples) == 1


def test_a_long_text_keeps_its_beginning_and_its_end(make_run, rows, sample):
    text = "begin" + "." * 100_000 + "end"
    workdir = make_run(rows, {10: [sample(thought=text)]})
    shown = read_run(workdir).stages[1].groups[0].samples[0]["thought"]
    assert shown.startswith("begin") and shown.endswith("end") and "characters left out" in shown
    assert len(shown) < MAX_TEXT + 100


def test_a_file_that_is_being_written_gives_its_whole_lines(make_run, rows, sample):
    workdir = make_run(rows, {10: [sample(answer="a\u2028b\x85c"), sample()]})
    path = workdir / "rft" / "samples" / "step_000010.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    (group,) = read_run(workdir).stages[1].groups
    assert [one["answer"] for one in group.samples] == ["a\u2028b\x85c"]
    (workdir / "results.json").write_text('{"evaluations": {')
    assert read_run(workdir).results == {}
