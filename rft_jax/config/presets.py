"""Algorithms by name: what each sets, from which paper, and what is left open without one.

    settings = policy_loss(stage)         # nothing is None any more
    for sentence in remarks(stage): ...   # overrides that contradict, clips that cannot act

A preset is a mapping of settings. What is given wins over the preset, the preset over the defaults;
the range of clips belongs to the loss, whichever it is then.
"""

import dataclasses
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rft_jax.config.algorithms import shown
from rft_jax.config.policy_loss import PolicyLossConfig, PolicyLossSettings
from rft_jax.config.schema import Config
from rft_jax.config.stages import RLStage

Settings = Mapping[str, str | float | bool]


@dataclass(frozen=True)
class Preset:
    """What a paper's algorithm sets.

    Attributes:
        title: Its name.
        paper: arXiv number.
        settings: Those of `PolicyLossConfig`; what is missing is as in GRPO.
        remark: What it leaves to other settings, if anything.
    """

    title: str
    paper: str
    settings: Settings
    remark: str = ""


def _preset(title: str, paper: str, remark: str = "", **settings) -> Preset:
    return Preset(title, paper, MappingProxyType(settings), remark)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "grpo": _preset(
            "GRPO, with DAPO's token mean and asymmetric clip",
            "2402.03300",
            "as published: aggregation=sequence_mean, clip_high=0.2, kl_coefficient=0.04",
            advantage="group_mean",
            scale_rewards="group",
            loss="ppo_clip",
            aggregation="token_mean",
        ),
        "dr_grpo": _preset("Dr. GRPO", "2503.20783", scale_rewards="none", aggregation="constant"),
        "dapo": _preset(
            "DAPO",
            "2503.14476",
            "with max_resample_batches=4 and a length grader, which are not of the loss",
            scale_rewards="group",
            loss="ppo_clip",
            aggregation="token_mean",
            drop_uniform_groups=True,
        ),
        "gspo": _preset("GSPO", "2507.18071", loss="gspo", aggregation="sequence_mean"),
        "cispo": _preset(
            "CISPO, as in ScaleRL",
            "2510.13786",
            loss="cispo",
            old_logprobs="sampler",
            aggregation="prompt_mean",
            scale_rewards="batch",
            drop_uniform_groups=True,
            float32_head=True,
        ),
        "rloo": _preset(
            "RLOO",
            "2402.14740",
            advantage="leave_one_out",
            scale_rewards="none",
            loss="reinforce",
            aggregation="sequence_sum",
        ),
        "reinforce_pp": _preset(
            "REINFORCE++-baseline",
            "2501.03262",
            "kl_estimator=k1_in_reward for the KL term of REINFORCE++ itself",
            scale_rewards="none",
            whiten_advantages=True,
            kl_estimator="k2",
            kl_coefficient=0.001,
        ),
        "maxrl": _preset("MaxRL", "2602.02710", scale_rewards="mean"),
        "gdpo": _preset(
            "GDPO",
            "2601.05242",
            reward_parts="separate",
            scale_rewards="group",
            whiten_advantages=True,
        ),
        "dppo": _preset(
            "DPPO",
            "2602.04879",
            "loss=dppo_kl for the form with KL",
            loss="dppo_tv",
            old_logprobs="sampler",
            scale_rewards="none",
            aggregation="constant",
        ),
        "sapo": _preset("SAPO", "2511.20347", loss="sapo", aggregation="sequence_mean"),
    }
)

# Of losses with another range than PPO's and DAPO's 0.2 and 0.28. CISPO's weight is at most 5, as
# in ScaleRL, with no lower bound.
CLIPS: Mapping[str, Settings] = MappingProxyType(
    {
        "gspo": {"clip_low": 3e-4, "clip_high": 4e-4},  # https://arxiv.org/abs/2507.18071
        "cispo": {"clip_low": 1.0, "clip_high": 4.0, "two_sided": False},
        "dppo_tv": {"clip_low": 0.15, "clip_high": 0.15},  # as the authors' code in verl
        "dppo_kl": {"clip_low": 0.05, "clip_high": 0.05},
    }
)

_LEFT = 16  # columns of the presets' names in text

# Losses that act through the ratio; what one of a user's does is not known.
_OF_RATIOS = ("ppo_clip", "gspo", "cispo", "sapo", "dppo_tv", "dppo_kl")


def policy_loss(stage: RLStage) -> PolicyLossSettings:
    """What a stage's objective is, with the algorithm's and the loss's settings filled in."""
    given = stage.policy_loss
    if isinstance(given, PolicyLossSettings):
        return given
    preset = PRESETS[given.algorithm].settings
    own = {name: value for name, value in _fields(given).items() if value is not None}
    loss = own.get("loss", preset.get("loss", PolicyLossSettings.loss))
    clips = CLIPS.get(loss, {}) if isinstance(loss, str) else {}
    filled = {**clips, **preset, **own}
    if given.importance == "auto":
        corrected = stage.samples_on_policy or filled.get("old_logprobs") == "sampler"
        filled["importance"] = "none" if corrected else "tis"
    return PolicyLossSettings(**filled)


def resolve(config: Config) -> Config:
    """The configuration with nothing left open in the objectives of its reinforcement stages."""
    stages = tuple(
        dataclasses.replace(stage, policy_loss=policy_loss(stage))
        if isinstance(stage, RLStage)
        else stage
        for stage in config.stages
    )
    return dataclasses.replace(config, stages=stages)


def remarks(stage: RLStage) -> list[str]:
    """What to tell of an objective as it is given: one sentence each."""
    section = f"stages.{stage.name}.policy_loss"
    return [f"{section}: {remark}" for remark in (*_contradictions(stage), *_idle_ratio(stage))]


def _contradictions(stage: RLStage) -> list[str]:
    """The settings that are given otherwise than the algorithm has them; they are kept."""
    given = stage.policy_loss
    if isinstance(given, PolicyLossSettings):
        return []
    changed = [
        f"{name}={shown(value)} instead of {standard}"
        for name, standard in PRESETS[given.algorithm].settings.items()
        if (value := getattr(given, name)) is not None and value != standard
    ]
    return [f"algorithm={given.algorithm} with {', '.join(changed)}"] if changed else []


def _idle_ratio(stage: RLStage) -> list[str]:
    """Whether a loss or a clip was chosen that acts on ratios which are all 1."""
    given, settings = stage.policy_loss, policy_loss(stage)
    changing = settings.old_logprobs == "sampler" and not stage.samples_on_policy
    if isinstance(given, PolicyLossSettings) or changing or settings.epochs_per_batch > 1:
        return []
    preset = PRESETS[given.algorithm].settings
    names = [
        name
        for name in ("loss", "clip_low", "clip_high", "two_sided", "dual_clip")
        if getattr(given, name) is not None
    ]
    if not names and preset.get("loss", "ppo_clip") != "ppo_clip":
        names = ["algorithm"]
    if not names or settings.loss not in _OF_RATIOS:
        return []
    chosen = ", ".join(f"{name}={shown(getattr(given, name))}" for name in names)
    remedy = "epochs_per_batch above 1"
    if not stage.samples_on_policy:
        remedy += " or old_logprobs=sampler"
    return [
        f"{chosen} cannot act, as each ratio of new to old policy is 1 with one update of a batch "
        f"from the policy itself; {remedy} makes it act"
    ]


def presets_text(width: int) -> str:
    """The presets, and ranges of clips, in lines of that width: the end of `rft train --help`."""
    lines = ["what policy_loss.algorithm sets, where a setting is None:"]
    for name, preset in PRESETS.items():
        settings = ", ".join(f"{key}={value}" for key, value in preset.settings.items())
        text = f"{settings} (arXiv {preset.paper})"
        found = textwrap.wrap(text, width - _LEFT, break_long_words=False)
        names = [f"  {name}".ljust(_LEFT), *[" " * _LEFT] * (len(found) - 1)]
        lines += [left + right for left, right in zip(names, found, strict=True)]
    lines.append("the loss's own range of clips, where it is None; else 0.2 and 0.28:")
    for loss, clips in CLIPS.items():
        settings = ", ".join(f"{key}={value}" for key, value in clips.items())
        lines.append(f"  {loss}".ljust(_LEFT) + settings)
    return "\n".join(lines)


def presets_table() -> str:
    """The same as a table in Markdown, which `docs/algorithms.md` has."""
    lines = ["| algorithm | settings | paper |", "|---|---|---|"]
    for name, preset in PRESETS.items():
        settings = ", ".join(f"`{key}={value}`" for key, value in preset.settings.items())
        paper = f"[{preset.paper}](https://arxiv.org/abs/{preset.paper})"
        remark = f"; {preset.remark}" if preset.remark else ""
        lines.append(f"| `{name}`: {preset.title} | {settings}{remark} | {paper} |")
    return "\n".join(lines)


def _fields(config: PolicyLossConfig) -> dict[str, object]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
