"""Thinned curves, trends, and which chart a metric is drawn in."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays

from rft_jax.report.charts import always_zero, arrange, facts, payload, thin, trend
from rft_jax.report.history import Series, read_run

values = arrays(
    np.float64,
    st.integers(0, 300),
    elements=st.floats(-1e6, 1e6) | st.just(float("nan")),
)


def series(value):
    return Series(np.arange(len(value)), value)


@given(values, st.integers(1, 40))
def test_a_thinned_curve_keeps_ends_and_extremes_in_order(value, buckets):
    full = series(value)
    finite = value[np.isfinite(value)]
    thinned = thin(full, buckets)
    assert len(thinned.step) <= 2 * buckets + 2
    assert np.all(np.diff(thinned.step) > 0)
    assert np.array_equal(value[thinned.step], thinned.value)
    if len(finite):
        assert thinned.value.min() == finite.min() and thinned.value.max() == finite.max()
        assert thinned.value[0] == finite[0] and thinned.value[-1] == finite[-1]


@given(values)
def test_a_trend_is_the_mean_of_the_surrounding_finite_values(value):
    finite = value[np.isfinite(value)]
    half = max(len(finite) // 10, 9) // 2
    expected = [finite[max(k - half, 0) : k + half + 1].mean() for k in range(len(finite))]
    np.testing.assert_allclose(trend(series(value)).value, expected, rtol=1e-6, atol=1e-4)


def test_every_metric_is_drawn_once_or_named_as_always_zero(make_run, rows):
    stage = read_run(make_run(rows)).stages[1]
    drawn = [name for _, charts in arrange(stage) for chart in charts for name in chart.names]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {
        "reward_mean",
        "scores/exact",
        "loss",
        "surprise",
        "timing/full_iteration",
        "timing/tokens_per_s",
    }
    assert always_zero(stage) == ["errors/other_error_mean"]


def test_facts_are_the_newest_figures(make_run, rows):
    supervised, reinforced = read_run(make_run(rows)).stages
    found = {fact.label: (fact.value, fact.note) for fact in facts(reinforced)}
    assert found["Steps"] == ("100", "of 100, in 3 min")
    assert found["Validation reward"] == ("0.600", "+0.400 since step 0")
    assert found["Best validation"] == ("0.600", "at step 100")
    assert found["Training reward"][0] == "0.390"  # the mean of the last six, 95 to 100
    assert [fact.label for fact in facts(supervised)] == ["Steps", "Loss"]


def test_the_pages_curves_count_what_is_not_finite(make_run, rows):
    curves = {
        curve["name"]: curve
        for section in payload(read_run(make_run(rows)).stages[1])["sections"]
        for chart in section["charts"]
        for curve in chart["series"]
    }
    assert curves["train_loss"]["not_finite"] == 1 and len(curves["train_loss"]["y"]) == 99
    assert curves["valid_reward_mean"]["x"] == [0, 20, 40, 60, 80, 100]
    assert curves["valid_reward_mean"]["low"] == [0.1, 0.18, 0.26, 0.34, 0.42, 0.5]
    assert "trend" in curves["train_loss"] and "trend" not in curves["valid_reward_mean"]
