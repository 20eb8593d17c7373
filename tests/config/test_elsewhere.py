"""Names of other systems lead to settings that there are."""

import re
from pathlib import Path

import pytest

from rft_jax.config import Config, LoraConfig, ModelConfig
from rft_jax.config.elsewhere import SETTINGS, setting_for
from rft_jax.config.load import load_config
from rft_jax.utils.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"


@pytest.mark.parametrize("setting", sorted(set(SETTINGS.values())))
def test_what_is_meant_is_a_setting(setting):
    config = Config(models=(ModelConfig(lora=LoraConfig()),))
    path = setting.replace("models.NAME", "models.policy").replace("stages.NAME", "stages.rft")
    for name in path.split("."):
        members = {one.name: one for one in config} if isinstance(config, tuple) else {}
        config = members[name] if members else getattr(config, name)


def test_the_page_and_the_code_say_the_same():
    text = PAGE.read_text(encoding="utf-8").partition("## Settings")[2].partition("## Metrics")[0]
    meant: dict[str, list[str]] = {}  # by a name as it stands there, which may be in several rows
    for line in text.splitlines():
        if line.startswith("| ") and "rft_jax" not in line:
            openai, ours, *others = (re.findall(r"`([\w.]+)`", x) for x in line.split("|")[1:-1])
            ours = ours or re.findall(r"`([\w.]+)=", line)[:1]
            for theirs in (*openai, *(name for names in others for name in names)):
                meant.setdefault(theirs, []).extend(ours)
    assert len(meant) > 30
    for theirs, ours in meant.items():
        if theirs.rpartition(".")[2] not in [name.rpartition(".")[2] for name in ours]:
            assert any(name in setting_for(theirs) for name in ours), (theirs, ours)
    assert not setting_for("critic.optim.lr")


def test_a_keyword_of_another_system_is_told(tmp_path):
    (path := tmp_path / "mine.py").write_text(
        "from rft_jax.config import Config, RLStage\n\n\ndef get_config():\n"
        "    return Config(stages=(RLStage(num_generations=4),))\n"
    )
    with pytest.raises(InputError, match="call so is stages.NAME.rollout.group_size here"):
        load_config(str(path), {})
