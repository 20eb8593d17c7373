"""`score_model` and `label_model` with a judge on the device: a frozen model that reads tokens.

    {"type": "score_model", "model": "device:runs/judge/sft", "scale": [1, 5], "range": [0, 1],
     "input": [{"role": "user", "content": "From 1 to 5, how polite is {{ sample.output_text }}?"}]}

    {"type": "label_model", "model": "device:runs/judge/sft", "labels": ["polite", "rude"],
     "passing_labels": ["polite"],
     "input": [{"role": "user", "content": "Polite or rude? {{ sample.output_text }}"}]}

After `device:` stands a model as `rft eval --model` takes it, of the policy's tokenizer; of a run
that still trains name a step, so that resuming finds the same judge. Its weights do not change, and
the answer's own tokens are spliced into its prompt, without a way through text (line breaks between
the thought's end and the answer are among them). So `input` can have `{{ sample.output_text }}` and
variables of the item and no others. Tokens that mark turns, thoughts and ends are left out of the
answer: it cannot close its message and speak as somebody else. What it says in words, such as "give
this a 5", the judge does read; but it can only choose a verdict.

Where one token decides, nothing is generated. The judge's distribution over its next token, after
an empty thought if its format has thoughts, is restricted to the verdicts: the labels, or the whole
numbers of `scale`. The score is the mean verdict: of `label_model` the probability of the passing
labels, of `score_model` the expected number, with `scale` mapped linearly to `range`. So a judge
that is unsure gives a score in between. The verdicts must differ at the first token in which not
all are the same. The detail `<name>/verdict_probability` is what the judge gives to all verdicts
together; far from 1 it does not understand what it is asked.

Without `scale`, and for labels that begin alike, the judge writes its verdict, after an empty
thought, as OpenAI's judges do: `{"result": 0.75}`, a number of `range` or a label. A grammar holds
it to that (`written_verdict`), so that there is always a verdict.

The prompts' width is that of the longest item plus that of the completions.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.judge_prompt import Runs, make_runs, splice, without
from rft_jax.graders.judge_spec import (
    Message,
    fill_in,
    parse_labels,
    parse_messages,
    parse_range,
    templates_of,
)
from rft_jax.graders.protocols import GraderType, HostlessNode, leaves
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import render_on_host
from rft_jax.graders.types import HostSample, HostView, Items, SampleView, Score, Tokens
from rft_jax.graders.written_verdict import WrittenVerdict, label_verdict, number_verdict
from rft_jax.grammars import GrammarTables
from rft_jax.tokenizers import Tokenizer, control_ids
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import PyTree

PREFIX = "device:"


class JudgeModel(Protocol):
    """A frozen model on the device.

    Attributes:
        tokenizer: The model's tokenizer.
        params: Its weights, a tree of arrays that lie as `next_logprobs` wants them.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def params(self) -> PyTree: ...

    def next_logprobs(self, params: PyTree, prompts: Tokens, ids_K: Sequence[int]) -> jax.Array:
        """float32[N, K]: the log-probability of each of K tokens after each of N prompts."""
        ...

    def write(self, params: PyTree, prompts: Tokens, grammar: GrammarTables, tokens: int) -> Tokens:
        """The likeliest token after the other that the grammar allows, until its end.

        Args:
            prompts: N of them.
            tokens: The most of a completion, enough for the grammar.

        Returns:
            Tokens of [N, tokens], without a stop token.
        """
        ...


@dataclass(frozen=True)
class DeviceJudge(HostlessNode):
    """What the two types have in common.

    Attributes:
        name: The node's name.
        model: After `device:`.
        messages: The prompt.
        verdicts: What the judge may say, at least two; none where it writes a number.
        values: The score of each; the range of a number.
        judge: None until `open_judges`.
        written: What it writes, once it is open, if it writes.
    """

    runs_on = "device judge"
    name: str
    model: str
    messages: tuple[Message, ...]
    verdicts: tuple[str, ...]
    values: tuple[float, ...]
    judge: JudgeModel | None = None
    written: WrittenVerdict | None = None

    @property
    def why(self) -> str:
        """See `Node.why`."""
        return f"the frozen model {self.model}"

    @property
    def only_on_device(self) -> str:
        """See `GraderType.only_on_device`."""
        return "its judge is on the device"

    def opened(self, judge: JudgeModel) -> Self:
        """With its judge.

        Raises:
            InputError: It cannot say the verdicts.
        """
        node = replace(self, judge=judge)
        if not self.verdicts:
            low, high = self.values
            return replace(node, written=number_verdict(low, high, judge.tokenizer, self.name))
        _, tokens = node._verdict_tokens()
        said: dict[int, str] = {}
        for token, verdict in zip(tokens, self.verdicts, strict=True):
            if (other := said.setdefault(token, verdict)) != verdict:
                return node._written_instead(judge.tokenizer, other, verdict)
        return node

    def _written_instead(self, tokenizer: Tokenizer, one: str, other: str) -> Self:
        """What is to be done with two verdicts that the next token does not tell apart."""
        return replace(self, written=label_verdict(self.verdicts, tokenizer, self.name))

    def encode(self, items: Items) -> Runs:
        """See `GraderType.encode`."""
        opening = self._opening()
        prompts = [self._encode_prompt(items, n) for n in range(len(items.rows))]
        return make_runs([[*before, [*last, *opening]] for *before, last in prompts])

    def score(self, view: SampleView, encoded: Runs) -> Score:
        """See `GraderType.score`."""
        judge = self.open_judge
        if view.sample.answer is None:
            raise InputError(f"{self.name}: reads tokens; give `Sample.answer` besides the text")
        answer = without(view.sample.answer, control_ids(judge.tokenizer))
        prompts, params = splice(encoded, answer), view.judge_params[self.model]
        if self.written is not None:
            return Score(self._score_written(judge, params, prompts), {}, {}, {})
        _, tokens = self._verdict_tokens()
        logprob_NK = judge.next_logprobs(params, prompts, tokens)
        share_NK = jax.nn.softmax(logprob_NK)
        score_N = (share_NK * np.asarray(self.values, np.float32)).sum(axis=-1)
        total_N = jnp.exp(jax.nn.logsumexp(logprob_NK, axis=-1))
        return Score(
            jnp.clip(score_N, min(self.values), max(self.values)),
            {},
            {f"{self.name}/verdict_probability": total_N},
            {},
        )

    def _score_written(self, judge: JudgeModel, params: PyTree, prompts: Tokens) -> jax.Array:
        """float32[N]: what the judge writes, as a score."""
        assert self.written is not None, "this judge says one token"
        said = judge.write(params, prompts, self.written.grammar, self.written.tokens)
        values = np.asarray(self.values, np.float32)
        if self.verdicts:
            return jnp.asarray(values)[self.written.label_index(said)]
        return jnp.clip(self.written.number(said), values[0], values[1])

    @property
    def open_judge(self) -> JudgeModel:
        """The judge.

        Raises:
            InputError: It is not open yet.
        """
        if self.judge is None:
            raise InputError(
                f"{self.name}: the judge {self.model} is not open; open it with "
                "rft_jax.runs.grader.open_judges"
            )
        return self.judge

    def _encode_prompt(self, items: Items, n: int) -> list[list[int]]:
        """The runs of item n's prompt."""
        templates = templates_of(self.messages)
        gaps = sum(len(template.sample_variables) for template in templates)
        for k in itertools.count():
            gap = f"\ue000{k}\ue001"  # for private use, and not in the item either
            texts = render_on_host(HostView(HostSample(gap)), templates, items, n).texts
            if sum(text.count(gap) for text in texts) == gaps:
                break
        runs = self.open_judge.tokenizer.encode_prompt_around(fill_in(self.messages, texts), gap)
        if len(runs) != gaps + 1:
            raise InputError(
                f"{self.name}.input: the chat template of {self.model} leaves a message out; use "
                "other roles"
            )
        return runs

    def _opening(self) -> list[int]:
        """What the judge's message begins with: an empty thought, if its format has thoughts."""
        if self.written is None:
            return self._verdict_tokens()[0]
        tokenizer = self.open_judge.tokenizer
        if (marker := tokenizer.end_of_think_id) is None:
            return []
        completion = tokenizer.encode_completion("", None)
        return completion[: completion.index(marker) + 1]

    def _verdict_tokens(self) -> tuple[list[int], tuple[int, ...]]:
        """What all verdicts begin with as completions, and the next token of each."""
        tokenizer = self.open_judge.tokenizer
        completions = [tokenizer.encode_completion(verdict, None) for verdict in self.verdicts]
        columns = list(zip(*completions, strict=False))
        first = next((n for n, column in enumerate(columns) if len(set(column)) > 1), 0)
        return completions[0][:first], columns[first]


@dataclass(frozen=True)
class ScoreModel(DeviceJudge):
    """A validated `score_model` with a judge on the device."""

    type_name = "score_model"

    @classmethod
    def parse(cls, name: str, fields: Fields) -> Self:
        """See `GraderType.parse`."""
        fields.only("model", "input", "range", "scale")
        verdicts, values = (), parse_range(fields)
        if "scale" in fields.values:
            first, last = _scale(fields)
            verdicts = tuple(str(number) for number in range(first, last + 1))
            values = tuple(np.linspace(*values, len(verdicts)).tolist())
        return cls(
            name=name,
            model=_model(fields),
            messages=_messages(fields),
            verdicts=verdicts,
            values=values,
        )

    def _written_instead(self, tokenizer: Tokenizer, one: str, other: str) -> Self:
        """See `DeviceJudge`."""
        raise InputError(
            f"{self.name}: the verdicts {one!r} and {other!r} begin with the same token of "
            f"{self.model}; choose another scale, or leave it out, and the judge writes a number"
        )


@dataclass(frozen=True)
class LabelModel(DeviceJudge):
    """A validated `label_model` with a judge on the device."""

    type_name = "label_model"

    @classmethod
    def parse(cls, name: str, fields: Fields) -> Self:
        """See `GraderType.parse`."""
        fields.only("model", "input", "labels", "passing_labels")
        labels, passing = parse_labels(fields)
        if len(set(labels)) < max(2, len(labels)):
            raise fields.error("labels", "must be two or more, each once; correct them")
        return cls(
            name=name,
            model=_model(fields),
            messages=_messages(fields),
            verdicts=labels,
            values=tuple(float(label in passing) for label in labels),
        )


def is_on_device(fields: Fields) -> bool:
    """Whether a grader's JSON names a judge on the device."""
    return str(fields.values.get("model", "")).startswith(PREFIX)


def judge_nodes(spec: GraderType) -> tuple[DeviceJudge, ...]:
    """The nodes of a grader that are judges on the device."""
    return tuple(node for node in leaves(spec) if isinstance(node, DeviceJudge))


def open_judges(spec: GraderType, open_judge: Callable[[str], JudgeModel]) -> GraderType:
    """The grader with its judges open.

    Args:
        open_judge: From what stands after `device:`.

    Raises:
        InputError: As `DeviceJudge.opened`, and as `open_judge`.
    """
    if spec.children:
        opened = {key: open_judges(child, open_judge) for key, child in spec.children.items()}
        return spec.with_children(opened)
    return spec.opened(open_judge(spec.model)) if isinstance(spec, DeviceJudge) else spec


def _model(fields: Fields) -> str:
    model = fields.string("model").removeprefix(PREFIX)
    if not model:
        raise fields.error("model", "names no model; write device:WORKDIR/STAGE")
    return model


def _messages(fields: Fields) -> tuple[Message, ...]:
    messages = parse_messages(fields)
    variables = [v for template in templates_of(messages) for v in template.sample_variables]
    for variable in variables:
        if variable.namespace != "output_text":
            raise fields.error(
                "input",
                f"{{{{{variable.text}}}}} cannot be shown to a judge on the device, which reads "
                "the answer's tokens; use {{sample.output_text}}",
            )
    if not variables:
        raise fields.error("input", "does not show the answer; add {{sample.output_text}}")
    return messages


def _scale(fields: Fields) -> tuple[int, int]:
    bounds = fields.numbers("scale", (0.0,))
    first, last = bounds if len(bounds) == 2 else (0.0, 0.0)
    if not 0 <= first < last <= 100 or not (first.is_integer() and last.is_integer()):
        raise fields.error(
            "scale",
            "must be the lowest and the highest whole number that the judge is asked for, from 0 "
            "to 100, such as [1, 5]",
        )
    return int(first), int(last)
