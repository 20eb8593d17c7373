"""The grader of Verilog: compiles an answer with its test bench and counts wrong outputs.

This file is the source of a `python` grader (`verilog.grader`): it runs in the sandbox, where
nothing of rft_jax is, and imports the standard library only. The parts of Icarus Verilog (11 or 12)
are called one by one, because its driver needs /proc, which a sandbox does not have.

The benchmark's own verdict, "Mismatches: 0 in N samples", can be had without a design: by a module
that ends the simulation, prints that line, or reads the reference's outputs. So system tasks,
directives and the names of the bench are refused, and N has to be the reference's.
"""

import glob
import os
import re
import subprocess
import tempfile

VVP = "/usr/bin/vvp"
FOLDERS = ("/usr/lib/*/ivl", "/usr/lib/ivl", "/usr/local/lib/ivl")
COMPILE_SECONDS, SIMULATE_SECONDS = 20, 30
# What an answer earns that compiles, but whose simulation does not come to its end.
UNFINISHED = 0.05
HARMLESS = (
    r"\$(?:clog2|signed|unsigned|bits|countones|onehot0?|isunknown|size|high|low|left|right)\b"
)
BENCH = r"\b(?:tb|good1|stim1|top_module1|RefModule|stimulus_gen|bind|program)\b"
MODULES = ("system", "vhdl_sys", "vhdl_textio", "v2005_math", "va_math", "v2009")
GENERATIONS = (
    "2012",
    "no-specify",
    "assertions",
    "xtypes",
    "io-range-error",
    "no-strict-ca-eval",
    "no-strict-expr-width",
    "shared-loop-index",
    "no-verilog-ams",
    "icarus-misc",
)


def grade(sample, item):
    """1 for a design without a wrong output, up to 0.5 for one with some, 0 for none."""
    code = code_of(sample["output_text"] or "")
    if not re.search(r"\bmodule\s+TopModule\b", code) or forbidden(code):
        return 0.0
    try:
        log = simulate(code, item["test"], item["reference"])
    except subprocess.TimeoutExpired:
        return UNFINISHED
    if log is None:
        return 0.0
    found = mismatches(log)
    if found is None or found[1] != item["samples"]:
        return UNFINISHED
    missed = found[0] / found[1]
    return 1.0 if missed == 0 else 0.1 + 0.4 * max(0.0, 1 - 2 * missed)


def code_of(text):
    """The code between [BEGIN] and [DONE], else the last fence with the module, else all."""
    marked = re.findall(r"\[BEGIN\](.*?)\[DONE\]", text, re.S)
    fenced = re.findall(r"```[A-Za-z]*[ \t]*\n(.*?)```", text, re.S)
    fenced = [code for code in fenced if "TopModule" in code]
    code = marked[-1] if marked else fenced[-1] if fenced else text
    return re.sub(r"^\s*```[A-Za-z]*[ \t]*$", "", code, flags=re.M)


def forbidden(code):
    """Whether the code could end the simulation, print the verdict or read the reference."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\]|\\.)*\"", " ", code, flags=re.S)
    bare = re.sub(HARMLESS, " ", bare)
    return bool(re.search(r"\$|\\|`(?!default_nettype|timescale)|" + BENCH, bare))


def mismatches(log):
    """Wrong outputs and samples, or None where the log does not have exactly one verdict."""
    found = re.findall(r"^Mismatches: (\d+) in (\d+) samples$", log, re.M)
    return (int(found[0][0]), int(found[0][1])) if len(found) == 1 and int(found[0][1]) else None


def simulate(code, test, reference):
    """What the test bench prints; None if the code does not compile."""
    library = icarus()
    options = ["root:tb", f"basedir:{library}"]
    options += [f"module:{library}/{name}.vpi" for name in MODULES]
    options += [f"generation:{name}" for name in GENERATIONS]
    options += ["warnings:n", "ignore_missing_modules:false", "out:a.out"]
    target = ["functor:cprop", "functor:nodangle", "flag:DLL=vvp.tgt"]
    files = {
        "top.sv": code,
        "test.sv": test,
        "ref.sv": reference,
        "options": "\n".join([*options, "iwidth:32", "widthcap:65536", ""]),
        "target": "\n".join([*target, f"flag:VVP_EXECUTABLE={VVP}", ""]),
        "list": "top.sv\ntest.sv\nref.sv\n",
        "defines": "D:__ICARUS__=1\nrelative include:false\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)

        def run(*command, text=None, seconds):
            return subprocess.run(
                command,
                input=text,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                cwd=folder,
            )

        preprocess = f"{library}/ivlpp", "-L", "-Fdefines", "-flist"
        source = run(*preprocess, seconds=COMPILE_SECONDS).stdout
        compile_ = f"{library}/ivl", "-Coptions", "-Ctarget", "--", "-"
        if run(*compile_, text=source, seconds=COMPILE_SECONDS).returncode:
            return None
        return run(VVP, "-M", library, "-n", "a.out", seconds=SIMULATE_SECONDS).stdout


def icarus():
    """The folder with Icarus Verilog's parts.

    Raises:
        FileNotFoundError: It is not installed.
    """
    for pattern in FOLDERS:
        for folder in glob.glob(pattern):
            if os.path.exists(f"{folder}/ivlpp") and os.path.exists(VVP):
                return folder
    raise FileNotFoundError("Icarus Verilog: install it (Debian: iverilog)")
