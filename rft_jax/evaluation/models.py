"""Models compared on one file of items: what each earns, and paired differences.

result = evaluate(["runs/claims/sft", "runs/claims/rft"])
result.models[1].summary["reward_mean"], result.differences[0].low
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rft_jax import data
from rft_jax.config import EvalStage, SamplingStage
from rft_jax.evaluation.bootstrap import Column, intervals, macro, numbered, paired_differences
from rft_jax.evaluation.cases import case_row
from rft_jax.evaluation.evaluator import Evaluation, make_evaluator
from rft_jax.evaluation.metrics import TOP, columns, summarize
from rft_jax.graders import Grader, HostSample, Items, grade_samples
from rft_jax.graders.grader import ask_host
from rft_jax.graders.template import item_fields
from rft_jax.parallel import enter_on_all_hosts, gather_objects, is_first, raise_on_all_hosts
from rft_jax.runs.datasets import PromptData, read_prompt_data
from rft_jax.runs.fingerprints import input_file
from rft_jax.runs.grader import open_judges, reopen_grader
from rft_jax.runs.reopen import OpenModel, open_best, open_model
from rft_jax.runs.run import Run
from rft_jax.step import make_grading, make_sampler
from rft_jax.strings import from_host
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

ONE_SAMPLE = EvalStage(cases=0)
OF_MACRO = ("reward_mean", *(f"top{k}" for k in TOP), "top_max", "mrr")
OF_TOKENS = ("truncated_fraction", "completion_tokens_mean", "reasoning_tokens_mean")


@dataclass(frozen=True)
class ModelResult:
    """What one model, or a file of answers, earned on M items.

    Attributes:
        model: The model's path, or the name of the answers.
        data: The file of items.
        grader_workdir: The work directory of the run whose grader graded it.
        summary: Means and counts by name, as `metrics.summarize` has them.
        intervals: The 95 % interval of each mean, (low, high).
        columns: The metrics by item, of which the means are taken.
        cluster_M: The number of each item's cluster; see `bootstrap`.
        parameters: How many weights the model has; None for answers from elsewhere.
        cases: The samples of the first items, each a JSON value.
    """

    model: str
    data: str
    grader_workdir: Path
    summary: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    columns: dict[str, Column]
    cluster_M: np.ndarray
    parameters: int | None = None
    cases: Sequence[Sequence[JsonObject]] = ()

    def to_json(self) -> JsonObject:
        """The result as one JSON object, its cases left out."""
        size = {} if self.parameters is None else {"parameters": self.parameters}
        about = {"model": self.model, "data": self.data, **size}
        return about | self.summary | {"intervals": self.intervals}


@dataclass(frozen=True)
class PairedDifference:
    """How much more of a metric `a` has than `b` on the same items, with its 95 % interval."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float

    def to_json(self) -> JsonObject:
        """The difference as one JSON object."""
        return dataclasses.asdict(self)


class Evaluated(NamedTuple):
    """Models on the same items, and every later one against every earlier one."""

    models: list[ModelResult]
    differences: list[PairedDifference]


def evaluate(
    paths: Sequence[str | Path],
    data_file: str | None = None,
    settings: EvalStage = ONE_SAMPLE,
    seed: int = 0,
) -> Evaluated:
    """Evaluates models on one file of items; arguments and errors are those of `evaluate_models`.

    Of a run or stage that was validated, its best checkpoint is evaluated.

    evaluate(["runs/claims/sft", "runs/claims/rft"]).models[1].summary["reward_mean"]
    """
    paths = [Path(path) for path in paths]
    models = list(evaluate_models(paths, data_file, settings, seed, best=True))
    return Evaluated(models, paired(models))


def evaluate_models(
    paths: Sequence[Path],
    data_file: str | None = None,
    settings: EvalStage = ONE_SAMPLE,
    seed: int = 0,
    answers: Mapping[str, str] | None = None,
    best: bool = False,
) -> Iterator[ModelResult]:
    """Evaluates models on one file of items, all by the grader of the first run that has one.

    Each is sampled as in its run's last stage that samples; a model that has none, such as a
    Hugging Face checkpoint, as in that of the grader's run. On several hosts all take part and
    yield the same.

    Args:
        paths: As for `runs.reopen.open_model`.
        data_file: JSON lines; None for the first run's own validation file.
        settings: How many samples, what is drawn together, and of how many items, from the first,
            the samples come with the result.
        seed: The seed of the samples' noise, the same for all.
        answers: By name files of answers from elsewhere, an answer an item, as `data.load_answers`
            reads them; they follow the models.
        best: Take the checkpoint of a run or stage with the best validation, or else the newest.

    Yields:
        The models' results in their order.

    Raises:
        InputError: If there is no such model, no grader or no file.
    """
    if settings.samples < 1:
        raise InputError("samples: must be at least 1")
    with raise_on_all_hosts():
        models = [(open_best if best else open_model)(path) for path in paths]
        use_compilation_cache(models[0].run.config.compilation_cache)
        with_grader = next((model for model in models if model.has_grader), None)
        if with_grader is None:
            raise InputError(
                f"{paths[0]}: has no stage that is graded and so no grader; name a run that has "
                "one too"
            )
        judge = _Judge.open(with_grader, data_file, settings)
        runs = {model.run.workdir for model in models if model.has_grader}
        if len(runs) > 1 and is_first():
            log(f"all are graded by the grader of {with_grader.run.workdir}, on {judge.source}")
    for path, model in zip(paths, models, strict=True):
        as_trained = (model.sampling_stages or with_grader.sampling_stages)[-1]
        if settings.temperature is not None:
            rollout = dataclasses.replace(as_trained.rollout, temperature=settings.temperature)
            as_trained = dataclasses.replace(as_trained, rollout=rollout)
        with raise_on_all_hosts():
            grader = judge.grader_for(model.run)
            items = read_prompt_data(judge.source, as_trained, grader, model.run.tokenizer)
        yield _evaluate_model(path, model, judge, grader, items, as_trained, seed)
    for name, file in (answers or {}).items():
        evaluation = _grade_answers(grader, items, data.load_answers(file, len(items.items)))
        yield judge.result(name, evaluation, model.run, items, leave_out=OF_TOKENS)


def paired(results: Sequence[ModelResult]) -> list[PairedDifference]:
    """Every later result against every earlier one, metric by metric."""
    return [
        PairedDifference(a.model, b.model, metric, **interval)
        for b, a in itertools.combinations(results, 2)
        for metric, interval in paired_differences(
            a.columns, b.columns, cluster_M=a.cluster_M
        ).items()
    ]


@dataclass(frozen=True)
class _Judge:
    """What is the same for all models of an evaluation."""

    grader: Grader
    workdir: Path  # the run's that has the grader
    source: str
    settings: EvalStage
    cluster_M: np.ndarray
    group_M: np.ndarray  # whose values count alike in `macro_` metrics
    opened: dict[Mesh, Grader]

    @classmethod
    def open(cls, model: OpenModel, data_file: str | None, settings: EvalStage) -> "_Judge":
        """The grader of a model's run, and the items' file."""
        run = model.run
        grader, source = reopen_grader(run), data_file or input_file(run.workdir, "valid")
        if not source or grader is None:
            raise InputError(f"{run.workdir}: the run has no validation file; name a file of items")
        rows = data.load_items(source)
        data.check_keys(rows, settings.keys, source)
        cluster_M, group_M = (
            numbered([row.get(key) for row in rows])
            for key in (settings.cluster_by, settings.macro_by)
        )
        return cls(grader, run.workdir, source, settings, cluster_M, group_M, {})

    def grader_for(self, run: Run) -> Grader:
        """The grader with its judges opened on the run's mesh, and fit for its tokenizer."""
        if run.mesh not in self.opened:
            self.opened[run.mesh] = open_judges(self.grader, run.mesh)
        self.opened[run.mesh].check_tokenizer(run.tokenizer)
        return self.opened[run.mesh]

    def result(
        self,
        name: str,
        evaluation: Evaluation,
        run: Run,
        items: PromptData,
        parameters: int | None = None,
        leave_out: Sequence[str] = (),
    ) -> ModelResult:
        """What an evaluation says of a model."""
        found = columns(evaluation, self.grader)
        macros = [name for name in OF_MACRO if name in found] if self.settings.macro_by else []
        found |= {f"macro_{name}": macro(found[name], self.group_M) for name in macros}
        summary = summarize(evaluation, found)
        return ModelResult(
            model=name,
            data=self.source,
            grader_workdir=self.workdir,
            summary={key: value for key, value in summary.items() if key not in leave_out},
            intervals=intervals(found, cluster_M=self.cluster_M),
            columns=found,
            cluster_M=self.cluster_M,
            parameters=parameters,
            cases=_cases(
                run, items, evaluation, self.settings.cases, item_fields(self.grader.spec)
            ),
        )


def _evaluate_model(
    path: Path,
    model: OpenModel,
    judge: _Judge,
    grader: Grader,
    items: PromptData,
    as_trained: SamplingStage,
    seed: int,
) -> ModelResult:
    run, stage, step = model
    sampler = make_sampler(run.model(stage), run.tokenizer, as_trained.rollout, run.mesh)
    grading = make_grading(grader, run.tokenizer, as_trained.rollout)
    at_once = as_trained.batch_size * as_trained.rollout.group_size
    params = run.load_params(stage, step)
    with enter_on_all_hosts(grader.open_host()) as host:
        samples = judge.settings.samples
        evaluator = make_evaluator(sampler, grading, host, items, samples, seed, at_once)
        evaluation = evaluator(params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return judge.result(str(path), evaluation, run, items, size)


def _grade_answers(grader: Grader, items: PromptData, answers: Sequence[str]) -> Evaluation:
    """Answers that no model here has sampled, one an item; collective."""
    given = [HostSample(answer) for answer in answers], Items(items.items, items.source)
    rows = range(len(answers))
    with raise_on_all_hosts():  # a judge at a server is asked by one host, not by each
        found = ask_host(grader, *given, rows) if is_first() else {}
    grade = grade_samples(grader, *given, rows, found=gather_objects(found)[0])
    no_M1 = np.zeros((len(answers), 1), np.int32)
    text = from_host(answers, max(1, *(len(a.encode(errors="replace")) for a in answers)))
    by_sample = jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], (grade, text))
    (reward, valid, scores, errors, details), text = by_sample
    return Evaluation(
        reward,
        valid,
        scores,
        details,
        errors,
        completion_tokens_MS=no_M1,
        reasoning_tokens_MS=no_M1,
        truncated_MS=no_M1 > 0,
        tokens_MST=no_M1[..., None],
        text=text,
        has_answer_MS=no_M1 == 0,
        overflow_MS=no_M1 > 0,
    )


def _cases(
    run: Run, items: PromptData, found: Evaluation, count: int, fields: Sequence[str]
) -> list[list[JsonObject]]:
    """The samples of each of the first `count` items."""

    M, S = found.reward_MS[:count].shape
    return [
        [case_row(run.tokenizer, found, items.items, fields, m, s) for s in range(S)]
        for m in range(M)
    ]
