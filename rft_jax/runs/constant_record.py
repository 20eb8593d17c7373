"""The record of what a constant answer earns on a stage's validation items, in the stage's folder.

It is what a curve of validation rewards has to be compared with: a run that ends no higher has
learned nothing that a commonplace answer would not have earned.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from rft_jax.graders import Grader, Items
from rft_jax.graders.constant import Constant, best_constant
from rft_jax.graders.device_judge import judge_nodes
from rft_jax.graders.probe_answers import COMMONEST, OWN, RIGHT, answers_of
from rft_jax.runs.datasets import PromptData
from rft_jax.utils.files import write_atomically

CONSTANT_FILE = "constant.json"
MOST_ITEMS = 500  # of the validation items, evenly spaced


def note_constant(directory: Path, grader: Grader, valid: PromptData) -> None:
    """Writes down the best constant answer, unless it is there or grading it would be costly.

    Args:
        directory: The stage's folder; it is made if needed.
        grader: The grader of the run; with nodes on the host, or judges, nothing is done.
        valid: The validation items.
    """
    path = directory / CONSTANT_FILE
    if path.exists() or grader.needs_host or judge_nodes(grader.spec):
        return
    items = Items(valid.items[:: -(-len(valid.items) // MOST_ITEMS)], valid.source)
    candidates = list(constant_answers(grader, items))
    if not candidates:
        return
    constant = best_constant(grader, items, candidates)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(constant._asdict()) + "\n")


def constant_answers(grader: Grader, items: Items) -> Iterator[str]:
    """The right answers to the items as far as the grader tells them, and the commonest one."""
    for name, ways in answers_of(grader.spec, items):
        if name in (RIGHT, OWN, COMMONEST):
            for answers in ways:
                yield from answers


def read_constant(directory: Path) -> Constant | None:
    """What a stage's folder says; None without."""
    try:
        value = json.loads((directory / CONSTANT_FILE).read_text())
        return Constant(str(value["answer"]), float(value["reward"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
