"""`rft train --help` names every setting with its default and its comment."""

import dataclasses

import pytest

from rft_jax import config
from rft_jax.commands import entry
from rft_jax.config.help import settings_text
from rft_jax.config.overrides import apply_overrides


def flags():
    text = settings_text()
    lines = [line.strip() for line in text.splitlines() if "--config." in line]
    return dict(line.split()[0].removeprefix("--config.").split("=", 1) for line in lines)


def test_every_setting_can_be_set_as_it_is_shown():
    found, whole = flags(), config.Config(stages=tuple(kind() for kind in STAGES))
    for name, default in found.items():
        if name.startswith(("models.NAME", "stages.NAME")):
            continue
        assert apply_overrides(whole, {name: default.strip("'")}) == whole
    for kind, place in ((config.ModelConfig, "models"), *((kind, "stages") for kind in STAGES)):
        for field in dataclasses.fields(kind):
            if not dataclasses.is_dataclass(getattr(kind(), field.name)):
                assert f"{place}.NAME.{field.name}" in found
    assert found["stages.NAME.optimizer.clip_norm"] == "1.0"


STAGES = (
    config.SFTStage,
    config.RLStage,
    config.DistillStage,
    config.SelfDistillStage,
    config.EvalStage,
)


def test_the_comments_behind_and_above_a_setting_are_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        entry.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and text.startswith("usage: rft train --config FILE")
    assert "--config.seed=0" in text
    assert "--config.data.valid='' RFT items, none of them in `train`" in text
    assert "--config.grader='' A JSON file in OpenAI's format, or its content" in text
