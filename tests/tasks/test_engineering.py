"""VerilogEval and SciBench: made-up problems in the releases' layouts, and the real ones."""

from pathlib import Path

import pytest

from rft_jax import build_grader, grade_texts
from rft_jax.tasks.engineering import scibench, simulate, verilog
from rft_jax.utils.errors import InputError

from .made_up import REFERENCE, TEST, write_scibench, write_verilog

REAL = Path(__file__).parents[3] / "shared/data/domains/engineering"
ITEM = {"test": TEST, "reference": REFERENCE, "samples": 8}


def module(body):
    return f"module TopModule (input a, input b, output q);\n{body}\nendmodule"


@pytest.fixture
def release(tmp_path):
    return write_verilog(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[BEGIN]\nCODE\n[DONE]",
        "Here it is:\n```verilog\nCODE\n```\nDone.",
        "```\nmodule other; endmodule\n```\n```systemverilog\nCODE\n```",
        "CODE",
    ],
)
def test_code_is_found(text):
    code = module("assign q = a & b;")
    assert simulate.code_of(text.replace("CODE", code)).strip() == code


@pytest.mark.parametrize(
    "body",
    [
        "initial $finish;",
        'initial $display("Mismatches: 0 in 8 samples");',
        "assign q = tb.q_ref;",
        "RefModule r (.a(a), .b(b), .q(q));",
        '`include "ref.sv"',
        "assign q = \\tb .q_ref;",
    ],
)
def test_ways_to_a_score_without_a_design_are_refused(body):
    assert simulate.forbidden(module(body))


@pytest.mark.parametrize(
    "body",
    [
        "assign q = a & b; // $finish is not here",
        "wire [$clog2(8)-1:0] w; assign q = a & b;",
        "`default_nettype none\nassign q = a & b;",
    ],
)
def test_designs_are_not_refused(body):
    assert not simulate.forbidden(module(body))


@pytest.mark.slow
def test_simulation_in_the_sandbox(release):
    items = verilog.VerilogData().items(release)
    assert [item["samples"] for item in items] == [8] * 5
    grader = build_grader(verilog.grader(), options=verilog.host_options())
    answers = {
        verilog.right_answer(items[0]): 1.0,
        module("assign q = a | b;"): 0.1,  # wrong at two inputs of four
        module("assign q = a;"): 0.1 + 0.4 * (1 - 2 * 2 / 8),
        module("assign q = ;"): 0.0,
        module("initial $finish; assign q = 0;"): 0.0,
        "no code": 0.0,
    }
    grade = grade_texts(grader, list(answers), [ITEM] * len(answers))
    assert grade.reward == pytest.approx(list(answers.values()), abs=1e-6)
    assert not any(flags.any() for flags in grade.errors.values())


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared")
def test_the_real_references_pass():
    items = verilog.VerilogData().items(REAL)[:20]
    grader = build_grader(verilog.grader(), options=verilog.host_options())
    grade = grade_texts(grader, [verilog.right_answer(item) for item in items], items)
    assert grade.reward.tolist() == [1.0] * 20


def test_folds_are_apart(release, monkeypatch):
    monkeypatch.setattr(verilog, "_samples", lambda reference, test: 8)
    held_out = []
    for fold in range(verilog.FOLDS):
        rows = verilog.VerilogData(fold=fold).rows(release)
        held_out += [item["name"] for item in rows["valid"]]
        assert not {i["name"] for i in rows["train"]} & {i["name"] for i in rows["valid"]}
    assert len(set(held_out)) == len(held_out) == 5


def test_what_references_do_is_kept(release, tmp_path, monkeypatch):
    simulated = []

    def samples(reference, test):
        simulated.append(test)
        return None if "// 4" in test else 8

    def add(n):
        for path in sorted((release / "dataset_spec-to-rtl").glob("Prob000*")):
            other = path.with_name(path.name.replace("000", f"00{n}"))
            other.write_text(f"{path.read_text()}// also {n}\n")

    add(5)
    data = verilog.VerilogData(release=str(release))
    monkeypatch.setattr(verilog, "_samples", samples)
    first = data.materialize(tmp_path / "data")
    assert data.materialize(tmp_path / "data") == first and len(simulated) == 6
    add(6)
    data.materialize(tmp_path / "data")
    rows = "".join(Path(file).read_text() for file in (first.train, first.valid))
    assert "Prob006" in rows and "Prob004" not in rows
    assert len(simulated) == 7  # none of them twice, the one that fails included
    (tmp_path / "data" / verilog.OUTCOMES_FILE).write_text("damaged")
    data.materialize(tmp_path / "data")
    assert len(simulated) == 14


@pytest.mark.slow
def test_the_official_verdict_has_no_partial_credit():
    grader = build_grader(verilog.official_grader(), options=verilog.host_options())
    texts = [module("assign q = a & b;"), module("assign q = a;"), "no code"]
    assert grade_texts(grader, texts, [ITEM] * 3).reward.tolist() == [1, 0, 0]


def test_a_missing_simulator_is_named(release, monkeypatch):
    monkeypatch.setattr(simulate, "FOLDERS", ())
    with pytest.raises(InputError, match="Icarus Verilog: install it"):
        verilog.VerilogData().items(release)


@pytest.fixture
def problems(tmp_path):
    return write_scibench(tmp_path)


def test_scibench(problems):
    rows = scibench.ScibenchData(valid_problems=1).rows(problems)
    items = [*rows["train"], *rows["valid"]]
    assert len(items) == 3  # not the solutions' again
    grader = build_grader(scibench.grader())
    for factor, reward in ((1.04, 1), (1.125, 0.5), (1.3, 0), (1000, 0)):
        values = [float(item["answer"].replace("\u2212", "-")) * factor for item in items]
        texts = [f"so \\boxed{{{value:.6g}}}" for value in values]
        assert grade_texts(grader, texts, items).reward == pytest.approx(reward, abs=1e-3)
        official = grade_texts(build_grader(scibench.official_grader(), "host"), texts, items)
        assert official.reward.tolist() == [float(reward == 1)] * 3
