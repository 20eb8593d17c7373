"""Progress: a panel that stays in its place on a terminal, lines elsewhere."""

import io
import re
import sys

import pytest
from rich.console import Console

from rft_jax.logging.progress import Progress
from rft_jax.utils.console import log


def row(step, seconds=2.0, **metrics):
    timing = {"full_iteration": seconds, "tokens_per_s": 640.0, "peak_memory_bytes": 3 * 10**9}
    return {"stage": "rft", "step": step, **metrics, "timing": timing}


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def test_without_a_terminal_every_row_is_a_line_below_a_heading(capsys):
    with Progress("rft", 3, console=Console(file=io.StringIO())) as progress:
        progress.update(row(0, valid_reward_mean=0.25))
        progress.update(row(1, seconds=30.0, train_reward_mean=0.5, train_loss=None))
        progress.update(row(2, train_reward_mean=0.5))
        progress.update(row(3, train_reward_mean=0.5))
    assert capsys.readouterr().err.splitlines() == [
        "rft: compiling, which takes from seconds to minutes",
        "step        reward validation    entropy    seconds       left",
        "rft 0/3                0.2500                  2.00",
        "rft 1/3     0.5000                            30.00",
        "rft 2/3     0.5000                             2.00        2 s",
        "rft 3/3     0.5000                             2.00",
    ]


def test_a_mean_over_few_valid_samples_is_not_what_is_shown(capsys):
    few = {"train_reward_mean": 0.9, "train_reward_mean_all": 0.027, "train_valid_fraction": 0.03}
    with Progress("rft", 2, console=Console(file=io.StringIO())) as progress:
        progress.update(row(1, **few))
        progress.update(row(2, **few | {"train_valid_fraction": 0.96}))
    lines = capsys.readouterr().err.splitlines()
    assert "0.0270" in lines[2] and "0.9" not in lines[2] and "only 3% graded" in lines[2]
    assert "graded" not in lines[3]
    console = terminal()
    with Progress("rft", 1, console=console) as progress:
        progress.update(row(1, **few))
    assert "reward 0.027" in console.file.getvalue() and "only 3% graded" in console.file.getvalue()


def test_the_panel_says_that_it_compiles_that_it_ends_and_what_a_constant_earns():
    asked, console = [], terminal()
    with Progress("rft", 4, console=console, constant=0.62, stopping=lambda: bool(asked)) as shown:
        assert "compiling" in console.file.getvalue()
        shown.update(row(1, train_reward_mean=0.1, valid_reward_mean=0.5))
        shown.update(row(2, train_reward_mean=0.1))
        asked.append(1)
    text = console.file.getvalue()
    assert "validation 0.500 (best 0.500)  best constant answer 0.620" in text
    assert "once more ends at once" in text[text.rindex("2/4") :]


def test_lines_can_be_thinned_out_but_evaluations_and_the_end_are_told(capsys):
    with Progress("sft", 25, every=10, console=Console(file=io.StringIO())) as progress:
        for step in range(1, 26):
            valid = {"valid_reward_mean": 0.5} if step == 7 else {}
            progress.update(row(step, train_loss=1.0, **valid))
    steps = re.findall(r"sft (\d+)/25", capsys.readouterr().err)
    assert steps == ["7", "10", "20", "25"]


def test_time_left_follows_the_recent_pace_and_leaves_out_compilation():
    progress = Progress("rft", 100, console=terminal())
    assert progress.seconds_left is None
    progress.update(row(0, seconds=50.0))
    progress.update(row(1, seconds=99.0))
    assert progress.seconds_left is None
    progress.update(row(2, seconds=3.0))
    progress.update(row(3, seconds=5.0))  # an evaluation
    assert progress.seconds_left == pytest.approx(97 * 4.0)
    for step in range(4, 100):
        progress.update(row(step, seconds=1.0))
    assert progress.seconds_left == pytest.approx(1.0)


def test_the_best_validation_is_the_whole_stage_s():
    console, earlier = terminal(), [row(0, valid_reward_mean=0.25), row(1), row(2)]
    earlier += [row(2, valid_reward_mean_all=0.75, valid_reward_mean=0.9)]
    with Progress("rft", 4, console=console, earlier=earlier) as progress:
        progress.update(row(3, train_reward_mean=0.5, valid_reward_mean=0.5))
    assert "validation 0.500 (best 0.750" in console.file.getvalue()


def test_a_resumed_stage_does_not_take_its_first_step_for_the_pace():
    progress = Progress("rft", 100, console=terminal())
    progress.update(row(51, seconds=60.0))
    progress.update(row(52, seconds=1.0))
    assert progress.seconds_left == pytest.approx(48.0)


def test_a_terminal_has_one_panel_and_no_lines(capsys):
    console = terminal()
    with Progress("rft", 100, console=console) as progress:
        for step in range(101):
            valid = {"valid_reward_mean": step / 200} if step % 20 == 0 else {}
            progress.update(row(step, train_reward_mean=step / 100, **valid))
    assert capsys.readouterr().err == ""
    frames = re.split(r"(?:\r?\x1b\[\d?[AK])+", console.file.getvalue())
    last = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", frames[-1])
    assert "100/100" in last and "done" in last and "2 s a step" in last
    assert "reward 0.880 ▲ +0.250" in last and "validation 0.500 (best 0.500)" in last
    assert "tokens/s 640" in last and "3 G" in last
    assert len(last.strip().splitlines()) == 3


@pytest.mark.parametrize("width", [30, 50, 80, 120])
def test_the_panel_fits_any_terminal_and_breaks_no_pair(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    earlier = {"train_entropy": 0.06112, "train_grad_norm": 0.1439, "valid_reward_mean": 0.93}
    with Progress("rft", 100, console=console, constant=0.36, stopping=lambda: True) as progress:
        for step in range(50):
            progress.update(row(step, train_reward_mean=0.5, **earlier))
    frame = re.split(r"(?:\r?\x1b\[\d?[AK])+", console.file.getvalue())[-1]
    lines = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", frame).splitlines()
    assert max(map(len, lines)) <= width
    for pair in ("gradient norm 0.1439", "best constant answer 0.360", "peak memory 3 G", "49/100"):
        assert any(pair in line for line in lines)


def test_what_is_logged_meanwhile_stays_above_the_panel(monkeypatch):
    console = terminal()
    monkeypatch.setattr(sys, "stderr", console.file)
    with Progress("rft", 2, console=console) as progress:
        progress.update(row(1, train_reward_mean=0.1))
        log("warning: the disk is full")
        progress.update(row(2, train_reward_mean=0.2))
    text = console.file.getvalue()
    assert text.index("warning: the disk is full") < text.rindex("2/2")
    assert sys.stderr is console.file  # given back


def test_a_supervised_stage_shows_its_loss():
    console = terminal()
    with Progress("sft", 4, console=console) as progress:
        for step in range(1, 5):
            progress.update(row(step, train_loss=4.0 - step))
    assert "loss 0.500 ▼ -2.000" in console.file.getvalue()


def test_an_interrupted_stage_gives_the_terminal_back():
    console = terminal()
    with pytest.raises(KeyboardInterrupt), Progress("rft", 2, console=console) as progress:
        progress.update(row(1, train_reward_mean=0.1))
        raise KeyboardInterrupt
    assert console.file.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is back


def test_a_distilled_stage_shows_its_loss_beside_validations(capsys):
    with Progress("sdft", 2, console=Console(file=io.StringIO()), distilled=True) as progress:
        progress.update(row(0, valid_reward_mean=0.25))
        progress.update(row(1, train_loss=0.5, train_entropy=1.5))
    heading, before, first = capsys.readouterr().err.splitlines()[1:]
    assert heading.split() == ["step", "loss", "validation", "entropy", "seconds", "left"]
    assert before.split()[:3] == ["sdft", "0/2", "0.2500"]
    assert first.split()[:4] == ["sdft", "1/2", "0.5000", "1.5000"]
