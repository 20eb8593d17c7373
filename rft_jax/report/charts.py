"""Which metrics are drawn together, under which titles, and how long curves are thinned.

A metric that is not listed here gets a chart of its own in the section that its name belongs to, so
that a new metric shows up by itself.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rft_jax.graders.constant import Constant
from rft_jax.report.history import Series, StageHistory
from rft_jax.utils.formats import duration
from rft_jax.utils.types import JsonObject

BUCKETS = 400  # of a thinned curve; each keeps its lowest and highest point
TREND_FRACTION = 0.1  # of a curve's points, the width of the trend's window
NOISY = {"train": 20, "valid": 60, "": np.inf}  # points from which a curve has a trend
ENDS = ("_low", "_high")  # of the interval of the metric whose name stands before
COUNT = "_count"  # of errors, whose fractions are drawn
ALL = "reward_mean_all"  # with samples that are not valid as 0; drawn where there are some
AUDIT = "audit/reward_mean"  # what a grader that is in no reward says
LEFT_OUT = ("items", "samples", "timing/first_step_seconds")  # constants


class Fact(NamedTuple):
    """A figure that says how a stage is doing."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Metrics in one chart; names are without `train_` and `valid_`."""

    title: str
    names: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Charts under one heading; a metric that starts with `prefix` and is not listed joins them."""

    title: str
    charts: tuple[Chart, ...] = ()
    prefix: str | None = None


SECTIONS = (
    Section(
        "Reward",
        (
            Chart("Mean reward", ("reward_mean", ALL, AUDIT)),
            Chart("Spread of the reward", ("reward_std",), "standard deviation"),
            Chart(
                "Groups that teach nothing",
                ("zero_std_groups_fraction", "sampled_zero_std_groups_fraction"),
                "all rewards equal",
            ),
            Chart("Samples with a valid grade", ("valid_fraction",)),
        ),
    ),
    Section(
        "Task",
        (
            Chart("Right answer among the first k", ("top1", "top5", "top_max")),
            Chart("Mean reciprocal rank", ("mrr",)),
            Chart("Malformed answers", ("malformed_rate",)),
            Chart("Length of the list", ("mean_list_length",)),
        ),
    ),
    Section(
        "Audit",
        (
            Chart("Reward above the audit", ("audit/difference",), "difference of the means"),
            Chart("Reward and audit go together", ("audit/correlation",), "correlation"),
        ),
        prefix="audit/",
    ),
    Section(
        "Form of the answers",
        (
            Chart("Length", ("answers/bytes_mean",), "bytes"),
            Chart(
                "Begin alike", ("answers/same_opening_fraction",), "with the commonest three words"
            ),
            Chart("JSON and nothing else", ("answers/json_fraction",), "fraction of answers"),
            Chart("Repeat themselves", ("answers/repeated_fraction",), "fraction of 4-grams"),
        ),
        prefix="answers/",
    ),
    Section("Scores by grader", prefix="scores/"),
    Section("Details by grader", prefix="details/"),
    Section("Errors", prefix="errors/"),
    Section(
        "Lengths",
        (
            Chart("Completion", ("completion_tokens_mean",), "tokens"),
            Chart("Thought", ("reasoning_tokens_mean",), "tokens"),
            Chart("Cut at the limit", ("truncated_fraction",), "fraction of samples"),
            Chart("Padding", ("padding_fraction",), "fraction of the update's tokens"),
            Chart(
                "Answers longer than output_bytes",
                ("overlong_answers_fraction",),
                "fraction of samples, not graded",
            ),
        ),
    ),
    Section(
        "Learning",
        (
            Chart("Loss", ("loss",)),
            Chart("Accuracy of the next token", ("mean_token_accuracy",)),
            Chart("Entropy of the policy", ("entropy",), "nats a token"),
            Chart("Gradient norm", ("grad_norm",), "before clipping"),
            Chart("Divergence from the reference", ("kl",)),
            Chart(
                "Clipped tokens",
                ("clip_fraction_low", "clip_fraction_high", "clip_fraction_dual"),
                "fraction of tokens",
            ),
            Chart(
                "Sampler and learner differ by", ("sampler_learner_logprob_gap",), "log-probability"
            ),
        ),
    ),
    Section(
        "Time and memory",
        (
            Chart("Seconds of a step", ("timing/full_iteration",), "evaluations included"),
            Chart("Seconds of an evaluation", ("timing/eval",)),
            Chart("Tokens a second", ("timing/tokens_per_s",)),
            Chart("Peak memory", ("timing/peak_memory_bytes",), "bytes"),
            Chart("Programs compiled", ("timing/compilations", "timing/compilations_cached")),
            Chart("Seconds of compilation", ("timing/compile_seconds",), "so far"),
        ),
        prefix="timing/",
    ),
    Section("Others", prefix=""),
)


def split_name(name: str) -> tuple[str, str]:
    """("train" | "valid" | "", name without that prefix) of a metric."""
    for split in ("train", "valid"):
        if name.startswith(f"{split}_"):
            return split, name.removeprefix(f"{split}_")
    return "", name


def arrange(stage: StageHistory) -> list[tuple[Section, list[Chart]]]:
    """The sections with the charts that a stage has metrics for, none of them always 0."""
    present = {split_name(name)[1] for name in stage.series} - {
        *LEFT_OUT,
        "completion_tokens",
        "target_tokens",
    }
    present = sorted(
        name for name in present if _interval_of(name) not in present and not name.endswith(COUNT)
    )
    rest = [name for name in present if name not in always_zero(stage)]
    if _is_same(stage, ALL, "reward_mean"):
        rest = [name for name in rest if name != ALL]
    arranged = []
    for section in SECTIONS:
        charts = []
        for chart in section.charts:
            names = tuple(name for name in chart.names if name in rest)
            if names:
                charts.append(Chart(chart.title, names, chart.note))
                rest = [name for name in rest if name not in names]
        if section.prefix is not None:
            more = [name for name in rest if name.startswith(section.prefix)]
            charts += [_chart_of(name, section.prefix) for name in more]
            rest = [name for name in rest if name not in more]
        if charts:
            arranged.append((section, charts))
    return arranged


def _chart_of(name: str, prefix: str) -> Chart:
    """A chart of a metric that is in no section."""
    title = name.removeprefix(prefix)
    if name.startswith("errors/"):
        return Chart(title.removesuffix("_mean"), (name,), "fraction of samples")
    return Chart(title, (name,))


def _is_same(stage: StageHistory, name: str, other: str) -> bool:
    """Whether two metrics have had the same values throughout."""
    pairs = [
        (stage.values(f"{s}_{name}"), stage.values(f"{s}_{other}")) for s in ("train", "valid")
    ]
    return all(len(a) == len(b) and np.allclose(a, b, atol=1e-6) for a, b in pairs)


def _interval_of(name: str) -> str:
    """The metric of which this one is an end of the interval, if it is one."""
    return name.removesuffix("_low").removesuffix("_high") if name.endswith(ENDS) else ""


def always_zero(stage: StageHistory) -> list[str]:
    """The metrics, without `train_` and `valid_`, that have been 0 at every step."""
    zero: dict[str, bool] = {}
    for name, series in stage.series.items():
        base = split_name(name)[1]
        zero[base] = zero.get(base, True) and not np.any(series.value)  # NaN counts as not 0
    return sorted(base for base, is_zero in zero.items() if is_zero)


def trend(series: Series) -> Series:
    """The mean over the surrounding `TREND_FRACTION` of the points, at least 9; NaN left out."""
    finite = np.isfinite(series.value)
    step, value = series.step[finite], series.value[finite]
    width = max(int(TREND_FRACTION * len(value)), 9)
    total = np.concatenate([[0.0], np.cumsum(value)])
    index = np.arange(len(value))
    first = np.maximum(index - width // 2, 0)
    end = np.minimum(index + width // 2 + 1, len(value))
    return Series(step, (total[end] - total[first]) / np.maximum(end - first, 1))


def thin(series: Series, buckets: int = BUCKETS) -> Series:
    """The finite points, or of so many buckets of neighbors the lowest and the highest one.

    Returns:
        At most 2 * buckets + 2 points: the first and the last one are kept.
    """
    finite = np.isfinite(series.value)
    step, value = series.step[finite], series.value[finite]
    if len(value) <= 2 * buckets:
        return Series(step, value)
    edges = np.linspace(0, len(value), buckets + 1).astype(int)
    kept = {0, len(value) - 1}
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        part = value[first:end]
        kept |= {int(first + part.argmin()), int(first + part.argmax())}
    index = sorted(kept)
    return Series(step[index], value[index])


def facts(stage: StageHistory) -> list[Fact]:
    """The figures that come first, for people who have ten seconds."""
    seconds = float(stage.values("timing/full_iteration").sum())
    found = [Fact("Steps", f"{stage.done:,}", f"of {stage.steps:,}, in {duration(seconds)}")]
    for label, name in (("Validation reward", "valid_reward_mean"), ("Top@1", "valid_top1")):
        if len(value := stage.values(name)):
            change = f"{value[-1] - value[0]:+.3f} since step {stage.series[name].step[0]}"
            found.append(Fact(label, f"{value[-1]:.3f}", change if len(value) > 1 else ""))
    if len(value := stage.values("valid_reward_mean")):
        best, step = stage.best("valid_reward_mean")
        found.append(Fact("Best validation", f"{best:.3f}", f"at step {step}"))
        if stage.constant is not None:
            found.append(_constant_fact(stage.constant, float(value[-1])))
    if len(value := stage.values(f"valid_{AUDIT}")):
        change = f"{value[-1] - value[0]:+.3f} since step {stage.series[f'valid_{AUDIT}'].step[0]}"
        note = f"a grader that is in no reward; {change}"
        found.append(Fact("Audit of validation", f"{value[-1]:.3f}", note))
    reinforced = "train_reward_mean" in stage.series
    for label, name in (
        [("Training reward", "train_reward_mean")]
        if reinforced
        else [("Loss", "train_loss"), ("Token accuracy", "train_mean_token_accuracy")]
    ):
        if len(stage.values(name)):
            recent = trend(stage.series[name]).value[-1]
            found.append(Fact(label, f"{recent:.3f}", "mean of the last steps"))
    return found


def _constant_fact(constant: Constant, last: float) -> Fact:
    note = "the same answer to every item"
    if constant.reward >= last:
        note += ", and no less than the model"
    return Fact("Best constant answer", f"{constant.reward:.3f}", note)


def payload(stage: StageHistory) -> JsonObject:
    """A stage's figures and curves as a JSON value for the page."""
    return {
        "name": stage.name,
        "kind": stage.kind,
        "steps": stage.steps,
        "done": stage.done,
        "thinned": stage.done > 2 * BUCKETS,
        "constant": stage.constant and stage.constant._asdict(),
        "facts": [fact._asdict() for fact in facts(stage)],
        "zero": always_zero(stage),
        "sections": [
            {
                "title": section.title,
                "charts": [
                    {
                        "title": chart.title,
                        "note": chart.note,
                        "series": [
                            _curve(stage, name, split)
                            for name in chart.names
                            for split in ("train", "valid", "")
                            if _full_name(split, name) in stage.series
                        ],
                    }
                    for chart in charts
                ],
            }
            for section, charts in arrange(stage)
        ],
    }


def _full_name(split: str, name: str) -> str:
    return f"{split}_{name}" if split else name


def _curve(stage: StageHistory, name: str, split: str) -> JsonObject:
    full = _full_name(split, name)
    series = stage.series[full]
    curve = {"name": full, "split": split, "not_finite": int((~np.isfinite(series.value)).sum())}
    curve |= _points(thin(series))
    ends = [_points(thin(stage.series[full + e])) for e in ENDS if full + e in stage.series]
    if len(ends) == 2 and all(end["x"] == curve["x"] for end in ends):
        curve["low"], curve["high"] = (end["y"] for end in ends)
    if len(series.value) > NOISY[split]:
        curve["trend"] = _points(thin(trend(series)))
    return curve


def _points(series: Series) -> dict[str, list]:
    return {"x": series.step.tolist(), "y": [float(f"{value:.5g}") for value in series.value]}
