"""`rft show`: the run in plain text where there is no terminal, and nothing that a model steers."""

import io

import pytest
from rich.console import Console

from rft_jax.commands import entry
from rft_jax.report.ending import end_of_run
from rft_jax.report.terminal import show_run, visible


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


def test_where_reward_and_audit_differ_is_shown(make_run, rows, sample):
    for row in rows[::20]:
        row |= {"valid_audit/reward_mean": 0.5 - row["step"] / 250, "valid_audit/correlation": 0.1}
    audit = {
        step: [sample(1.0, audit=0.0, answer=f"trick {step} {n}", expected="work") for n in "abcd"]
        for step in (80, 100)
    }
    for found in audit.values():
        for line in found:
            del line["advantage"]
    text = show(make_run(rows, audit=audit))
    assert "Audit of validation" in text and "-0.400 since step 0" in text
    assert "audit/reward_mean" in text and "audit/correlation" in text
    assert "where reward and audit differ most at step 100" in text
    answers = [line.split(": ")[1].strip() for line in text.splitlines() if "answer:" in line]
    assert answers == ["trick 100 a", "trick 100 b", "trick 100 c"]
    assert "reward 1  audit 0" in text and "expected: work" in text


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


def test_the_command_shows_a_run_and_writes_its_report(make_run, rows, capsys):
    workdir = make_run(rows)
    assert entry.main(["show", "--workdir", str(workdir)]) == 0
    assert "reward_mean" in capsys.readouterr().out
    assert not (workdir / "report.html").exists()
    assert entry.main(["show", "--workdir", str(workdir), "--html"]) == 0
    assert (workdir / "report.html").exists()
    assert capsys.readouterr().err.strip().endswith("report.html")


@pytest.mark.parametrize("arguments", [["--workdir", "nowhere"], ["--num-samples", "-1"]])
def test_the_command_refuses_bad_input(arguments, make_run, capsys):
    assert entry.main(["show", "--workdir", str(make_run()), *arguments]) == 2
    error = capsys.readouterr().err
    assert "not a work directory" in error or "samples: must be at least 0" in error


@pytest.mark.parametrize("width", [50, 80, 120])
def test_names_are_never_broken_and_figures_never_vanish(make_run, rows, width):
    long = "errors/python_grader_runtime_error_mean"
    for k, line in enumerate(rows[1:], 1):
        line |= {f"train_{long}": k / 100, "train_zero_std_groups_fraction": 0.25}
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    show_run(make_run(rows), console=console)
    text = stream.getvalue()
    for name in (long, "zero_std_groups_fraction", "reward_mean", "surprise"):
        assert name in text
    assert "0.25" in text and "+0.4" in text and "\u2026" not in text
    assert max(map(len, text.splitlines())) <= width


def test_the_expected_answer_stands_below_the_model_s(make_run, rows, sample):
    text = show(make_run(rows, {10: [sample(expected="deny")]}))
    assert text.index("answer: an answer") < text.index("expected: deny")


def test_a_constant_that_does_as_well_is_told(make_run, rows):
    workdir = make_run(rows)
    (workdir / "rft" / "constant.json").write_text('{"answer": "deny", "reward": 0.65}')
    assert "0.650" in show(workdir) and "no less than the model" in show(workdir)
    ending = " ".join(end_of_run(workdir))
    assert "the best constant answer earns 0.650" in ending and "warning" in ending
    (workdir / "rft" / "constant.json").write_text('{"answer": "deny", "reward": 0.3}')
    assert "no less" not in show(workdir) and "warning" not in " ".join(end_of_run(workdir))


def test_the_end_of_a_run_names_report_and_best_checkpoint(make_run, rows):
    workdir = make_run(rows)
    for step, reward in ((80, 0.6), (100, 0.5)):
        folder = workdir / "rft" / "checkpoints" / str(step) / "metrics"
        folder.mkdir(parents=True)
        (folder / "metrics").write_text(f'{{"valid_reward_mean": {reward}}}')
    (workdir / "report.html").write_text("")
    ending = end_of_run(workdir)
    assert f"report: {workdir}/report.html" in ending
    assert f"best checkpoint: {workdir}/rft/checkpoints/80" in ending
