r"""`regex`: 1 if a text matches a regular expression; or what another grader gives a part of it.

    {"type": "regex", "name": "cites", "input": "{{sample.output_text}}",
     "pattern": "\\bPMID: \\d{5,}", "flags": "i", "mode": "search"}

    {"type": "regex", "name": "answer", "input": "{{sample.output_text}}",
     "pattern": "(?s).*<answer>(.*)</answer>", "group": 1,
     "grader": {"type": "number", "input": "{{sample.output_text}}", "reference": "{{item.x}}"}}

Patterns are Python's, without what `strings.regex` lists; `mode` is "search" (the default) or
"fullmatch", `flags` letters of a, i, m, s, x. With `grader` the text of the match's `group` (a
number or name, 1 if not given) is graded as if it were the whole answer: in there
`sample.output_text` is the captured text and `sample.output_json` that text as JSON. Without a
match, or where the group has no part in it, the score is 0 and that grader has no say. The leftmost
match counts; begin the pattern with `(?s).*` for the last one. On the device the time does not
depend on the pattern; on the host Python's backtracking may take very long, as for `(a+)+b`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import jax.numpy as jnp

from rft_jax.config import HostOptions
from rft_jax.graders.protocols import (
    DeviceNode,
    GraderType,
    HostGraderType,
    HostSession,
    ProbeTarget,
)
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostSample, HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import slice_bytes
from rft_jax.strings.regex import (
    MODES,
    RegexError,
    compile_capture,
    compile_match,
    find_group,
    matches,
    python_flags,
)
from rft_jax.utils.types import PyTree


@dataclass(frozen=True)
class Regex(DeviceNode):
    """A validated `regex`; `grader` is None where only the match counts."""

    type_name = "regex"
    name: str
    input: Template
    pattern: str
    flags: str
    mode: str
    group: int | str
    grader: GraderType | None

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Regex":
        """See `GraderType.parse`."""
        fields.only("input", "pattern", "flags", "mode", "group", "grader")
        regex = cls(
            name=name,
            input=fields.template("input"),
            pattern=fields.unicode("pattern", fields.string("pattern")),
            flags=fields.string("flags") if "flags" in fields.values else "",
            mode=fields.choice("mode", MODES) if "mode" in fields.values else "search",
            group=_group(fields),
            grader=_inner(fields, name),
        )
        try:
            regex._tables()
        except RegexError as error:
            raise fields.error(error.about, str(error)) from None
        return regex

    def _tables(self) -> PyTree:
        if self.grader is None:
            return compile_match(self.pattern, self.flags, self.mode)
        return compile_capture(self.pattern, self.flags, self.mode, self.group)

    @property
    def probe_target(self) -> ProbeTarget | None:
        """See `Node.probe_target`."""
        if self.grader is None:
            return ProbeTarget.of_sides(self.input)
        target = self.grader.probe_target
        return target and replace(target, captures=(self.captures_all, *target.captures))

    @property
    def asks_host(self) -> str:
        """See `GraderType.asks_host`; what the grader of the captured text asks."""
        return self.grader.asks_host if self.grader else ""

    @contextmanager
    def open_host(self, options: HostOptions) -> Iterator[HostSession]:
        """See `GraderType.open_host`."""
        assert self.grader is not None
        with self.grader.open_host(options) as inner:
            yield _CapturedSession(self, inner)

    def captures_all(self, answer: str) -> bool:
        """Whether the answer as a whole is what is captured."""
        match = self._search(answer)
        return match is not None and match[self.group] == answer

    def encode(self, items: Items) -> PyTree:
        """See `GraderType.encode`."""
        return self.input.encode(items), self.grader.encode(items) if self.grader else ()

    def _search(self, text: str) -> re.Match[str] | None:
        flags = python_flags(self.flags)
        if self.mode == "fullmatch":
            return re.fullmatch(self.pattern, text, flags)
        return re.search(self.pattern, text, flags)

    @property
    def errors(self) -> tuple[str, ...]:
        """See `GraderType.errors`."""
        found = self.grader.errors if self.grader else ()
        return tuple(dict.fromkeys((*super().errors, *found)))

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        own, inner = encoded
        (text,), errors, failed_N = render_on_device(view, (self.input,), (own,))
        if self.grader is None:
            matched_N = matches(self._tables(), text) & ~failed_N
            return Score(matched_N.astype(jnp.float32), errors, {}, {})
        start_N, end_N, found_N = find_group(self._tables(), text)
        found_N &= ~failed_N
        captured = slice_bytes(text, start_N, jnp.where(found_N, end_N, start_N))
        on_host = dict(view.on_host)
        if self.name in on_host:  # it was asked for the grader of the captured text
            on_host[self.grader.name] = on_host[self.name]
        found = self.grader.score(
            SampleView(view.sample._replace(output_text=captured), on_host), inner
        )
        for error, flag_N in found.errors.items():
            errors[error] = errors.get(error, view.no) | (flag_N & found_N)
        details = {f"{self.name}/matched": found_N.astype(jnp.float32), **found.details}
        return Score(jnp.where(found_N, found.score, 0), errors, details, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with `re`."""
        if self.grader is None:
            texts, errors = render_on_host(view, (self.input,), items, n)
            return HostScore(float(bool(texts and self._search(*texts))), errors)
        captured, errors = self.captured_on_host(view, items, n)
        # Asked in any case: the names of the details are the same for every sample.
        inner_view = HostView(view.sample._replace(output_text=captured or ""))
        found = self.grader.score_on_host(inner_view, items, n)
        return self.of_captured(found, captured is not None, errors)

    def captured_on_host(
        self, view: HostView, items: Items, n: int
    ) -> tuple[str | None, frozenset[str]]:
        """The text that another grader is to grade, None without one, and the input's errors."""
        texts, errors = render_on_host(view, (self.input,), items, n)
        match = self._search(*texts) if texts else None
        return (match[self.group] if match else None), errors

    def of_captured(self, found: HostScore, matched: bool, errors: frozenset[str]) -> HostScore:
        """The node's own score of a sample, from that of the captured text."""
        details = {f"{self.name}/matched": float(matched), **found.details}
        if not matched:
            return HostScore(0.0, errors, details)
        return replace(found, details=details)


@dataclass(frozen=True)
class _CapturedSession:
    """A regex whose grader has a session of its own, which is shown what is captured."""

    regex: Regex
    inner: HostSession

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """See `HostSession.grade_batch`."""
        found = [
            self.regex.captured_on_host(HostView(sample), items, n)
            for sample, n in zip(samples, rows, strict=True)
        ]
        shown = [
            sample._replace(output_text=captured or "")
            for sample, (captured, _) in zip(samples, found, strict=True)
        ]
        scores = self.inner.grade_batch(shown, items, rows)
        return [
            self.regex.of_captured(score, captured is not None, errors)
            for score, (captured, errors) in zip(scores, found, strict=True)
        ]


def _group(fields: Fields) -> int | str:
    if "group" in fields.values and "grader" not in fields.values:
        raise fields.error("group", "has no use without a grader for its text; add `grader`")
    group = fields.values.get("group", 1)
    if not isinstance(group, int | str) or isinstance(group, bool):
        raise fields.error("group", f"must be the number or name of a group, not {group!r}")
    return group


def _inner(fields: Fields, name: str) -> GraderType | None:
    if "grader" not in fields.values:
        return None
    values = fields.values["grader"]
    if not isinstance(values, Mapping):
        raise fields.error("grader", "must be an object with a grader; correct it")
    grader = fields.parse_grader(fields.inside("grader", values), f"{name}/captured")
    if isinstance(grader, HostGraderType):
        raise fields.error(
            "grader.type", "runs on the host only; capture in that grader's own code instead"
        )
    if grader.children:
        kind = grader.type_name
        raise fields.error(
            "grader.type", f"a {kind} cannot stand in a regex; put the regex into the {kind}"
        )
    if grader.only_on_device:
        raise fields.error(
            "grader.type", "a judge on the device reads whole answers; use it without regex"
        )
    return grader
