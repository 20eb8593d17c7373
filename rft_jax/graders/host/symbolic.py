"""Symbolic equality of formulas for `math`, through `math-verify` in sandboxed workers.

Each comparison runs in a fork of a warm worker, which ends it after `TIMEOUT_S`: an answer that
takes longer, or that breaks the library, is not shown to be right and earns 0, flagged as a
`python_grader_runtime_error`.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rft_jax.config import HostOptions
from rft_jax.graders.host.pool import WorkerPool
from rft_jax.graders.types import HostSample, HostScore, HostView, Items
from rft_jax.utils.errors import InputError

TIMEOUT_S = 5.0
# Its own time-outs use signals, which the worker's replaces.
SOURCE = r"""
from math_verify import LatexExtractionConfig, ExprExtractionConfig, parse, verify


def read(text):
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    return parse("$" + text + "$", extraction_config=configs, parsing_timeout=None)


def grade(sample, item):
    reference, answer = read(item), read(sample)
    return float(verify(reference, answer, timeout_seconds=None))
"""


class ReadsFormulas(Protocol):
    """A grader that reads an answer and a reference, and knows which of them it cannot compare."""

    @property
    def name(self) -> str:
        """The node's name; its detail `<name>/undecided` is 1 for what it cannot compare."""
        ...

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        ...

    def answer_text(self, view: HostView, items: Items, n: int) -> str:
        """The answer of a sample as it is written."""
        ...

    def reference_text(self, items: Items, n: int) -> str:
        """The reference of item n as it is written."""
        ...


@contextmanager
def open_symbolic(grader: ReadsFormulas, options: HostOptions) -> Iterator["SymbolicSession"]:
    """The session of a `math` that asks the host.

    Raises:
        InputError: Math-verify is missing, or Python cannot be isolated.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise InputError(
            f'{grader.name}: "symbolic": "auto" needs math-verify; install it with `pip install '
            "'rft_jax[math]'`, or use \"off\""
        )
    options = dataclasses.replace(options, python_timeout_s=TIMEOUT_S)
    with WorkerPool(SOURCE, options) as pool:
        yield SymbolicSession(grader, pool)


@dataclass(frozen=True)
class SymbolicSession:
    """An open `math`."""

    grader: ReadsFormulas
    pool: WorkerPool

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """See `HostSession.grade_batch`; the workers are asked only what cannot be decided."""
        name = self.grader.name
        views = [HostView(sample) for sample in samples]
        scores = [
            self.grader.score_on_host(view, items, n) for view, n in zip(views, rows, strict=True)
        ]
        open_cases = [i for i, score in enumerate(scores) if score.details[f"{name}/undecided"]]
        requests = []
        for i in open_cases:
            answer = self.grader.answer_text(views[i], items, rows[i])
            reference = self.grader.reference_text(items, rows[i])
            requests.append(json.dumps({"sample": answer, "item": reference}).encode())
        for i, outcome in zip(open_cases, self.pool.grade(requests), strict=True):
            scores[i] = dataclasses.replace(
                scores[i],
                score=outcome.score,
                errors=frozenset({outcome.error} - {""}),
                message=outcome.message,
            )
        return scores
