"""`python -m rft_jax.serve.check JOBDIR`: looks whether a job can work, and plans it.

A child of the server, on the CPU: it reads the job's files, encodes every prompt and every item for
the grader, and leaves `checked.json`, before it `config.json`. It does not wait for a device, and
neither for the job that has one.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rft_jax import data
from rft_jax.config import Config, DataConfig, RLStage, SFTStage
from rft_jax.config.overrides import to_json
from rft_jax.config.validate import validate
from rft_jax.data.prompts import at_line
from rft_jax.graders.template import MissingVariable, Variable
from rft_jax.grammars import grammar_of
from rft_jax.runs.grader import run_grader
from rft_jax.runs.lengths import check_thinking_budgets
from rft_jax.serve.job_folder import JobFolder, read_value, write_value
from rft_jax.serve.parent import PARENT, end_with_parent
from rft_jax.serve.settings import (
    Plan,
    Sizes,
    job_config,
    plan_reinforcement,
    plan_supervised,
    row_tokens,
)
from rft_jax.serve.templates import Template, read_template
from rft_jax.tokenizers import SentencePieceTokenizer, Tokenizer, message_text
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

MOST_TOKENS = 32_768  # of a prompt or a supervised item
_NO_WANDB = (
    "The server does not have the package of Weights & Biases: the job is not shown there; its "
    "events and the server's pages have all of its figures"
)
_HYPERPARAMETERS = "method.{}.hyperparameters"


class Refused(Exception):
    """A job that cannot work.

    Attributes:
        code: OpenAI's word for what is wrong.
        param: The parameter of the job.
        message: The sentence.
    """

    def __init__(self, code: str, param: str, message: str):
        super().__init__(message)
        self.code, self.param, self.message = code, param, message


@contextmanager
def _refusing(code: str, param: str) -> Iterator[None]:
    """What is refused inside is the fault of a parameter."""
    try:
        yield
    except InputError as error:
        raise Refused(code, param, str(error)) from None


@contextmanager
def _refusing_templates(rows: Mapping[str, Sequence[JsonObject]]) -> Iterator[None]:
    """What a template names and no row of any file has is the grader's fault."""
    try:
        yield
    except MissingVariable as error:
        if any(_has(row, error.variable) for row in itertools.chain.from_iterable(rows.values())):
            raise
        name = f"{{{{{error.variable.text}}}}}"
        raise Refused(
            "invalid_grader",
            "method.reinforcement.grader",
            f"{error.where} needs {name}, but no item has it; correct the template, or add it to "
            "every item",
        ) from None


def _has(row: JsonObject, variable: Variable) -> bool:
    try:
        variable.of(row)
    except LookupError:
        return False
    return True


def check(folder: JobFolder) -> None:
    """Plans a job, or writes down why it cannot work."""
    request = read_value(folder.request)
    assert request is not None
    warnings = []
    if request["wandb_project"] and find_spec("wandb") is None:
        request["wandb_project"] = ""
        warnings.append(_NO_WANDB)
    try:
        config, plan = _plan(folder, request)
    except Refused as error:
        message = error.message
        for path, name in ((folder.train, "train_name"), (folder.valid, "valid_name")):
            message = message.replace(str(path), str(request[name]))
        problem = {"code": error.code, "param": error.param, "message": message}
        write_value(folder.checked, {"error": problem})
        return
    write_value(folder.config, to_json(config))
    samples = 0
    if isinstance(plan.stage, RLStage):
        samples = plan.stage.batch_size * plan.stage.rollout.group_size
    write_value(
        folder.checked,
        {
            "hyperparameters": plan.hyperparameters,
            "total_steps": plan.stage.steps,
            "samples": samples,
            "settings": _settings(plan),
            "warnings": warnings,
        },
    )


def _plan(folder: JobFolder, request: JsonObject) -> tuple[Config, Plan]:
    method = request["method"]
    with _refusing("invalid_model", "model"):
        template = read_template(request["source"])
        tokenizer = _tokenizer(template)
    kind = method["type"]
    plan_of = _reinforcement if kind == "reinforcement" else _supervised
    return plan_of(folder, request, template, tokenizer)


def _reinforcement(
    folder: JobFolder, request: JsonObject, template: Template, tokenizer: Tokenizer
) -> tuple[Config, Plan]:
    given = request["method"]["reinforcement"]
    longest = 0
    rows: dict[str, list[JsonObject]] = {}
    for path, name in ((folder.train, "training_file"), (folder.valid, "validation_file")):
        if path.exists():
            with _refusing(f"invalid_{name}", name):
                rows[name] = data.load_items(path)
                longest = max(longest, _longest_prompt(rows[name], tokenizer, path))
    if "validation_file" in rows:
        with _refusing("invalid_validation_file", "validation_file"):
            names = str(folder.train), str(folder.valid)
            data.check_disjoint(rows["training_file"], rows["validation_file"], names)
    sizes = Sizes(len(rows["training_file"]), longest, lead=len(tokenizer.lead_ids))
    plan = plan_reinforcement(template, given["hyperparameters"], sizes)
    assert isinstance(plan.stage, RLStage)
    if plan.stage.batch_size > sizes.rows:
        raise Refused(
            "invalid_training_file",
            "method.reinforcement.hyperparameters.batch_size",
            f"batch_size: {plan.stage.batch_size} prompts a step, but {folder.train} has "
            f"{sizes.rows}; use at most so many",
        )
    plan = _with_format(plan, given.get("response_format"))
    valid = str(folder.valid) if "validation_file" in rows else ""
    files = DataConfig(train=str(folder.train), valid=valid)
    config = _config(template, plan, request, files)
    with _refusing("invalid_hyperparameters", _HYPERPARAMETERS.format("reinforcement")):
        validate(config)
        check_thinking_budgets(config, tokenizer)
    with _refusing("invalid_response_format", "method.reinforcement.response_format"):
        grammar_of(config.rl_stages[0].rollout, tokenizer)
    with _refusing("invalid_grader", "method.reinforcement.grader"):
        grader = run_grader(config)
    assert grader is not None
    for path, name in ((folder.train, "training_file"), (folder.valid, "validation_file")):
        if name in rows:
            with _refusing(f"invalid_{name}", name), _refusing_templates(rows):
                grader.encode_items(rows[name], str(path))
    return config, plan


def _supervised(
    folder: JobFolder, request: JsonObject, template: Template, tokenizer: Tokenizer
) -> tuple[Config, Plan]:
    given = request["method"]["supervised"]["hyperparameters"]
    with _refusing("invalid_training_file", "training_file"):
        items = data.load_supervised_items(folder.train)
        longest = _longest_item(items, tokenizer, folder.train)
    held_out = ""
    if folder.valid.exists():
        held_out = str(folder.valid)
        with _refusing("invalid_validation_file", "validation_file"):
            valid = data.load_supervised_items(folder.valid)
            longest = max(longest, _longest_item(valid, tokenizer, folder.valid))
            data.check_disjoint(items, valid, (str(folder.train), held_out))
    with _refusing("invalid_training_file", "training_file"):
        room = row_tokens(template.sft.max_row_tokens, Sizes(len(items), longest))
        packed = data.pack_supervised(items, tokenizer, room, str(folder.train), "max_row_tokens")
    sizes = Sizes(len(items), longest, len(packed.tokens_MT))
    plan = plan_supervised(template, given, sizes, held_out)
    config = _config(template, plan, request, DataConfig(supervised=str(folder.train)))
    with _refusing("invalid_hyperparameters", _HYPERPARAMETERS.format("supervised")):
        validate(config)
    return config, plan


def _config(template: Template, plan: Plan, request: JsonObject, files: DataConfig) -> Config:
    return job_config(
        template,
        plan,
        name=request["id"],
        seed=request["seed"],
        init=request["init"],
        data=files,
        grader=request["grader"],
        python_timeout_s=request["python_timeout_s"],
        wandb_project=request["wandb_project"],
    )


def _with_format(plan: Plan, response_format: JsonObject | None) -> Plan:
    """The plan of a job whose answers have a format; of free texts the same."""
    wanted = response_format if response_format and response_format["type"] != "text" else ""
    assert isinstance(plan.stage, RLStage)
    rollout = dataclasses.replace(plan.stage.rollout, response_format=wanted)
    return plan._replace(stage=dataclasses.replace(plan.stage, rollout=rollout))


def _tokenizer(template: Template) -> Tokenizer:
    if template.tokenizer:
        return SentencePieceTokenizer(template.tokenizer)
    from rft_jax.runs.pretrained import find_sources

    config = dataclasses.replace(template.config, models=(template.model,))
    source = find_sources(config, None)[template.model.name]
    return source.tokenizer(config.tokenizer.thinking)


def _longest_prompt(rows: list[JsonObject], tokenizer: Tokenizer, path: Path) -> int:
    longest = 0
    for number, row in enumerate(rows, start=1):
        with at_line(str(path), number):
            size = len(tokenizer.encode_prompt(row["messages"], row.get("tools")))
            _check_length(size, "prompt")
        longest = max(longest, size)
    return longest


def _longest_item(rows: list[JsonObject], tokenizer: Tokenizer, path: Path) -> int:
    longest = 0
    for number, row in enumerate(rows, start=1):
        *context, answer = row["messages"]
        with at_line(str(path), number):
            size = len(tokenizer.encode_prompt(context, row.get("tools")))
            thought = answer.get("reasoning_content")
            size += len(tokenizer.encode_completion(message_text(answer), thought))
            _check_length(size, "item")
        longest = max(longest, size)
    return longest


def _check_length(size: int, what: str) -> None:
    if size > MOST_TOKENS:
        raise InputError(f"the {what} has {size} tokens, the limit is {MOST_TOKENS}; shorten it")


def _settings(plan: Plan) -> str:
    """What became of the job, in a sentence for its events."""
    shown = ", ".join(f"{name}={value}" for name, value in plan.hyperparameters.items())
    stage = plan.stage
    if isinstance(stage, SFTStage):
        lengths = f"rows of {stage.max_row_tokens} tokens, {stage.batch_size} a step"
    else:
        rollout = stage.rollout
        lengths = (
            f"prompts up to {rollout.max_prompt_tokens} and completions up to "
            f"{rollout.max_completion_tokens} tokens, {rollout.group_size} samples a prompt"
        )
    rate = stage.optimizer.learning_rate
    return f"{stage.steps} steps; {shown}; learning rate {rate:.3g}; {lengths}"


def main() -> int:
    """The command line."""
    if PARENT in os.environ:
        end_with_parent(int(os.environ[PARENT]))
    check(JobFolder(Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
