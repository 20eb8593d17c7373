"""The files that a run reads, with their sums: it goes on with the same ones only."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from rft_jax.config import Config, DataConfig, SFTStage
from rft_jax.config.algorithms import function_files
from rft_jax.graders import grader_file
from rft_jax.runs.datasets import baseline_files, evaluated_file
from rft_jax.utils.errors import InputError

INPUTS_FILE = "inputs.json"


def input_sums(config: Config, files: DataConfig, workdir: Path) -> dict[str, dict[str, str]]:
    """The files that the run reads, by role: their paths and BLAKE2 sums.

    A path below the work directory is relative to it, so that the directory can be moved.
    """
    paths = {
        field.name: getattr(files, field.name)
        for field in dataclasses.fields(DataConfig)
        if field.type is str
    }
    paths |= {"tokenizer": config.tokenizer.path}
    for stage in config.training_stages:
        if isinstance(stage, SFTStage):
            paths[f"stages.{stage.name}.valid"] = stage.valid
    for stage in config.eval_stages:
        paths[f"stages.{stage.name}"] = path = evaluated_file(stage, files, workdir)
        for name, answers in baseline_files(stage, path).items():
            paths[f"stages.{stage.name}.{name}"] = answers
    for stage in config.rl_stages:
        for setting, file in function_files(stage.policy_loss).items():
            paths[f"stages.{stage.name}.policy_loss.{setting}"] = file
    for role, grader in (("grader", config.grader), ("audit_grader", config.audit_grader)):
        if grader:
            paths[role] = grader_file(grader)
    found = {}
    for role, path in paths.items():
        if path and Path(path).is_file():
            with Path(path).open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").hexdigest()
            inside = Path(path).resolve().is_relative_to(workdir.resolve())
            shown = os.path.relpath(path, workdir) if inside else str(Path(path).resolve())
            found[role] = {"path": shown, "blake2b": digest}
    return found


def check_input_sums(workdir: Path, sums: dict[str, dict[str, str]]) -> None:
    """Refuses to go on with another file than the run began with.

    Raises:
        InputError: Naming the file.
    """
    for role, before in _read(workdir / INPUTS_FILE).items():
        if sums.get(role, {}).get("blake2b") != before["blake2b"]:
            raise InputError(
                f"{before['path']}: has changed since the run in {workdir} began; put the "
                "file back as it was, or use another work directory"
            )


def input_file(workdir: Path, role: str) -> str | None:
    """The file that a run reads as `train`, `valid` or `supervised`."""
    entry = _read(workdir / INPUTS_FILE).get(role)
    return str(workdir / entry["path"]) if entry else None


def _read(stored: Path) -> dict[str, dict[str, str]]:
    if not stored.exists():
        return {}
    try:
        return json.loads(stored.read_text())
    except ValueError:
        raise InputError(f"{stored}: cannot be read; use another work directory") from None
