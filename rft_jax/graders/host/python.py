"""`python`: a function `grade(sample, item)` of the user's, run in sandboxed workers on the host.

    {"type": "python", "source": "def grade(sample, item):\\n    return 1.0"}

`sample` has `output_text`, `output_json` (None if the text is not JSON), `output_tools` (empty),
`output_audio` (None) and `choices`; `item` is the row. The score is any finite number, also outside
of [0, 1]: Python's int, float and bool, and NumPy's. Anything else, an exception, or more time,
memory or disk than OpenAI's limits is a `python_grader_runtime_error` with score 0.

The source is run anew for every sample, so that nothing is left of the one before; the libraries
that it imports are loaded once.
"""

import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rft_jax.config import HostOptions
from rft_jax.graders.host.payload import check_rows, payload
from rft_jax.graders.host.pool import WorkerPool
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import HostSample, HostScore, Items

SOURCE_BYTES = 256 * 1024


@dataclass(frozen=True)
class PythonGrader:
    """A validated `python`."""

    name: str
    source: str

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "PythonGrader":
        """See `HostGraderType.parse`."""
        fields.only("source", "image_tag")
        source = fields.string("source")
        if problem := _problem(source):
            raise fields.error("source", problem)
        return cls(name, source)

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        check_rows(items)

    @contextmanager
    def open(self, options: HostOptions) -> Iterator["PythonSession"]:
        """See `HostGraderType.open`."""
        with WorkerPool(self.source, options) as pool:
            yield PythonSession(self.name, pool)


@dataclass(frozen=True)
class PythonSession:
    """An open `python` grader."""

    name: str
    pool: WorkerPool

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """See `HostSession.grade_batch`; the detail `seconds` is the time that grading took."""
        requests = [payload(sample, items, n) for sample, n in zip(samples, rows, strict=True)]
        return [
            HostScore(
                outcome.score,
                frozenset({outcome.error} - {""}),
                {f"{self.name}/seconds": outcome.seconds},
                outcome.message,
            )
            for outcome in self.pool.grade(requests)
        ]


def _problem(source: str) -> str:
    """What is wrong with a source, and the remedy; empty if nothing is."""
    if len(source.encode(errors="replace")) >= SOURCE_BYTES:
        return f"has {SOURCE_BYTES // 1024} kB or more; shorten it"
    try:
        compile(source, "source", "exec", dont_inherit=True)
        body = ast.parse(source).body
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}; correct it"
    except (ValueError, RecursionError, MemoryError):
        return "Python cannot parse it; correct it"
    functions = [
        node
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "grade"
    ]
    if not functions:
        return "defines no function grade; add `def grade(sample, item):`"
    function, arguments = functions[-1], functions[-1].args
    two = len(arguments.posonlyargs + arguments.args) == 2
    if not two or arguments.vararg or arguments.kwonlyargs or arguments.kwarg:
        return f"line {function.lineno}: grade must take two arguments, sample and item; correct it"
    if isinstance(function, ast.AsyncFunctionDef):
        return f"line {function.lineno}: grade must not be async; write `def grade(sample, item):`"
    return ""
