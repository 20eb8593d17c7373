"""VerilogEval: a specification in, a module in SystemVerilog out, judged by simulation.

The data are `dataset_spec-to-rtl/ProbNNN_NAME_{prompt.txt,ref.sv,test.sv}` of
https://github.com/NVlabs/verilog-eval (MIT; https://arxiv.org/abs/2408.11053), 156 problems without
a split for training: one `fold` of five is validated on, the others are trained on.

The official metric is the share of designs without a mismatch (`pass@1`). The simulator is Icarus
Verilog (Debian: `iverilog`); problems whose reference fails under it are left out, three of 156
with version 11. The simulation runs in the sandbox of `python` graders, into which `host_options`
mounts the simulator. What the references do is kept in the run's folder: a run that goes on does
not simulate them again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft_jax.config import HostOptions
from rft_jax.tasks.engineering import simulate
from rft_jax.tasks.release import ReleaseData, messages, read_text, worked
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_json
from rft_jax.utils.types import JsonObject

FOLDS = 5
OUTCOMES_FILE = "simulated.json"
INSTRUCTIONS = (
    "You are an engineer who writes synthesizable SystemVerilog. Implement the module TopModule "
    "as specified, for Icarus Verilog, without system tasks, compiler directives and test benches. "
    "End with the whole module between the lines [BEGIN] and [DONE]."
)


@dataclass(frozen=True)
class VerilogData(ReleaseData):
    """The problems as items: `name`, `test`, `reference` and the reference's number of `samples`.

    Attributes:
        instructions: Open with a developer message, which a general model needs.
        fold: The fifth of the problems that is validated on, from 0.
    """

    instructions: bool = True
    fold: int = 0

    def rows(
        self, release: Path, directory: Path | None = None
    ) -> Mapping[str, Sequence[JsonObject]]:
        """See `ReleaseData.rows`."""
        if not 0 <= self.fold < FOLDS:
            raise InputError(f"data.fold: must be from 0 to {FOLDS - 1}, got {self.fold}")
        outcomes = _Outcomes(directory / OUTCOMES_FILE if directory else None)
        items = self.items(release, outcomes)
        outcomes.write()
        split = {
            "train": [item for n, item in enumerate(items) if n % FOLDS != self.fold],
            "valid": [item for n, item in enumerate(items) if n % FOLDS == self.fold],
        }
        return split | {"answers": [worked(item, right_answer(item)) for item in split["train"]]}

    def items(self, release: Path, outcomes: "_Outcomes | None" = None) -> list[JsonObject]:
        """All problems whose reference passes its own test bench.

        Args:
            outcomes: What is known of the references already; what is not is added.

        Raises:
            InputError: There are none, or no simulator.
        """
        outcomes = outcomes or _Outcomes(None)
        folder = release / "dataset_spec-to-rtl"
        instructions = INSTRUCTIONS if self.instructions else ""
        items: list[JsonObject] = []
        for prompt in sorted(folder.glob("*_prompt.txt")):
            stem = prompt.name.removesuffix("_prompt.txt")
            test = read_text(folder / f"{stem}_test.sv")
            reference = read_text(folder / f"{stem}_ref.sv")
            samples = outcomes.samples(reference, test)
            if samples is None:
                continue
            items.append(
                {
                    "messages": messages(read_text(prompt).strip(), instructions),
                    "name": stem,
                    "test": test,
                    "reference": reference,
                    "samples": samples,
                }
            )
        if len(items) < FOLDS:
            raise InputError(f"{folder}: has {len(items)} problems that simulate; is it complete?")
        return items


class _Outcomes:
    """What references do in their test benches, kept in a file by the checksum of both.

    The file is read if it is there; one that cannot be read is made anew.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        try:
            self._known = json.loads(file.read_text(encoding="utf-8")) if file else {}
        except (OSError, ValueError):
            self._known = {}

    def samples(self, reference: str, test: str) -> int | None:
        """See `_samples`."""
        key = hashlib.sha256(f"{reference}\0{test}".encode()).hexdigest()
        if key not in self._known:
            self._known[key] = _samples(reference, test)
        return self._known[key]

    def write(self) -> None:
        """Keeps what is known."""
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self._known)


def _samples(reference: str, test: str) -> int | None:
    """How many outputs the bench compares; None if the reference does not pass it."""
    try:
        log = simulate.simulate(as_answer(reference), test, reference)
    except FileNotFoundError as error:
        raise InputError(str(error)) from None
    found = simulate.mismatches(log or "")
    return found[1] if found is not None and found[0] == 0 else None


def as_answer(reference: str) -> str:
    """The reference under the name that is asked for."""
    return reference.replace("RefModule", "TopModule")


def right_answer(item: JsonObject) -> str:
    """The reference as it is asked for."""
    return f"[BEGIN]\n{as_answer(item['reference']).strip()}\n[DONE]"


def grader() -> JsonObject:
    """The simulation as a `python` grader."""
    source = Path(simulate.__file__).read_text(encoding="utf-8")
    return {"type": "python", "name": "verilog", "source": source, "pass_threshold": 0.99}


def official_grader() -> JsonObject:
    """Whether a design has no mismatch, 1 or 0, for `audit_grader`; it simulates once more."""
    source = Path(simulate.__file__).read_text(encoding="utf-8")
    passes = (
        "_credit = grade\n\n\ndef grade(sample, item):\n    return _credit(sample, item) == 1\n"
    )
    return {"type": "python", "name": "passes", "source": f"{source}\n\n{passes}"}


def host_options() -> HostOptions:
    """What the sandbox needs: the simulator's programs.

    Raises:
        InputError: It is not installed.
    """
    try:
        return HostOptions(tools=(simulate.VVP, simulate.icarus()))
    except FileNotFoundError as error:
        raise InputError(str(error)) from None
