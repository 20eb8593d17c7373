"""Templates: literal text with `{{ item.a.b[0] }}`, `{{ sample.output_text }}` and the like in it.

What comes from the item is rendered on the host, once per data set; what comes from the sample on
the device. Strings render as they are, other values as their JSON source text without
insignificant white space; of an item, whose source is gone, as `json.dumps` writes it.
`sample.output_json` is the answer as JSON: all of it, or the last object in it, be it fenced or
after prose (`strings.json_anywhere`). Its keys are found in another case if not in their own.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.graders.host_json import Value
from rft_jax.graders.types import HostView, Items, SampleView
from rft_jax.strings import ByteString, JsonToken, concat, find, from_host, render
from rft_jax.utils.errors import InputError

# Why a template cannot be rendered, which is what most nodes can have.
TEMPLATE_ERRORS = ("sample_parse_error", "invalid_variable_error", "other_error")

_STEP = re.compile(r"\.([^\s.\[\]{}()|'\"]+)|\[(\d{1,9})\]")
_VARIABLE = re.compile(rf"([A-Za-z_]\w*)((?:{_STEP.pattern})*)")


class TemplateError(ValueError):
    """A template cannot be read; the message says why and what to do."""


@dataclass(frozen=True)
class Variable:
    """What stands between `{{` and `}}`.

    Attributes:
        text: As written, without the braces.
        namespace: `item`, `output_text` or `output_json`.
        path: Keys and indices into it.
    """

    text: str
    namespace: str
    path: tuple[str | int, ...]

    def of(self, item: object) -> Any:
        """The value that an item has there.

        Raises:
            LookupError: With the first step of the path that is not there.
        """
        value: Any = item
        for step in self.path:
            if isinstance(step, str) and isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(step, int) and isinstance(value, list) and step < len(value):
                value = value[step]
            else:
                raise LookupError(step)
        return value


class MissingVariable(InputError):
    """An item lacks what a template names; the message says line and variable.

    Attributes:
        where: The template's path in the grader's JSON.
        variable: What it names.
    """

    def __init__(self, message: str, where: str, variable: Variable):
        super().__init__(message)
        self.where, self.variable = where, variable


def item_fields(node: object) -> list[str]:
    """The keys of items that the templates of a grader, and of those below it, name."""
    found: dict[str, None] = {}
    seen: set[int] = set()

    def visit(value: object) -> None:
        if isinstance(value, Variable):
            if value.namespace == "item" and value.path and value.path[0] != "messages":
                found.setdefault(str(value.path[0]))
        elif isinstance(value, tuple | list):
            for member in value:
                visit(member)
        elif isinstance(value, Mapping):
            visit(list(value.values()))
        elif dataclasses.is_dataclass(value) and id(value) not in seen:
            seen.add(id(value))
            visit([getattr(value, part.name) for part in dataclasses.fields(value)])

    visit(node)
    return list(found)


class Rendered(NamedTuple):
    """Templates' texts for N samples.

    Attributes:
        texts: ByteStrings of [N, width], one per template.
        errors: bool[N] by name: `sample_parse_error`, the answer is not JSON though a template
            needs it; `invalid_variable_error`, its JSON has no such value; `other_error`, its JSON
            is deeper than the scanner's limit.
        failed: bool[N], one of the errors holds and the texts mean nothing.
    """

    texts: tuple[ByteString, ...]
    errors: dict[str, jax.Array]
    failed: jax.Array


class HostRendered(NamedTuple):
    """Templates' texts for one sample, on the host; `errors` are the names that hold."""

    texts: tuple[str, ...]
    errors: frozenset[str]


@dataclass(frozen=True)
class Template:
    """Literal text and variables in turn.

    Attributes:
        where: Path of the template inside the grader's JSON.
        parts: Runs of text and item variables, which the host renders, and variables of the sample.
    """

    where: str
    parts: tuple[tuple[str | Variable, ...] | Variable, ...]

    @property
    def variable(self) -> Variable | None:
        """The one variable of a template that is nothing else; None if it is more."""
        if len(self.parts) != 1:
            return None
        if isinstance(self.parts[0], Variable):
            return self.parts[0]
        run = self.parts[0]
        return run[0] if len(run) == 1 and isinstance(run[0], Variable) else None

    @property
    def only_variable(self) -> Variable:
        """The variable of a template that was read as nothing else (`Fields.variable`)."""
        variable = self.variable
        assert variable is not None, f"{self.where} is more than a variable"
        return variable

    def encode(self, items: Items) -> tuple[ByteString, ...]:
        """The runs that the host renders, each [len(items), width of the longest].

        Raises:
            InputError: Naming the line and the variable that an item lacks.
        """
        encoded = []
        for run in self.parts:
            if isinstance(run, Variable):
                continue
            texts = [self._render_run(run, items, n) for n in range(len(items.rows))]
            encoded.append(from_host(texts, max([1, *(len(text) for text in texts)])))
        return tuple(encoded)

    def _render_run(self, run: tuple[str | Variable, ...], items: Items, n: int) -> bytes:
        pieces = [
            piece if isinstance(piece, str) else show(self._look_up(piece, items, n))
            for piece in run
        ]
        return encode_text("".join(pieces), items, n, self.where)

    def value(self, items: Items, n: int) -> Any:
        """The value of row n, not rendered, of a template that is one item variable.

        Raises:
            InputError: As `encode`.
        """
        return self._look_up(self.only_variable, items, n)

    def _look_up(self, variable: Variable, items: Items, n: int) -> Any:
        try:
            return variable.of(items.rows[n])
        except LookupError as error:
            (step,) = error.args
            shown = repr(step) if isinstance(step, str) else f"[{step}]"
            raise MissingVariable(
                f"{items.source}, line {n + 1}: {self.where} needs {{{{{variable.text}}}}}, "
                f"but the item has no {shown} there; add it or correct the template",
                self.where,
                variable,
            ) from None

    @property
    def sample_variables(self) -> tuple[Variable, ...]:
        """The variables that are not the item's."""
        return tuple(part for part in self.parts if isinstance(part, Variable))

    @property
    def item_variables(self) -> tuple[Variable, ...]:
        """The variables of the item."""
        runs = (part for part in self.parts if not isinstance(part, Variable))
        return tuple(piece for run in runs for piece in run if isinstance(piece, Variable))

    def item_text(self, items: Items, n: int) -> str:
        """The text for row n of a template without variables of the sample.

        Raises:
            InputError: As `encode`.
        """
        runs = [run for run in self.parts if not isinstance(run, Variable)]
        assert len(runs) == len(self.parts), f"{self.where} has variables of the sample"
        return "".join(self._render_run(run, items, n).decode() for run in runs)

    @property
    def reads_json(self) -> bool:
        """Whether it needs the answer's JSON."""
        return any(variable.namespace == "output_json" for variable in self.sample_variables)

    def _on_device(
        self, view: SampleView, encoded: tuple[ByteString, ...]
    ) -> tuple[ByteString, jax.Array]:
        """The text, and bool[N]: the answer's JSON has no such value."""
        texts, runs, missing = [], iter(encoded), view.no
        for part in self.parts:
            if not isinstance(part, Variable):
                texts.append(next(runs))
            elif part.namespace == "output_text":
                texts.append(view.sample.output_text)
            else:
                value = find(view.scan, view.unescaped, part.path)
                texts.append(render(view.scan, view.unescaped, value))
                missing |= value.token_N == JsonToken.NONE
        return concat(*texts), missing

    def _on_host(self, view: HostView, items: Items, n: int) -> str | None:
        """The text, or None if the answer's JSON has no such value."""
        pieces = []
        for part in self.parts:
            if not isinstance(part, Variable):
                pieces.append(self._render_run(part, items, n).decode())
            elif part.namespace == "output_text":
                pieces.append(view.sample.output_text)
            elif value := view.document.find(part.path):
                pieces.append(value.show())
            else:
                return None
        return "".join(pieces)


def render_on_device(
    view: SampleView, templates: Sequence[Template], encoded: Sequence[tuple[ByteString, ...]]
) -> Rendered:
    """Renders templates for N samples; `encoded` has for each what `Template.encode` gave, the rows
    of the samples' items."""
    texts, missing = [], view.no
    for template, runs in zip(templates, encoded, strict=True):
        text, missing_N = template._on_device(view, runs)
        texts.append(text)
        missing |= missing_N
    reads_json = any(template.reads_json for template in templates)
    errors = json_errors_on_device(view, missing, reads_json)
    return Rendered(tuple(texts), errors, functools.reduce(jnp.logical_or, errors.values()))


def render_on_host(
    view: HostView, templates: Sequence[Template], items: Items, n: int
) -> HostRendered:
    """Renders templates for one sample of item n; without texts if one cannot be rendered."""
    if any(template.reads_json for template in templates):
        if errors := json_errors(view, view.document.root):
            return HostRendered((), errors)
    texts = []
    for template in templates:
        if (text := template._on_host(view, items, n)) is None:
            return HostRendered((), frozenset({"invalid_variable_error"}))
        texts.append(text)
    return HostRendered(tuple(texts), frozenset())


def json_errors_on_device(
    view: SampleView, missing_N: jax.Array, reads_json: bool = True
) -> dict[str, jax.Array]:
    """bool[N] by name: why answers have no value that is looked up in their JSON.

    Args:
        view: N samples.
        missing_N: bool, no such value is found.
        reads_json: Whether there is a look at their JSON at all.
    """
    if not reads_json:
        return dict.fromkeys(TEMPLATE_ERRORS, view.no)
    scan = view.scan
    return {
        "sample_parse_error": ~scan.valid_N & ~scan.too_deep_N,
        "invalid_variable_error": scan.valid_N & missing_N,
        "other_error": scan.too_deep_N,
    }


def json_errors(view: HostView, value: Value | None) -> frozenset[str]:
    """Why the answer's JSON has no such value, as names of `ERRORS`; empty if it has."""
    if view.document.too_deep:
        return frozenset({"other_error"})
    if view.document.root is None:
        return frozenset({"sample_parse_error"})
    return frozenset() if value else frozenset({"invalid_variable_error"})


def parse_template(text: str, where: str) -> Template:
    """Reads a template.

    Args:
        text: As it stands in the grader's JSON.
        where: Its path there.

    Raises:
        TemplateError: Without the path, which the caller adds.
    """
    pieces: list[str | Variable] = []
    rest = text
    while "{{" in rest:
        literal, _, rest = rest.partition("{{")
        inside, closed, rest = rest.partition("}}")
        if not closed:
            raise TemplateError("a '{{' is not closed; add '}}'")
        pieces += [literal, _parse_variable(inside.strip())]
    pieces.append(rest)

    parts: list[tuple[str | Variable, ...] | Variable] = []
    run: list[str | Variable] = []
    for piece in pieces:
        if isinstance(piece, Variable) and piece.namespace != "item":
            parts += [tuple(run), piece] if run else [piece]
            run = []
        elif piece:
            run.append(piece)
    if run or not parts:
        parts.append(tuple(run))
    return Template(where, tuple(parts))


def _parse_variable(text: str) -> Variable:
    match = _VARIABLE.fullmatch(text)
    if not match:
        raise TemplateError(
            f"{{{{{text}}}}} cannot be read; write a path such as {{{{item.answer}}}} or "
            "{{sample.output_json.genes[0]}}"
        )
    namespace, steps = match[1], match[2]
    path = tuple(key or int(index) for key, index in _STEP.findall(steps))
    if namespace == "item" and path and isinstance(path[0], str):
        return Variable(text, "item", path)
    if namespace == "sample" and path[:1] == ("output_text",) and len(path) == 1:
        return Variable(text, "output_text", ())
    if namespace == "sample" and path[:1] == ("output_json",):
        return Variable(text, "output_json", path[1:])
    if namespace == "sample" and path[:1] in (("output_tools",), ("choices",)):
        raise TemplateError(
            f"{{{{{text}}}}} names nothing: calls of tools are not read from answers yet; take "
            "them from sample.output_text"
        )
    if namespace in ("item", "sample"):
        raise TemplateError(
            f"{{{{{text}}}}} names nothing; use item.<field>, sample.output_text or "
            "sample.output_json.<field>"
        )
    raise TemplateError(f"{{{{{text}}}}}: unknown namespace {namespace!r}; use item or sample")


def encode_text(text: str, items: Items, n: int, where: str) -> bytes:
    """UTF-8 of a text out of row n.

    Raises:
        InputError: Naming the line, for a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{items.source}, line {n + 1}: {where} takes a text with a lone surrogate, which is "
            "not Unicode; remove it"
        ) from None


def show(value: object) -> str:
    """A value as templates show it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
