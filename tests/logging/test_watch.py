"""A run that teaches nothing says so, once, with the setting to change."""

import dataclasses

import pytest

from rft_jax.config import RLStage, RolloutConfig, SFTStage
from rft_jax.logging.watch import Watch

WELL = {
    "train_valid_fraction": 1.0,
    "train_truncated_fraction": 0.1,
    "train_zero_std_groups_fraction": 0.4,
    "train_reward_mean_all": 0.2,
}


def told(rows, stage=None, finish=False):
    """By step what is said."""
    watch = Watch(stage or RLStage())
    found = {k: said for k, row in enumerate(rows, 1) if (said := watch.update(WELL | row))}
    if finish and (said := watch.finish()):
        found["end"] = said
    return found


def test_a_run_that_goes_well_says_nothing():
    assert not told([{}] * 50, finish=True)
    assert not told([{"train_zero_std_groups_fraction": 1.0}] * 9 + [{}], finish=True)
    assert not told([{"step": 0}], SFTStage(), finish=True)


@pytest.mark.parametrize(
    ("row", "step", "setting"),
    [
        ({"train_valid_fraction": 0.03, "train_overlong_answers_fraction": 0.97,
          "train_errors/other_error_mean": 0.97}, 3, "rollout.output_bytes"),
        ({"train_valid_fraction": 0.03, "train_errors/other_error_mean": 0.97}, 3, "`grader`"),
        ({"train_valid_fraction": 0.2, "train_errors/python_grader_server_error_mean": 0.8}, 3,
         "host.python_timeout_s"),
        ({"train_truncated_fraction": 0.8}, 10, "rollout.max_completion_tokens"),
        ({"train_zero_std_groups_fraction": 1.0}, 10, "rollout.group_size"),
        ({"train_zero_std_groups_fraction": 1.0, "train_reward_mean_all": 0.0}, 10, "earn 0"),
    ],
)  # fmt: skip
def test_each_sign_is_told_once_with_its_setting(row, step, setting):
    found = told([row] * 40, finish=True)
    assert list(found) == [step] and len(found[step]) == 1
    assert setting in found[step][0]


def test_what_is_cut_and_masked_is_laid_to_the_limit_on_tokens():
    rollout = RolloutConfig(truncated_completions="mask")
    stage = dataclasses.replace(RLStage(), rollout=rollout)
    row = {"train_valid_fraction": 0.1, "train_truncated_fraction": 0.9}
    assert "rollout.max_completion_tokens" in told([row] * 3, stage)[3][0]


def test_greedy_samples_are_equal_for_that_reason():
    stage = dataclasses.replace(RLStage(), rollout=RolloutConfig(temperature=0.0))
    row = {"train_zero_std_groups_fraction": 1.0}
    assert "temperature above 0" in told([row] * 10, stage)[10][0]


def test_a_stage_that_is_too_short_is_judged_at_its_end():
    row = {"train_zero_std_groups_fraction": 1.0}
    assert list(told([row] * 6, finish=True)) == ["end"]
    assert not told([row] * 5 + [{}], finish=True)
