"""Evaluation: sample answers to a file's items, grade them on the device, average.

The samples of an item depend on the seed and the item only, so that two models, or two
checkpoints, are compared on the same noise.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rft_jax import data
from rft_jax.config import EvalStage, RLStage, RolloutConfig
from rft_jax.evaluation.bootstrap import Column, intervals, macro, numbered, paired_differences
from rft_jax.graders import ANSWER, Grader, HostGrading, HostSample, Items, grade_samples
from rft_jax.grammars import GrammarTables
from rft_jax.host_step import make_host_sampler
from rft_jax.logging.samples import sample_row
from rft_jax.models import Params, merge
from rft_jax.parallel import (
    batch_parts,
    batch_sharding,
    enter_on_all_hosts,
    from_local,
    local_rows,
    raise_on_all_hosts,
    to_host,
)
from rft_jax.rollout import Prompts, Rollout, completion_keys, rollout
from rft_jax.runs.datasets import PromptData, index_tree, read_prompt_data
from rft_jax.runs.fingerprints import input_file
from rft_jax.runs.run import OpenModel, Run, open_judges, open_model, reopen_grader
from rft_jax.step import Batch, Program, Samples, compile_sampler, logit_mask, make_program
from rft_jax.strings import ByteString, from_host
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.errors import InputError

TOP = (1, 5)  # top@k for graders that rank
ONE_SAMPLE = EvalStage(cases=0)
OF_MACRO = ("reward_mean", *(f"top{k}" for k in TOP), "top_max", "mrr")
OF_TOKENS = ("truncated_fraction", "completion_tokens_mean", "reasoning_tokens_mean")
EXACT = {"int8_weights": False, "int8_cache": False}


class Evaluation(NamedTuple):
    """Per sample results, NumPy arrays [M, S] for M items and S samples of each."""

    reward_MS: np.ndarray
    valid_MS: np.ndarray
    scores: dict[str, np.ndarray]
    details: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    completion_tokens_MS: np.ndarray
    reasoning_tokens_MS: np.ndarray
    truncated_MS: np.ndarray
    tokens_MST: np.ndarray  # of the completions
    text: ByteString  # of the answers, [M, S, L]


def make_evaluator(
    program: Program, host: HostGrading, items: PromptData, samples: int, seed: int
) -> Callable[[Params], Evaluation]:
    """Compiles on first use; the same function then serves every checkpoint. Collective.

    Args:
        program: Of a reinforcement stage; its rollout settings hold here too, but nothing is in
            eight bits.
        host: Open, for the grader's nodes that run there.
        items: What is to be answered.
        samples: Samples per item, S.
        seed: Of the samples' noise.
    """
    stage = program.stage
    stage = dataclasses.replace(stage, rollout=dataclasses.replace(stage.rollout, **EXACT))
    program = dataclasses.replace(program, stage=stage)
    if program.grader.needs_host:
        sampler = make_host_sampler(program, host, Items(items.items, items.source))
    else:
        on_device = compile_sampler(program)

        def sampler(params: Params, batch: Batch, keys_BG: jax.Array, count: int) -> Samples:
            del count  # grading those that fill the batch up costs nothing
            return on_device(params, batch, keys_BG)

    size = len(items.items)
    width = _batch_size(program, samples, size)
    place = batch_sharding(program.mesh)
    here = local_rows(place, width)

    @functools.partial(jax.jit, in_shardings=place, out_shardings=place)
    def keys_of(batch: Batch) -> jax.Array:
        noise = jnp.uint32(seed), jnp.int32(0)
        return completion_keys(*noise, batch.prompt_id_B, batch.draw_B, samples)

    def evaluate(params: Params) -> Evaluation:
        parts = []
        for first in range(0, size, width):
            rows = np.minimum(np.arange(first, first + width), size - 1)
            max_prompt_tokens = bucketed(items, rows, stage.rollout)
            batch = make_batch(items, rows[here], np.zeros_like(here), max_prompt_tokens)
            batch = from_local(batch, place, width)
            real = min(width, size - first)
            output = sampler(params, batch, keys_of(batch), real)
            parts.append(
                jax.tree.map(
                    lambda leaf, real=real: leaf[:real],
                    to_host(
                        Evaluation(
                            output.grade.reward,
                            output.grade.valid,
                            output.grade.scores,
                            output.grade.details,
                            output.grade.errors,
                            output.completed.rollout.length_BG,
                            output.completed.rollout.thinking_tokens_BG,
                            ~output.completed.rollout.stopped_BG,
                            output.completed.rollout.tokens_BGT,
                            output.completed.text,
                        ),
                        program.mesh,
                    ),
                )
            )
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return evaluate


def make_batch(
    items: PromptData, rows: np.ndarray, draws: np.ndarray, max_prompt_tokens: int | None = None
) -> Batch:
    """The step's input for some rows of the data, as NumPy arrays.

    Args:
        max_prompt_tokens: P, of `bucketed`; None: the longest.
    """
    (tokens_BP, length_B), fields = index_tree((tuple(items.prompts), items.item_fields), rows)
    prompts = Prompts(tokens_BP[:, :max_prompt_tokens], length_B)
    return Batch(prompts, rows.astype(np.int32), draws.astype(np.int32), fields)


def bucketed(items: PromptData, rows: np.ndarray, config: RolloutConfig) -> int:
    """The static length P for a batch; rows are those of all hosts."""
    longest = int(items.prompts.length_M[rows].max())
    return data.bucket(longest, config.max_prompt_tokens, config.prompt_buckets)


def summarize(evaluation: Evaluation, found: Mapping[str, Column]) -> dict[str, Any]:
    """The means of `columns`, and what else there is to say of an evaluation."""
    errors = {f"errors/{name}_mean": float(f.mean()) for name, f in evaluation.errors.items()}
    errors |= {f"errors/{name}_count": int(f.sum()) for name, f in evaluation.errors.items()}
    return {
        "items": len(evaluation.valid_MS),
        "samples": evaluation.valid_MS.shape[1],
        **{name: column.mean for name, column in found.items()},
        "valid_fraction": float(evaluation.valid_MS.mean()),
        "truncated_fraction": float(evaluation.truncated_MS.mean()),
        "completion_tokens_mean": float(evaluation.completion_tokens_MS.mean()),
        "reasoning_tokens_mean": float(evaluation.reasoning_tokens_MS.mean()),
        **errors,
    }


def columns(evaluation: Evaluation, grader: Grader) -> dict[str, Column]:
    """What is averaged, by its name in the metrics: over valid samples, or over items."""
    valid_MS = evaluation.valid_MS
    found = {"reward_mean": evaluation.reward_MS}
    found |= {f"scores/{name}": score for name, score in evaluation.scores.items()}
    ranks = [name for name in evaluation.details if name.endswith("/rank")]
    if len(ranks) == 1:  # a ranking task
        node = ranks[0].removesuffix("/rank")
        rank = evaluation.details[ranks[0]]
        found |= {f"top{k}": (rank >= 1) & (rank <= k) for k in TOP}
        found |= {
            "top_max": rank >= 1,
            "mrr": np.where(rank >= 1, 1 / np.maximum(rank, 1), 0),
            "malformed_rate": evaluation.details[f"{node}/malformed"],
            "mean_list_length": evaluation.details[f"{node}/list_length"],
        }
    by_sample = {
        name: Column(np.where(valid_MS, values, 0).sum(axis=1), valid_MS.sum(axis=1))
        for name, values in found.items()
    }
    by_item = {}
    if grader.pass_threshold is not None:
        by_item |= pass_at(evaluation.reward_MS >= grader.pass_threshold, valid_MS)
    answers = [name for name in evaluation.details if name.endswith(ANSWER)]
    if len(answers) == 1:
        by_item |= majority(evaluation.details[answers[0]], evaluation.reward_MS, valid_MS)
    return by_sample | by_item


def pass_at(passed_MS: np.ndarray, valid_MS: np.ndarray) -> dict[str, Column]:
    """`pass_at_k` for k = 1, 2, 4, ... and the number of samples.

    The chance that of k samples at least one passes: 1 - C(n - c, k) / C(n, k) for an item with c
    of n valid samples passed (https://arxiv.org/abs/2107.03374); items with fewer valid samples
    have no weight.
    """
    samples = valid_MS.shape[1]
    n_M, c_M = valid_MS.sum(axis=1), (passed_MS & valid_MS).sum(axis=1)
    found = {}
    for k in sorted({samples, *(2**power for power in range(samples.bit_length()))}):
        # C(n - c, k) / C(n, k) = product over i < k of (n - c - i) / (n - i)
        factors = [np.clip(n_M - c_M - i, 0, None) / np.maximum(n_M - i, 1) for i in range(k)]
        enough_M = n_M >= k
        value_M = np.where(enough_M, 1 - np.prod(factors, axis=0), 0)
        found[f"pass_at_{k}"] = Column(value_M, enough_M.astype(int))
    return found


def majority(
    answer_MS: np.ndarray, reward_MS: np.ndarray, valid_MS: np.ndarray
) -> dict[str, Column]:
    """`majority`: the reward of the answer that most of an item's valid samples give.

    Args:
        answer_MS: A number for each different answer, below 0 for none. Of answers that are
            equally common the first counts; an item without any earns 0.
    """
    votes_MS = np.where(
        valid_MS & (answer_MS >= 0),
        ((answer_MS[:, :, None] == answer_MS[:, None, :]) & valid_MS[:, None, :]).sum(axis=2),
        0,
    )
    first_M = votes_MS.argmax(axis=1)[:, None]
    reward_M = np.take_along_axis(reward_MS, first_M, axis=1)[:, 0]
    return {
        "majority": Column(
            np.where(votes_MS.max(axis=1) > 0, reward_M, 0), valid_MS.any(axis=1).astype(int)
        )
    }


def _batch_size(program: Program, samples: int, items: int) -> int:
    """Items at once: as many completions as in a training step, a multiple of the mesh's share."""
    stage = program.stage
    parts = batch_parts(program.mesh)
    wanted = max(1, stage.batch_size * stage.rollout.group_size // samples)
    return -(-min(wanted, items) // parts) * parts


def evaluate_models(
    paths: Sequence[Path],
    data_file: str | None = None,
    settings: EvalStage = ONE_SAMPLE,
    seed: int = 0,
    answers: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Evaluates models on one file of items, all by the grader of the first run that has one.

    Each is sampled as in its run's last reinforcement stage; a model that has none, such as a
    Hugging Face checkpoint, as in that of the grader's run. On several hosts all take part and
    yield the same.

    Args:
        paths: As for `run.open_model`.
        data_file: JSON lines; None: the first run's own validation file.
        settings: How many samples, what is drawn together, and for how many items, from the first,
            the samples come with the summary, under `cases`.
        seed: Of the samples' noise, the same for all.
        answers: By name files of answers from elsewhere, an answer an item, as `data.load_answers`
            reads them; they follow the models.

    Yields:
        For every model its summary, with the 95 % interval of each mean under `intervals`; then
        for every pair how much more `a`, the later one, has than `b` (`paired_differences`).

    Raises:
        InputError: if there is no such model, no grader or no file.
    """
    if settings.samples < 1:
        raise InputError("--samples must be at least 1")
    with raise_on_all_hosts():
        models = [open_model(path) for path in paths]
        use_compilation_cache(models[0].run.config.compilation_cache)
        with_grader = next((model for model in models if _reinforcement_stages(model)), None)
        if with_grader is None:
            raise InputError(
                f"{paths[0]}: has no reinforcement stage and so no grader; name a run that has one "
                "too"
            )
        grader = reopen_grader(with_grader.run)
        source = data_file or input_file(with_grader.run.workdir, "valid")
        if not source:
            raise InputError(f"{paths[0]}: the run has no validation file; give --data FILE.jsonl")
        rows = data.load_items(source)
        data.check_keys(rows, settings.keys, source)
        clusters, groups = (
            numbered([row.get(key) for row in rows])
            for key in (settings.cluster_by, settings.macro_by)
        )

    def all_columns(evaluation: Evaluation) -> dict[str, Column]:
        found = columns(evaluation, grader)
        of_macro = OF_MACRO if settings.macro_by else ()
        return found | {
            f"macro_{name}": macro(found[name], groups) for name in of_macro if name in found
        }

    judged = functools.cache(lambda mesh: open_judges(grader, mesh))
    evaluations: dict[str, dict[str, Column]] = {}
    for path, model in zip(paths, models, strict=True):
        run, stage, step = model
        as_trained = (_reinforcement_stages(model) or _reinforcement_stages(with_grader))[-1]
        with raise_on_all_hosts():
            opened = judged(run.mesh)
            opened.check_tokenizer(run.tokenizer)
            run = dataclasses.replace(run, grader=opened)
            items = read_prompt_data(source, as_trained, run.grader, run.tokenizer)
        program = make_program(
            run.model(stage), optax.identity(), run.grader, run.tokenizer, as_trained, run.mesh
        )
        params = run.load_params(stage, step)
        with enter_on_all_hosts(run.grader.open_host()) as host:
            evaluation = make_evaluator(program, host, items, settings.samples, seed)(params)
        evaluations[str(path)] = found = all_columns(evaluation)
        yield {
            "model": str(path),
            "data": source,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            **summarize(evaluation, found),
            "intervals": intervals(found, cluster_M=clusters),
            **_cases(run, items, evaluation, settings.cases),
        }
    for name, file in (answers or {}).items():
        evaluation = _grade_answers(opened, items, data.load_answers(file, len(items.items)))
        evaluations[name] = found = all_columns(evaluation)
        summary = summarize(evaluation, found)
        yield {
            "model": name,
            "data": source,
            **{key: value for key, value in summary.items() if key not in OF_TOKENS},
            "intervals": intervals(found, cluster_M=clusters),
            **_cases(run, items, evaluation, settings.cases),
        }
    for b, a in itertools.combinations(evaluations, 2):
        differences = paired_differences(evaluations[a], evaluations[b], cluster_M=clusters)
        for name, interval in differences.items():
            yield {"a": a, "b": b, "metric": name, **interval}


def _grade_answers(grader: Grader, items: PromptData, answers: Sequence[str]) -> Evaluation:
    """Answers that no model here has sampled, one an item."""
    samples = [HostSample(answer) for answer in answers]
    rows = range(len(samples))
    grade = grade_samples(grader, samples, Items(items.items, items.source), rows)
    no_M1 = np.zeros((len(samples), 1), np.int32)
    text = from_host(answers, max(1, *(len(a.encode(errors="replace")) for a in answers)))
    by_sample = jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], (grade, text))
    (reward, valid, scores, errors, details), text = by_sample
    return Evaluation(
        reward, valid, scores, details, errors, no_M1, no_M1, no_M1 > 0, no_M1[..., None], text
    )


def _cases(
    run: Run, items: PromptData, found: Evaluation, count: int
) -> dict[str, list[list[dict[str, Any]]]]:
    """The samples of each of the first `count` items under `cases`, if any are asked for."""

    def row(m: int, s: int) -> dict[str, Any]:
        sample = sample_row(
            run.tokenizer,
            found.tokens_MST[m, s],
            found.text.bytes[m, s, : found.text.length[m, s]].tobytes(),
            thinking_tokens=found.reasoning_tokens_MS[m, s],
            stopped=not found.truncated_MS[m, s],
            reward=found.reward_MS[m, s],
            valid=found.valid_MS[m, s],
            scores={name: score[m, s] for name, score in found.scores.items()},
            errors={name: made[m, s] for name, made in found.errors.items()},
        )
        return sample | {"prompt": items.items[m]["messages"]}

    M, S = found.reward_MS[:count].shape
    return {"cases": [[row(m, s) for s in range(S)] for m in range(M)]} if count else {}


def evaluation_file(paths: Sequence[Path]) -> Path:
    """Where the comparison of these models is written: into the directory of the grader's run."""
    models = [open_model(path) for path in paths]
    return next(m for m in models if _reinforcement_stages(m)).run.workdir / "evaluation.html"


def sample_model(
    path: Path,
    prompt: str,
    *,
    max_tokens: int | None,
    temperature: float,
    seed: int,
    samples: int,
    response_format: str = "",
) -> Iterator[dict[str, Any]]:
    """Samples answers to one user message.

    Args:
        path: As for `run.open_model`.
        max_tokens: Of a completion; None: as the run's reinforcement stage has it.
        temperature: 0 decodes greedily.
        response_format: A file, as `RolloutConfig` has it; empty: that of the stage.

    Yields:
        For each sample its text, thought, token ids and stop reason ("stop" or "length").

    Raises:
        InputError: if there is no such model or an option cannot work.
    """
    if samples < 1 or (max_tokens is not None and max_tokens < 1):
        raise InputError("--n and --max-tokens must be at least 1")
    if not 0 <= temperature < math.inf:
        raise InputError("--temperature must be a number from 0")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InputError("--prompt is not UTF-8; correct its encoding")
    run, stage, step = open_model(path)
    use_compilation_cache(run.config.compilation_cache)
    model, tokenizer = run.model(stage), run.tokenizer
    stages = _reinforcement_stages(OpenModel(run, stage, step))
    config = stages[-1].rollout if stages else RolloutConfig()
    length = max_tokens or config.max_completion_tokens
    config = dataclasses.replace(
        config,
        max_completion_tokens=length,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        slots=0,
        response_format=response_format or config.response_format,
        reasoning_effort=min(config.thinking_tokens, max(length - 2, 0)),
        **EXACT,
    )
    mask = logit_mask(tokenizer, config, run.mesh)
    tokens = tokenizer.encode_prompt([{"role": "user", "content": prompt}])
    prompts = Prompts(jnp.asarray([tokens], jnp.int32), jnp.asarray([len(tokens)], jnp.int32))
    zero = jnp.zeros((1,), jnp.int32)
    keys = completion_keys(jnp.uint32(seed), jnp.int32(0), zero, zero, samples)

    @jax.jit
    def run_rollout(params: Params, grammar: GrammarTables | None) -> Rollout:
        copy = merge(params, model.dtype)
        stops = {"stop_ids": tokenizer.stop_ids, "pad_id": tokenizer.pad_id}
        whole = dataclasses.replace(mask, grammar=grammar)
        return rollout(model, copy, prompts, keys, whole, config, **stops)

    output = jax.device_get(run_rollout(run.load_params(stage, step), mask.grammar))
    for g in range(samples):
        ids = output.tokens_BGT[0, g, : output.length_BG[0, g]].tolist()
        answer = slice(output.answer_start_BG[0, g], output.answer_end_BG[0, g])
        text = tokenizer.decode(ids[answer])
        yield {
            "text": text.lstrip("\n") if tokenizer.answer_separator else text,
            "thought": tokenizer.decode(ids[: output.thinking_tokens_BG[0, g]]),
            "token_ids": ids,
            "stop_reason": "stop" if output.stopped_BG[0, g] else "length",
        }


def _reinforcement_stages(model: OpenModel) -> list[RLStage]:
    """Those of the run, the stage's own last."""
    stages = [*model.run.config.training_stages, model.stage]
    return [stage for stage in stages if isinstance(stage, RLStage)]
