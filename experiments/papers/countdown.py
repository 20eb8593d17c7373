"""The task of the reproductions: a Countdown from scratch, and sorting beside it.

Four digits and a target are given, such as `3 5 7 2 = 3`, and the answer is the three operations
that reach the target from left to right, here `+-+`. A thought tries: `3+5=8+7=15-2=13
3+5=8-7=1+2=3`. The base model of a seed imitates a trainee, who tries one or two ways, additions
first, and guesses when none was right; it also learns to sort five digits, which is what a model
can forget afterwards. Answers are right or wrong, graded on the device.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rft_jax.config import DataConfig

OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
}
PREFERENCE = {"+": 3, "-": 1}  # of the trainee
VALID, TRAIN, SHOWN, SORTED = 150, 2000, 20_000, 6000
GRADER = {
    "type": "string_check",
    "name": "right",
    "operation": "eq",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "pass_threshold": 1.0,
}


class Problem(NamedTuple):
    """A Countdown with one solution."""

    numbers: tuple[int, ...]
    target: int
    solution: str  # the three operations

    @property
    def text(self) -> str:
        """The prompt."""
        return f"{' '.join(map(str, self.numbers))} = {self.target}"


def ways(numbers: tuple[int, ...]) -> dict[str, list[int]]:
    """The operations that stay above -1, and what each of their steps reaches."""
    found = {}
    for chosen in itertools.product(OPERATIONS, repeat=len(numbers) - 1):
        reached = [numbers[0]]
        for operation, number in zip(chosen, numbers[1:], strict=True):
            reached.append(OPERATIONS[operation](reached[-1], number))
        if min(reached) >= 0:
            found["".join(chosen)] = reached[1:]
    return found


def problems(rng: random.Random) -> list[Problem]:
    """All Countdowns with one solution, in random order."""
    found = []
    for numbers in itertools.product(range(1, 10), repeat=4):
        reached = {way: steps[-1] for way, steps in ways(numbers).items()}
        totals = list(reached.values())
        found += [
            Problem(numbers, total, way)
            for way, total in reached.items()
            if totals.count(total) == 1
        ]
    rng.shuffle(found)
    return found


def attempt(numbers: tuple[int, ...], way: str) -> str:
    """A try as the thought has it, such as `3+5=8-7=1+2=3`."""
    steps = zip(way, numbers[1:], ways(numbers)[way], strict=True)
    return str(numbers[0]) + "".join(f"{way}{number}={total}" for way, number, total in steps)


def trainee(problem: Problem, rng: random.Random) -> tuple[list[str], str]:
    """What somebody tries and answers who gives up after one or two ways."""
    left = list(ways(problem.numbers))
    tried: list[str] = []
    for _ in range(rng.randint(1, 2)):
        if not left or problem.solution in tried:
            break
        tried.append(_preferred(left, rng))
        left.remove(tried[-1])
    if problem.solution in tried or not left:
        return tried, tried[-1]
    return tried, _preferred(left, rng)


def teacher(problem: Problem, rng: random.Random) -> tuple[list[str], str]:
    """What somebody tries and answers who finds the solution at the third way at the latest."""
    others = [way for way in ways(problem.numbers) if way != problem.solution]
    tried = rng.sample(others, min(rng.randint(0, 2), len(others)))
    return [*tried, problem.solution], problem.solution


def _preferred(left: Sequence[str], rng: random.Random) -> str:
    return rng.choices(left, [math.prod(PREFERENCE[one] for one in way) for way in left])[0]


def write_data(folder: Path) -> DataConfig:
    """Writes the files that are the same for all seeds and arms, and says where they are."""
    rng = random.Random("papers")
    every = problems(rng)
    valid, tuned, shown = every[:VALID], every[VALID:][:TRAIN], every[VALID + TRAIN :][:SHOWN]
    digits = [[rng.randint(1, 9) for _ in range(5)] for _ in range(SORTED + VALID)]
    digits = [list(row) for row in dict.fromkeys(map(tuple, digits))]
    sort = [
        {"prompt": f"sort {' '.join(map(str, row))}", "answer": " ".join(map(str, sorted(row)))}
        for row in digits
    ]
    worked = [_worked(p, *trainee(p, rng)) for p in shown]
    worked += [_answered(row["prompt"], row["answer"]) for row in sort[VALID:]]
    rng.shuffle(worked)
    files = {
        "train": [_item(p.text, p.solution) for p in tuned],
        "valid": [_item(p.text, p.solution) for p in valid],
        "sort": [_item(row["prompt"], row["answer"]) for row in sort[:VALID]],
        "supervised": worked,
        "answers": [_worked(p, *teacher(p, rng)) for p in tuned],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return data_config(folder)


def data_config(folder: Path) -> DataConfig:
    """The files in a folder."""
    names = "train", "valid", "supervised", "answers"
    return DataConfig(**{name: str(folder / f"{name}.jsonl") for name in names})


def _item(prompt: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": prompt}], "answer": answer}


def _worked(problem: Problem, tried: Sequence[str], answer: str) -> dict:
    thought = " ".join(attempt(problem.numbers, way) for way in tried)
    return _answered(problem.text, answer, reasoning_content=thought)


def _answered(prompt: str, answer: str, **thought: str) -> dict:
    said = {"role": "assistant", "content": answer, **thought}
    return {"messages": [{"role": "user", "content": prompt}, said]}
