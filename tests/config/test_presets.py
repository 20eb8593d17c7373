"""Algorithms by name: what each sets, what wins over it, and what is told of it."""

import dataclasses
import json
import typing

import pytest

from rft_jax.config import Config, PolicyLossConfig, PolicyLossSettings, RLStage, RolloutConfig
from rft_jax.config.help import settings_text
from rft_jax.config.overrides import apply_overrides, from_json, to_json
from rft_jax.config.policy_loss import AlgorithmName
from rft_jax.config.presets import CLIPS, PRESETS, policy_loss, remarks, resolve
from rft_jax.config.validate import validate
from rft_jax.runs.workdir import check_same
from rft_jax.utils.errors import InputError

# What each algorithm is, written out; the rest is GRPO's.
EXPECTED = {
    "grpo": {},
    "dr_grpo": {"scale_rewards": "none", "aggregation": "constant"},
    "dapo": {"drop_uniform_groups": True},
    "gspo": {
        "loss": "gspo",
        "aggregation": "sequence_mean",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
    },
    "cispo": {
        "loss": "cispo",
        "two_sided": False,
        "clip_low": 1.0,
        "clip_high": 4.0,
        "aggregation": "prompt_mean",
        "scale_rewards": "batch",
        "drop_uniform_groups": True,
        "float32_head": True,
        "old_logprobs": "sampler",
    },
    "rloo": {
        "advantage": "leave_one_out",
        "scale_rewards": "none",
        "loss": "reinforce",
        "aggregation": "sequence_sum",
    },
    "reinforce_pp": {
        "scale_rewards": "none",
        "whiten_advantages": True,
        "kl_estimator": "k2",
        "kl_coefficient": 0.001,
    },
    "maxrl": {"scale_rewards": "mean"},
    "gdpo": {"reward_parts": "separate", "whiten_advantages": True},
    "dppo": {
        "loss": "dppo_tv",
        "clip_low": 0.15,
        "clip_high": 0.15,
        "old_logprobs": "sampler",
        "scale_rewards": "none",
        "aggregation": "constant",
    },
    "sapo": {"loss": "sapo", "aggregation": "sequence_mean"},
}


def stage(changes=None, **settings):
    return RLStage(init="", policy_loss=PolicyLossConfig(**settings), **(changes or {}))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_sets_what_its_algorithm_is(name):
    expected = PolicyLossSettings(**{"algorithm": name, **EXPECTED[name]})
    assert policy_loss(stage(algorithm=name)) == expected
    validate(Config(stages=(stage(algorithm=name),)))


def test_every_name_has_a_preset():
    assert set(typing.get_args(AlgorithmName)) == set(PRESETS) == set(EXPECTED)


def test_presets_set_only_what_is_open_without_them():
    open_settings = {
        field.name
        for field in dataclasses.fields(PolicyLossConfig)
        if field.default is None and field.name != "dual_clip"
    }
    for settings in [*(preset.settings for preset in PRESETS.values()), *CLIPS.values()]:
        assert settings.keys() <= open_settings


def test_nothing_is_left_open():
    for name in PRESETS:
        settings = dataclasses.asdict(policy_loss(stage(algorithm=name)))
        assert [key for key, value in settings.items() if value is None] == ["dual_clip"]
        assert settings["importance"] != "auto"


def test_what_is_given_wins_and_is_told():
    given = stage(algorithm="gspo", aggregation="token_mean", epochs_per_batch=2)
    assert policy_loss(given).aggregation == "token_mean"
    assert remarks(given) == [
        "stages.rft.policy_loss: algorithm=gspo with aggregation=token_mean instead of "
        "sequence_mean"
    ]
    assert remarks(stage(algorithm="gspo", aggregation="sequence_mean", epochs_per_batch=2)) == []


def test_the_range_of_clips_is_that_of_the_loss():
    assert policy_loss(stage(loss="gspo")).clip_high == 4e-4
    assert policy_loss(stage(algorithm="gspo", loss="ppo_clip")).clip_high == 0.28
    assert policy_loss(stage(algorithm="dppo", loss="dppo_kl")).clip_low == 0.05
    assert policy_loss(stage(loss="gspo", clip_high=0.1)).clip_high == 0.1


@pytest.mark.parametrize(
    ("changes", "settings", "expected"),
    [
        ({}, {}, "none"),
        ({"async_rollout": True}, {}, "tis"),
        ({"rollout": RolloutConfig(int8_weights=True)}, {}, "tis"),
        ({"rollout": RolloutConfig(int8_cache=True)}, {}, "tis"),
        ({"rollout": RolloutConfig(top_p=0.9)}, {}, "tis"),
        ({"async_rollout": True}, {"old_logprobs": "sampler"}, "none"),
        ({"async_rollout": True}, {"importance": "icepop"}, "icepop"),
        ({}, {"importance": "tis"}, "tis"),
    ],
)
def test_importance_corrects_for_a_sampler_that_is_not_the_learner(changes, settings, expected):
    given = stage(changes, **settings)
    assert policy_loss(given).importance == expected
    validate(Config(stages=(given,)))


@pytest.mark.parametrize(
    ("changes", "settings", "named"),
    [
        ({}, {"algorithm": "gspo"}, "algorithm=gspo"),
        ({}, {"loss": "sapo"}, "loss=sapo"),
        ({}, {"clip_high": 0.3}, "clip_high=0.3"),
        ({}, {"algorithm": "dppo"}, "algorithm=dppo"),
        ({}, {"clip_high": 0.3, "old_logprobs": "sampler"}, "clip_high=0.3"),
        ({"async_rollout": True}, {"dual_clip": 3.0}, "dual_clip=3.0"),
        ({}, {}, None),
        ({}, {"algorithm": "rloo"}, None),
        ({}, {"loss": "my_losses:own"}, None),
        ({}, {"algorithm": "dr_grpo"}, None),
        ({}, {"algorithm": "gspo", "epochs_per_batch": 2}, None),
        ({"async_rollout": True}, {"algorithm": "dppo"}, None),
    ],
)
def test_a_clip_that_cannot_act_is_told_in_one_line(changes, settings, named):
    told = [line for line in remarks(stage(changes, **settings)) if "cannot act" in line]
    assert len(told) == (named is not None)
    if named:
        assert told[0].startswith(f"stages.rft.policy_loss: {named} cannot act")
        assert ("old_logprobs=sampler makes" in told[0]) == ("async_rollout" in changes)


def test_what_became_of_the_settings_is_stored(tmp_path):
    config = Config(stages=(stage(algorithm="cispo"),))
    stored = json.loads(json.dumps(to_json(resolve(config))))
    assert stored["stages"][0]["policy_loss"]["clip_high"] == 4.0
    again = from_json(stored)
    assert again == resolve(config) == resolve(again)
    (tmp_path / "config.json").write_text(json.dumps(stored))
    check_same(tmp_path / "config.json", config)
    with pytest.raises(InputError, match="policy_loss.algorithm: 'cispo' -> 'gspo'"):
        check_same(tmp_path / "config.json", Config(stages=(stage(algorithm="gspo"),)))


def stored_before(config, **policy):
    """config.json as it was written when every setting had a value and none a preset."""
    stored = to_json(config)
    stored["stages"][0]["policy_loss"] = {
        "class": "rft_jax.config.schema:PolicyLossConfig",
        "advantage": "group_mean",
        "scale_rewards": "group",
        "loss": "ppo_clip",
        "clip_low": 0.2,
        "clip_high": 0.28,
        "two_sided": True,
        "dual_clip": None,
        "aggregation": "token_mean",
        "importance": "none",
        "tis_cap": 2.0,
        "icepop_low": 0.5,
        "icepop_high": 2.0,
        "kl_coefficient": 0.0,
        "kl_estimator": "k3",
        "epochs_per_batch": 1,
        "gradient_accumulation": 1,
        "pack_rows": 0,
        "logit_chunk": 16,
        **policy,
    }
    return json.dumps(stored)


def test_runs_from_before_there_were_presets_go_on_or_are_refused(tmp_path):
    path = tmp_path / "config.json"
    config = Config(stages=(stage(),))
    path.write_text(stored_before(config))
    check_same(path, config)
    path.write_text(stored_before(config, loss="gspo", aggregation="sequence_mean"))
    with pytest.raises(InputError, match=r"policy_loss.clip_high: 0.28 -> 0.0004"):
        check_same(path, Config(stages=(stage(loss="gspo", aggregation="sequence_mean"),)))


def test_presets_are_chosen_on_the_command_line():
    config = apply_overrides(Config(), {"stages.rft.policy_loss.algorithm": "dr_grpo"})
    assert policy_loss(config.rl_stages[0]).aggregation == "constant"


def test_help_shows_what_each_preset_sets():
    text = " ".join(settings_text().split())
    for name, preset in PRESETS.items():
        settings = ", ".join(f"{key}={value}" for key, value in preset.settings.items())
        assert f"{name} {settings} (arXiv {preset.paper}" in text
