"""`rft show`: the run in plain text where there is no terminal, and nothing that a model steers."""

import io

import numpy as np
import pytest
from rich.console import Console

from rft_jax.commands import entry
from rft_jax.report.terminal import number, show_run, sparkline, visible


def show(workdir, samples=3):
    stream = io.StringIO()
    show_run(workdir, samples=samples, console=Console(file=stream))
    return stream.getvalue()


def test_it_shows_stages_metrics_comparison_and_samples(make_run, rows, sample, results):
    lines = [sample(r / 10, answer=f"answer {r}") for r in range(11)]
    text = show(make_run(rows, {10: [sample()], 20: lines}, results))
    for expected in (
        "sft",
        "of 40, in 20 s",
        "reward_mean",
        "+0.4",
        "Always 0: errors/other_error_mean",
    ):
        assert expected in text
    assert "genes_unseen (200 cases)" in text and "small_rft - small_base, top1" in text
    assert "samples of step 20" in text
    answers = [line.split()[-1] for line in text.splitlines() if "answer:" in line]
    assert answers == ["10", "5", "0"]  # the best, the middle, the worst
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 100


def test_what_a_model_wrote_cannot_steer_the_terminal(make_run, rows, sample):
    text = "\x1b[2J\x1b]0;owned\x07 [bold red]markup[/] \u202ereversed \x9b31m \ud800 a\rb"
    rows[-1]["train_" + text] = 1.0
    lines = [
        sample(
            prompt=[{"role": text, "content": text}], answer=text, scores={text: 1.0}, thought=text
        )
    ]
    shown = show(make_run(rows, {10: lines}, name=text))
    assert not set(shown) & set("\x1b\x07\x9b\u202e\ud800\r")
    assert "␛[2J" in shown and "[bold red]markup[/]" in shown
    shown.encode()


def test_ordinary_text_of_any_language_stays_as_it_is():
    text = "naïve — 基因 👩‍🔬 مرحبا\tx\n"
    assert visible(text).plain == text


def test_long_texts_are_cut(make_run, rows, sample):
    text = show(make_run(rows, {10: [sample(answer="line\n" * 100)]}), samples=1)
    assert "89 more lines" in text and text.count("line\n") < 20


def test_a_run_without_steps_says_so(make_run):
    workdir = make_run()
    (workdir / "sft" / "metrics.jsonl").unlink()
    assert "No step is done yet." in show(workdir)


def test_sparklines_span_the_values():
    assert sparkline(np.arange(8.0)) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(np.arange(1000.0))) == 16
    assert sparkline(np.asarray([])) == "" and len(set(sparkline(np.ones(5)))) == 1
    assert sparkline(np.asarray([0, np.nan, 1])) == "▁█"


def test_numbers_are_short():
    values = (None, 0.0, 0.123456, 1234.5, 98_765.0, 2.4e9)
    assert [number(value) for value in values] == ["–", "0", "0.1235", "1234", "98.8 k", "2.4 G"]


def test_the_command_shows_a_run_and_writes_its_report(make_run, rows, capsys):
    workdir = make_run(rows)
    assert entry.main(["show", "--workdir", str(workdir)]) == 0
    assert "reward_mean" in capsys.readouterr().out
    assert not (workdir / "report.html").exists()
    assert entry.main(["show", "--workdir", str(workdir), "--html"]) == 0
    assert (workdir / "report.html").exists()
    assert capsys.readouterr().err.strip().endswith("report.html")


@pytest.mark.parametrize("arguments", [["--workdir", "nowhere"], ["--samples", "-1"]])
def test_the_command_refuses_bad_input(arguments, make_run, capsys):
    assert entry.main(["show", "--workdir", str(make_run()), *arguments]) == 2
    error = capsys.readouterr().err
    assert "not a work directory" in error or "--samples must be at least 0" in error
