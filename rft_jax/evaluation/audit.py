"""A held-out grader's look at validation samples: it is in no reward, and nothing is trained on it.

A model that has found a way to be paid without doing the work is paid by the run's grader and not
by one that looks at something else. What both say of the same samples is shown; nothing is decided.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from rft_jax.evaluation.cases import answer_text, case_row
from rft_jax.evaluation.evaluator import Evaluation
from rft_jax.graders import Grade, HostGrading, HostSample, Items, grade_encoded
from rft_jax.graders.template import item_fields
from rft_jax.logging.samples import json_lines, samples_file
from rft_jax.parallel import gather_objects, is_first, raise_on_all_hosts
from rft_jax.report.history import AUDIT_FOLDER
from rft_jax.runs.run import Run
from rft_jax.utils.console import log
from rft_jax.utils.numbers import to_numbers
from rft_jax.utils.types import JsonObject

SHOWN = 12  # of the samples on which reward and audit differ most


def make_auditor(
    run: Run, host: HostGrading, items: Items, directory: Path
) -> Callable[[Evaluation, int], JsonObject]:
    """A look by a run's audit grader at every evaluation of the same items.

    Args:
        run: It has a grader and an audit grader.
        host: Open, for the nodes of the audit grader that run on the host.
        items: What was answered.
        directory: The stage's folder.

    Returns:
        A collective function (evaluation, step) -> metrics. It also writes the samples on which
        reward and audit differ most below the directory, for people to read.
    """
    grader = run.audit_grader
    assert grader is not None and run.grader is not None
    encoded = grader.encode_items(items.rows, items.source)
    fields = dict.fromkeys([*item_fields(run.grader.spec), *item_fields(grader.spec)])

    def audit(evaluation: Evaluation, step: int) -> JsonObject:
        M, S = evaluation.reward_MS.shape
        here = np.array_split(np.arange(M * S), jax.process_count())[jax.process_index()]
        mine = None
        with raise_on_all_hosts():
            if len(here):
                samples = [_sample(evaluation, *divmod(int(n), S)) for n in here]
                width = evaluation.text.bytes.shape[-1]
                rows = (here // S).tolist()
                mine = grade_encoded(grader, samples, items, rows, encoded, host, least_bytes=width)
        parts = [part for part in gather_objects(mine) if part is not None]
        grade: Grade = jax.tree.map(lambda *x: np.concatenate(x).reshape(M, S), *parts)
        if is_first():
            pairs = largest_differences(evaluation, grade)
            rows = [
                case_row(run.tokenizer, evaluation, items.rows, list(fields), m, s)
                | {"audit": to_numbers(grade.reward[m, s]), "step": step}
                for m, s in pairs
            ]
            try:
                path = samples_file(directory / AUDIT_FOLDER, step)
                path.write_bytes(json_lines(rows))
            except OSError as error:
                log(f"warning: the audit of step {step} could not be written ({error})")
        return summarize_audit(evaluation, grade)

    return audit


def summarize_audit(evaluation: Evaluation, grade: Grade) -> dict[str, float]:
    """The audit as metrics; what cannot be told of the samples is left out.

    Returns:
        The mean over the samples that the audit could grade, and their fraction; over those that
        both could grade, how much more the reward's mean is, and Pearson's correlation.
    """
    found = {"audit/valid_fraction": float(grade.valid.mean())}
    if grade.valid.any():
        found["audit/reward_mean"] = float(grade.reward[grade.valid].mean())
    both = grade.valid & evaluation.valid_MS
    reward, audit = evaluation.reward_MS[both], grade.reward[both]
    if len(reward):
        found["audit/difference"] = float(reward.mean() - audit.mean())
    if len(reward) > 1 and reward.std() > 0 and audit.std() > 0:
        found["audit/correlation"] = float(np.corrcoef(reward, audit)[0, 1])
    return found


def largest_differences(evaluation: Evaluation, grade: Grade) -> Sequence[tuple[int, int]]:
    """The (item, sample) of at most `SHOWN` samples, those first that differ most; none alike."""
    both = grade.valid & evaluation.valid_MS
    difference = np.where(both, np.abs(evaluation.reward_MS - grade.reward), 0).ravel()
    order = np.argsort(-difference, kind="stable")[:SHOWN]
    samples = evaluation.reward_MS.shape[1]
    return [divmod(int(n), samples) for n in order if difference[n] > 0]


def _sample(found: Evaluation, m: int, s: int) -> HostSample:
    return HostSample(
        output_text=answer_text(found, m, s),
        has_answer=bool(found.has_answer_MS[m, s]),
        truncated=bool(found.truncated_MS[m, s]),
        overflow=bool(found.overflow_MS[m, s]),
        completion_tokens=int(found.completion_tokens_MS[m, s]),
    )
