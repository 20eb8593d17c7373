"""Made-up releases in the layouts that their authors publish; nothing in them is of theirs."""

import json
from pathlib import Path

from rft_jax.tasks.insurance import coverage, perils

NOTES = {
    "Lightning": ["lightning damage", "lightning strike at tower", "lightning at school"],
    "Hail": ["hail damage", "hail at library", "hail on roof"],
    "Vehicle": ["car hit pole", "truck hit light pole", "vehicle hit sign"],
}
CASE = "% Text\n% {text}\n\n% Question\n% {question}\n\n% Facts\nx(y).\n\n% Test\n:- halt.\n"
CASES = {
    "tax_case_1": ("Ann was paid $41000 in 2015.", "How much tax does Ann have to pay? $6,512"),
    "tax_case_2": ("Bob was paid nothing.", "How much tax does Bob have to pay? $0"),
    "s151_a_pos": ("Ann is alone.", "Ann's exemption under section 151(a) is $2000. Entailment"),
    "s151_a_neg": ("Ann is alone.", "Ann's exemption under section 151(a) is $9. Contradiction"),
    "s63_b_pos": ("Bob is old.", "Section 63(b) applies to Bob. Entailment"),
}


def _question(uid, answer, kind, scale=""):
    asked = {"uid": uid, "question": f"What of {uid}?", "answer": answer, "answer_type": kind}
    return asked | {"scale": scale, "derivation": "", "answer_from": "table"}


QUESTIONS = [
    _question("change", -12.6, "arithmetic", "million"),
    _question("ratio", 22.22, "arithmetic", "percent"),
    _question("years", "2", "count"),
    _question("sales", ["$1,496.5"], "span", "million"),
    _question("types", ["fixed-price type", "cost-plus type"], "multi-span"),
]
CONTEXT = {
    "table": {"uid": "t", "table": [["", "2019"], ["Sales", "$1,496.5"]]},
    "paragraphs": [
        {"uid": "b", "order": 2, "text": "Second."},
        {"uid": "a", "order": 1, "text": "First."},
    ],
    "questions": QUESTIONS,
}
REFERENCE = "module RefModule (input a, input b, output q);\n  assign q = a & b;\nendmodule\n"
TEST = """module tb();
  reg [1:0] in = 0; reg clk = 0; integer errors = 0, clocks = 0;
  wire q_ref, q_dut;
  RefModule good1 (.a(in[0]), .b(in[1]), .q(q_ref));
  TopModule top_module1 (.a(in[0]), .b(in[1]), .q(q_dut));
  always #5 clk = ~clk;
  always @(posedge clk) begin
    clocks = clocks + 1;
    if (q_ref !== q_dut) errors = errors + 1;
    in = in + 1;
    if (clocks == 8) begin
      $display("Mismatches: %1d in %1d samples", errors, clocks);
      $finish;
    end
  end
endmodule
"""


def write_lgpif(folder: Path, more: int = 0) -> Path:
    """Nine notes and so many more; the test file repeats one of the training file's."""
    header = ",".join(f'"{name}"' for name in (*perils.PERILS, "Loss", "Description"))

    def row(peril, note):
        flags = ",".join(str(int(name == peril)) for name in perils.PERILS)
        return f'{flags},100.5,"{note}      "'

    rows = [row(peril, note) for peril, notes in NOTES.items() for note in notes]
    rows += [row("Wind", f"wind took roof {n}") for n in range(more)]
    (folder / "Data").mkdir(parents=True)
    (folder / "Data" / "peril.training.csv").write_text("\n".join([header, *rows]) + "\n")
    test = [row("Hail", "hail damage"), row("Vehicle", "bus hit pole")]
    (folder / "Data" / "peril.validation.csv").write_text("\n".join([header, *test]) + "\n")
    return folder


def write_vague_contracts(folder: Path, clauses: int = 3) -> Path:
    """Clauses in three versions."""
    columns = "title,version,nYes,nNo,nCantDecide,header,continuation"
    rows = [
        f'Clause {n},{version},{yes},{no},{unclear},"Covers <b>""x""</b>.",Claim {n} {version}.'
        for n in range(clauses)
        for version, yes, no, unclear in (("a", 24, 7, 4), ("b", 22, 0, 0), ("c", 2, 30, 1))
    ]
    path = folder / coverage.FILE
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([columns, *rows]) + "\n")
    return folder


def write_sara(folder: Path, more: int = 0) -> Path:
    """Two sums and three statements of two sections, and so many more statements to train on."""
    added = {
        f"s63_c_{n}_pos": (f"Eve is {n}.", f"Section 63(c)({n}) applies to Eve. Entailment")
        for n in range(more)
    }
    for name, (text, question) in (CASES | added).items():
        path = folder / "cases" / f"{name}.pl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CASE.format(text=text, question=question))
    for number in (63, 151):
        path = folder / "statutes" / "source" / f"section{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"§{number}. Law of {number}\n")
    (folder / "splits").mkdir()
    (folder / "splits" / "test").write_text("tax_case_2\ns63_b_pos\n")
    return folder


def write_tatqa(folder: Path) -> Path:
    """Three contexts to train on and four of the development file."""

    def context(n):
        renamed = [asked | {"uid": f"{asked['uid']}-{n}"} for asked in QUESTIONS]
        return CONTEXT | {"table": CONTEXT["table"] | {"uid": f"t{n}"}, "questions": renamed}

    (folder / "dataset_raw").mkdir(parents=True)
    for split, numbers in {"train": range(3), "dev": range(10, 14)}.items():
        path = folder / "dataset_raw" / f"tatqa_dataset_{split}.json"
        path.write_text(json.dumps([context(n) for n in numbers]))
    return folder


def write_verilog(folder: Path, problems: int = 5) -> Path:
    """So many times the same gate."""
    specs = folder / "dataset_spec-to-rtl"
    specs.mkdir(parents=True)
    for n in range(problems):
        (specs / f"Prob{n:03}_and_prompt.txt").write_text("Implement TopModule: q = a and b.\n")
        (specs / f"Prob{n:03}_and_ref.sv").write_text(REFERENCE)
        (specs / f"Prob{n:03}_and_test.sv").write_text(f"{TEST}// {n}\n")
    return folder


def write_scibench(folder: Path, more: int = 0) -> Path:
    """Three problems of one book and so many more, and the same once more with solutions."""
    original = folder / "dataset" / "original"
    original.mkdir(parents=True)
    made = [
        {"problem_text": f"How far is {n}?", "answer_number": number, "unit": unit}
        | {"problemid": f" {n} ", "answer_latex": ""}
        for n, (number, unit) in enumerate(
            [("2.5", "$10^{3}$ m"), (" \u2212" + "2 ", ""), ("+7", "s"), *[("9", "m")] * more]
        )
    ]
    (original / "book.json").write_text(json.dumps(made))
    (original / "book_sol.json").write_text(json.dumps(made))
    return folder
