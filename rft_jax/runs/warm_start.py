"""The weights that a stage starts from: an earlier stage, another run, a checkpoint."""

import dataclasses
import json
from pathlib import Path

from rft_jax.config import NOT_OF_SOURCE, TrainingStageConfig
from rft_jax.config.overrides import differences, to_json
from rft_jax.models import Params
from rft_jax.models.hugging_face import is_checkpoint
from rft_jax.parallel import is_first, raise_on_all_hosts
from rft_jax.runs.checkpoint import steps
from rft_jax.runs.reopen import OpenModel, open_model
from rft_jax.runs.run import BASE_STAGE, Run
from rft_jax.utils.errors import InputError
from rft_jax.utils.files import write_atomically

INIT_FILE = "init.json"  # the checkpoint of another run that a stage started from


def load_init(run: Run, stage: TrainingStageConfig) -> Params | None:
    """The weights that a stage starts from; None for random ones.

    Raises:
        InputError: If there is no such checkpoint, or it is damaged.
    """
    if "/" in stage.init:
        other, source, step = pinned_model(stage.init, run.directory(stage) / INIT_FILE)
        return dataclasses.replace(other, mesh=run.mesh).load_params(source, step)
    if stage.init:
        return run.load_params(run.stage(stage.init))
    return run.load_source(stage) if stage.model in run.sources else None


def pinned_model(path: str, file: Path) -> OpenModel:
    """Another run's model; for a stage that goes on, the checkpoint with which it began.

    That run may write newer checkpoints while this one is stopped, so that the step is noted.

    Args:
        path: As for `open_model`.
        file: Where the step is noted, in the stage's folder.
    """
    model = open_model(Path(path))
    if model.step is not None or model.stage is BASE_STAGE:
        return model
    with raise_on_all_hosts():
        if is_first() and not file.exists():
            newest = {"step": steps(model.run.checkpoints(model.stage))[-1]}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(newest))
    return model._replace(step=json.loads(file.read_text())["step"])


def check_init(run: Run, stage: TrainingStageConfig) -> None:
    """Looks whether a stage can start from the other run's model that it names.

    Raises:
        InputError: If that model has another shape, tokenizer or adapters, or no checkpoint; or it
            is no run's.
    """
    setting = f"stages.{stage.name}.init"
    if stage.init.startswith("hf:") or is_checkpoint(Path(stage.init)):
        raise InputError(
            f"{setting}: {stage.init} is a Hugging Face checkpoint, not a run's; set "
            f"models.{stage.model}.source={stage.init}, and leave init empty"
        )
    other, source, step = open_model(Path(stage.init))
    ours, theirs = run.model_config(stage), other.model_config(source)
    if (ours.lora is None) != (theirs.lora is None):
        raise InputError(
            f"{setting}: {stage.init} has {'no ' if theirs.lora is None else ''}adapters, which "
            "cannot be changed; export it in the format hf, and use that as the model's `source`"
        )
    same = {name: getattr(ours, name) for name in NOT_OF_SOURCE if name != "lora"}
    if ours.lora is not None:
        del same["source"]  # the weights under the adapters
    if changed := differences(to_json(dataclasses.replace(theirs, **same)), to_json(ours)):
        raise InputError(f"{setting}: {stage.init} has another model ({'; '.join(changed)})")
    known = steps(other.checkpoints(source))
    if not known or (step is not None and step not in known):
        raise InputError(f"{setting}: {stage.init} has no such checkpoint yet; train it first")
    path = run.tokenizer_path
    if not path.is_file() or path.read_bytes() != other.tokenizer_path.read_bytes():
        raise InputError(
            f"{setting}: {stage.init} has a tokenizer of its own; set tokenizer.path to "
            f"{other.tokenizer_path}"
        )
