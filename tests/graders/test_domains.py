"""Graders of finance and engineering, end to end on made-up files in the public ones' layout."""

import json
import re
import shutil
from pathlib import Path

import pytest

from rft_jax.config import HostOptions
from rft_jax.graders import build_grader, grade_texts

# ---- TAT-QA: questions on a table, with a scale ------------------------------------------------

QUESTIONS = [
    ("Change?", -12.6, "arithmetic", "million"),
    ("In percent?", -0.83, "arithmetic", "percent"),
    ("How many years?", "2", "count", ""),
    ("What grew?", ["Goodwill", "leases"], "multi-span", ""),
    ("Sales?", ["$1,496.5"], "span", "million"),
]
TATQA = [
    {
        "table": {"uid": "t", "table": [["", "2019", "2018"], ["Sales", "$1,496.5", "1,509.1"]]},
        "paragraphs": [{"uid": "p", "order": 1, "text": "Sales fell. Goodwill and leases grew."}],
        "questions": [
            dict(zip(("question", "answer", "answer_type", "scale"), question, strict=True))
            for question in QUESTIONS
        ],
    }
]
LAST_OBJECT = "(?s).*(\\{[^{}]*\\})"


def captured(grader):
    """A grader of the last flat JSON object of an answer."""
    text = "{{sample.output_text}}"
    return {"type": "regex", "input": text, "pattern": LAST_OBJECT, "group": 1, "grader": grader}


FIRST = {"type": "number", "which": "first", "input": "{{sample.output_json.answer[0]}}"}
FINANCE = {
    "type": "multi",
    "name": "tatqa",
    "calculate_output": "scale * (number * max(exact, percent) + (1 - number) * overlap)",
    "graders": {
        "number": {
            "type": "string_check",
            "operation": "eq",
            "input": "{{item.kind}}",
            "reference": "number",
        },
        "scale": captured(
            {
                "type": "string_check",
                "operation": "eq",
                "input": "{{sample.output_json.scale}}",
                "reference": "{{item.scale}}",
            }
        ),
        "exact": captured(FIRST | {"reference": "{{item.number}}", "absolute": 0.005}),
        "percent": captured(FIRST | {"reference": "{{item.fraction}}", "absolute": 0.00005}),
        "overlap": captured(
            {
                "type": "list_overlap",
                "input": "{{sample.output_json.answer}}",
                "reference": "{{item.answer}}",
                "metric": "f1",
            }
        ),
    },
}


def items_of(file):
    """A row a question, as the grader wants it."""
    for context in json.loads(file.read_text()):
        for question in context["questions"]:
            row = {"scale": question["scale"], "kind": "text", "number": "0", "fraction": "0"}
            if question["answer_type"] in ("arithmetic", "count"):
                value = float(question["answer"])
                fraction = value / 100 if question["scale"] == "percent" else value
                row |= {"kind": "number", "number": str(value), "fraction": str(fraction)}
                row["answer"] = [str(question["answer"])]
            else:
                row["answer"] = question["answer"]
            yield row


@pytest.fixture(scope="module")
def finance(tmp_path_factory):
    file = tmp_path_factory.mktemp("tatqa") / "tatqa_dataset_dev.json"
    file.write_text(json.dumps(TATQA))
    return list(items_of(file))


def answered(item, **changes):
    answer = {"answer": item["answer"], "scale": item["scale"]} | changes
    return f"I looked it up.\n```json\n{json.dumps(answer)}\n```\nDone."


@pytest.mark.parametrize("placement", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_answers_on_tables(finance, placement):
    grader = build_grader(FINANCE, placement)
    right = [answered(item) for item in finance]
    bookkeeping = [
        answered(finance[0], answer=["($12.6)"]),
        answered(finance[1], answer=["-0.83%"]),
    ]
    wrong_scale = [answered(item, scale="thousand") for item in finance]
    wrong = [answered(item, answer=["999"]) for item in finance]
    everything = [answered(item, answer=[str(n) for n in range(50)]) for item in finance]
    nothing = [answered(item, answer=[]) for item in finance]
    prose = ["It went down."] * len(finance)
    texts = [*right, *bookkeeping, *wrong_scale, *wrong, *everything, *nothing, *prose]
    rows = [*finance, *finance[:2], *(finance * 5)]
    grade = grade_texts(grader, texts, rows)
    assert grade.valid.all()
    assert grade.reward[:7].tolist() == [1] * 7
    assert grade.reward[7:].tolist() == [0] * 25


# ---- VerilogEval: a module that a test bench simulates -----------------------------------------

ICARUS = "/usr/lib/x86_64-linux-gnu/ivl"
BENCH = """
module tb();
  reg a = 0; wire q, q_ref; integer n = 0, missed = 0;
  RefModule good(.a(a), .q(q_ref));
  TopModule top(.a(a), .q(q));
  initial begin
    repeat (4) begin #5 a = ~a; #5 n = n + 1; if (q !== q_ref) missed = missed + 1; end
    $display("Mismatches: %0d in %0d samples", missed, n);
    $finish;
  end
endmodule
"""
REFERENCE = "module RefModule(input a, output q);\n  assign q = ~a;\nendmodule\n"
SIMULATES = r"""
import os, re, subprocess, tempfile

IVL = "/usr/lib/x86_64-linux-gnu/ivl"
OPTIONS = f"root:tb\nbasedir:{IVL}\nmodule:{IVL}/system.vpi\ngeneration:2012\nout:a.out\niwidth:32\nwidthcap:65536\n"
TARGET = "functor:cprop\nfunctor:nodangle\nflag:DLL=vvp.tgt\nflag:VVP_EXECUTABLE=/usr/bin/vvp\n"

def grade(sample, item):
    found = re.findall(r"```\w*\n(.*?)```", sample["output_text"], re.S)
    code = found[-1] if found else ""
    if "module TopModule" not in code or re.search(r"\$|\btb\b|RefModule", code):
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        def run(*command, text=None):
            return subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, cwd=folder)
        for name, text in (("options", OPTIONS), ("target", TARGET)):
            open(os.path.join(folder, name), "w").write(text)
        made = run(IVL + "/ivl", "-Coptions", "-Ctarget", "--", "-", text=code + item["test"] + item["ref"])
        log = "" if made.returncode else run("/usr/bin/vvp", "-M", IVL, "-n", "a.out").stdout
    return float(f"Mismatches: 0 in {item['samples']} samples" in log)
"""  # noqa: E501


@pytest.mark.skipif(
    not shutil.which("bwrap"), reason="needs bubblewrap; apt-get install bubblewrap"
)
@pytest.mark.skipif(
    not Path(ICARUS, "ivl").exists(), reason="needs Icarus Verilog; apt-get install iverilog"
)
def test_modules_are_simulated_in_the_sandbox(tmp_path):
    for name, text in (("prompt.txt", "Invert a."), ("ref.sv", REFERENCE), ("test.sv", BENCH)):
        (tmp_path / f"Prob001_invert_{name}").write_text(text)
    (prompt,) = tmp_path.glob("*_prompt.txt")
    stem = prompt.name.removesuffix("_prompt.txt")
    ref, test = ((tmp_path / f"{stem}_{part}.sv").read_text() for part in ("ref", "test"))
    item = {"test": test, "ref": ref, "samples": 4}
    right = re.sub("RefModule", "TopModule", ref)
    bodies = {
        right: 1,
        right.replace("~a", "a"): 0,
        right.replace("assign q = ~a;", "initial $finish;"): 0,
        right.replace("assign q = ~a;", "assign q = tb.q_ref;"): 0,
        right.replace("~a", "~~;"): 0,
    }
    grader = build_grader(
        {"type": "python", "name": "verilog", "source": SIMULATES},
        options=HostOptions(workers=1, tools=(ICARUS, "/usr/bin/vvp")),
    )
    texts = [f"Here:\n```verilog\n{body}```" for body in bodies]
    grade = grade_texts(grader, [*texts, "no module"], [item] * 6)
    assert grade.reward.tolist() == [*bodies.values(), 0] and grade.valid.all()
