"""SciBench: problems of college physics, chemistry and mathematics with a number as the answer.

The data are `dataset/original/*.json` of https://github.com/mandyyyyii/scibench
(https://arxiv.org/abs/2307.10635), 580 problems out of ten text books. The repository is under MIT,
the problems are out of copyrighted books: they stay beside the project.

The official metric takes the last `\\boxed{}` and counts it within 5 %; powers of ten that stand in
the unit belong to the answer.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft_jax.tasks.release import ReleaseData, messages, read_text, worked
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

INSTRUCTIONS = (
    "Solve the problem. Give the final number in the unit that is asked for, without the unit, in "
    "\\boxed{}, such as \\boxed{2.5}. Powers of ten of the unit are part of the unit."
)


@dataclass(frozen=True)
class ScibenchData(ReleaseData):
    """The problems as items, with the keys `answer` (a text), `unit`, `book` and `number`.

    Attributes:
        instructions: Open with a developer message, which a general model needs.
        valid_problems: So many problems for `valid`.
        data_seed: The seed of the split.
    """

    instructions: bool = True
    valid_problems: int = 120
    data_seed: int = 0

    def rows(
        self, release: Path, directory: Path | None = None
    ) -> Mapping[str, Sequence[JsonObject]]:
        """See `ReleaseData.rows`."""
        del directory
        items = [
            self._item(problem, path)
            for path in sorted((release / "dataset" / "original").glob("*.json"))
            if not path.stem.endswith("_sol")  # the same problems once more, with solutions
            for problem in _problems(path)
        ]
        if not 0 < self.valid_problems < len(items):
            raise InputError(
                f"data.valid_problems: must be from 1 to {max(1, len(items) - 1)}; {release} has "
                f"{len(items)} problems"
            )
        random.Random(f"scibench {self.data_seed}").shuffle(items)
        train = items[self.valid_problems :]
        return {
            "train": train,
            "valid": items[: self.valid_problems],
            "answers": [worked(item, f"\\boxed{{{item['answer']}}}") for item in train],
        }

    def _item(self, problem: JsonObject, path: Path) -> JsonObject:
        unit = str(problem["unit"]).strip()
        asked = f"\n\nUnit of the answer: {unit}" if unit else ""
        text = str(problem["problem_text"]).strip() + asked
        return {
            "messages": messages(text, INSTRUCTIONS if self.instructions else ""),
            "answer": re.sub(r"\s|\$", "", str(problem["answer_number"])),
            "unit": unit,
            "book": path.stem,
            "number": str(problem["problemid"]).strip(),
        }


def grader() -> JsonObject:
    """Within 5 %, as the official metric; partial credit falls to 0 at 20 %."""
    return official_grader() | {"name": "answer", "partial_relative": 0.2}


def official_grader() -> JsonObject:
    """Within 5 %, 1 or 0, for `audit_grader`."""
    return {
        "type": "number",
        "name": "within_5_percent",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "which": "marked",
        "marker": "\\boxed{",
        "relative": 0.05,
    }


def _problems(path: Path) -> list[JsonObject]:
    try:
        problems = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: is not JSON; download it again") from None
    needed = {"problem_text", "answer_number", "unit", "problemid"}
    for number, problem in enumerate(problems, 1):
        if not isinstance(problem, dict) or needed - problem.keys():
            raise InputError(f"{path}: problem {number} lacks {', '.join(sorted(needed))}")
    return problems
