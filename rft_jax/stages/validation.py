"""Validation of stages whose model samples: items, and what grades and audits the answers."""

from contextlib import ExitStack

from rft_jax import data
from rft_jax.config import DataConfig, SamplingStage
from rft_jax.evaluation.audit import make_auditor
from rft_jax.evaluation.cases import answer_texts
from rft_jax.evaluation.drift import describe_answers
from rft_jax.evaluation.evaluator import make_evaluator
from rft_jax.evaluation.metrics import validation_summary
from rft_jax.graders import Grader, HostGrading, Items
from rft_jax.models import Params
from rft_jax.parallel import enter_on_all_hosts, is_first, raise_on_all_hosts
from rft_jax.runs.constant_record import note_constant
from rft_jax.runs.datasets import PromptData, Rows, read_prompts
from rft_jax.runs.run import Run
from rft_jax.stages.base import Row, Validate
from rft_jax.step import Sampler, make_grading


def read_validation(files: DataConfig, train: Rows, grader: Grader | None) -> dict[str, Rows]:
    """The items to validate on as `valid`, none of which is trained on; nothing without any.

    Raises:
        InputError: Naming file, line and field of what cannot be used.
    """
    if not files.valid or grader is None:
        return {}
    valid = read_prompts(files.valid, grader)
    data.check_disjoint(train.items, valid.items, (train.source, files.valid))
    return {"valid": valid}


def note_best_constant(run: Run, config: SamplingStage, valid: PromptData) -> None:
    """Writes down what the best constant answer earns on the validation items."""
    assert run.grader is not None
    with raise_on_all_hosts():
        if is_first():
            note_constant(run.directory(config), run.grader, valid)


def open_validation(
    run: Run,
    config: SamplingStage,
    sampler: Sampler,
    host: HostGrading,
    valid: PromptData,
    stack: ExitStack,
) -> Validate:
    """What grades the answers to the validation items, and what audits them if the run does so.

    Args:
        run: It has a grader.
        config: The stage's settings.
        sampler: The stage's.
        host: Open, for the grader's nodes that run there.
        valid: The items.
        stack: Closes what is opened here.
    """
    grader = run.grader
    assert grader is not None
    evaluator = make_evaluator(
        sampler,
        make_grading(grader, run.tokenizer, config.rollout),
        host,
        valid,
        config.eval_samples,
        run.seed(config, "valid"),
        at_once=config.batch_size * config.rollout.group_size,
    )
    auditor = None
    if run.audit_grader is not None:
        auditor = make_auditor(
            run,
            stack.enter_context(enter_on_all_hosts(run.audit_grader.open_host())),
            Items(valid.items, valid.source),
            run.directory(config),
        )

    def validate(params: Params, step: int) -> Row:
        evaluation = evaluator(params)
        summary = validation_summary(evaluation, grader)
        summary |= describe_answers(answer_texts(evaluation))
        return summary | (auditor(evaluation, step) if auditor else {})

    return validate
