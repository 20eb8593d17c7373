"""The work directory of a run: held by one process, and of one configuration.

A run can be made longer: more steps of a stage whose schedule does not depend on their number give
the weights that a run of so many steps would have had.
"""

import contextlib
import fcntl
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from rft_jax.config import Config
from rft_jax.config.overrides import differences, read_config, to_json
from rft_jax.config.presets import resolve
from rft_jax.parallel import is_first
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

# Settings that change no result, or no more than its rounding: of the run, and of its models.
NO_RESULT = ("host", "tensorboard", "wandb_project", "compilation_cache", "mesh")
NO_RESULT_OF_MODEL = ("remat", "attention", "decode_attention", "decode_layers")

# Settings that change what is looked at and kept of a run, but not its weights.
MAY_CHANGE = ("name",)
MAY_CHANGE_IN_STAGE = (
    "eval_interval",
    "early_stopping_patience",
    "checkpoint_interval",
    "samples_interval",
    "log_interval",
)

LOCK_FILE = ".lock"
CONFIG_FILE = "config.json"
# What a run that was killed before it had a configuration may have left.
FIRST_FILES = (
    LOCK_FILE,
    "inputs.json",
    "grader.json",
    "audit_grader.json",
    "tokenizer.model",
    "data",
    "models",
)


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Holds a work directory for this process; on several hosts the first one holds it for all.

    A new one in which nothing was written for bad input is removed again.

    Raises:
        InputError: Another process has it, or it holds files of somebody's that are no run's.
    """
    new, path = not workdir.exists(), workdir / LOCK_FILE
    _check_is_a_run_s(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}); use another work directory"
        ) from None
    with lock:
        if is_first():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.stat()  # or it was removed, as below, before this process held it
            except OSError:
                raise InputError(
                    f"{workdir}: another process is working in it; wait for it or use "
                    "another work directory"
                ) from None
        try:
            yield
        except InputError:
            if is_first() and [file.name for file in workdir.iterdir()] == [LOCK_FILE]:
                path.unlink()  # which would tell that the files to come are a run's
                if new:
                    workdir.rmdir()
            raise


def _check_is_a_run_s(workdir: Path) -> None:
    """Refuses a directory in which a run could overwrite what is not its own."""
    names = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    if not names or CONFIG_FILE in names:  # whose configuration it is comes later
        return
    foreign = sorted(name for name in names if name not in FIRST_FILES and ".tmp" not in name)
    if foreign or LOCK_FILE not in names:
        example = foreign[0] if foreign else min(names)
        raise InputError(
            f"{workdir}: is not empty and no run's work directory (it has {example}); use a new "
            "or an empty one"
        )


def check_same(stored: Path, config: Config) -> None:
    """Refuses to go on with settings that would give another result.

    Raises:
        InputError: Naming them.
    """
    # Settings it lacks have their defaults; those that were left open, what they stand for.
    old = to_json(resolve(read_config(stored)))
    new = json.loads(json.dumps(to_json(resolve(config))))
    for run in (old, new):
        for name in (*NO_RESULT, *MAY_CHANGE):
            run.pop(name, None)
        for model, name in itertools.product(run["models"], NO_RESULT_OF_MODEL):
            model.pop(name, None)
        for stage, name in itertools.product(run["stages"], MAY_CHANGE_IN_STAGE):
            stage.pop(name, None)
    _take_more_steps(stored.parent, old["stages"], new["stages"])
    if changed := differences(old, new):
        raise InputError(
            f"{stored.parent}: the work directory belongs to another configuration "
            f"({'; '.join(changed)}); use another work directory or the same settings"
        )


def _take_more_steps(workdir: Path, old: list[JsonObject], new: list[JsonObject]) -> None:
    """Sets the old stages' steps to the new ones where a run may be made longer.

    Raises:
        InputError: it may not, although steps are all that was changed in a stage.
    """
    if [stage["name"] for stage in old] != [stage["name"] for stage in new]:
        return
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        count, wanted = before.get("steps"), after.get("steps")
        if count is None or wanted is None or wanted == count:
            continue
        name, change = before["name"], f"stages.{before['name']}.steps: {count} -> {wanted}"
        if before | {"steps": wanted} != after:
            continue
        if wanted < count:
            raise InputError(
                f"{workdir}: {change}: a run can be made longer but not shorter; use another work "
                "directory, or one of this run's checkpoints"
            )
        if (schedule := before["optimizer"]["schedule"]) != "constant":
            raise InputError(
                f"{workdir}: {change}: the schedule {schedule!r} ends with the last step; go on "
                "from its weights in another work directory, with a stage that has "
                f"init='{workdir / name}'"
            )
        for later in old[number + 1 :]:
            if "steps" in later and (workdir / later["name"] / "checkpoints").exists():
                raise InputError(
                    f"{workdir}: {change}: the stage {later['name']!r} after it has begun; use "
                    "another work directory"
                )
        before["steps"] = wanted
