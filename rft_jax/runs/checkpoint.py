"""A stage's checkpoints: written asynchronously by Orbax, with checksums, the best ones kept.

A checkpoint is a folder `checkpoints/STEP` with two items, so that others may read the weights
alone: `params`, and `rest` with optimizer and counters. Frozen weights are left out: they are what
the stage started from. The files' checksums lie in it before it gets its name; a checkpoint that
does not agree with them is never loaded.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rft_jax.learn.optimizer import TrainState
from rft_jax.logging.metrics import log
from rft_jax.models import Params
from rft_jax.parallel import is_first, raise_on_all_hosts
from rft_jax.utils.errors import InputError

NEWEST, BEST = 2, 3  # checkpoints kept; OpenAI keeps the three of highest validation reward
METRIC = "valid_reward_mean"
CHECKSUMS = "checksums.json"
_DAMAGED = "damaged"


class Checkpoints:
    """The checkpoints of one stage in `directory`; a context manager that waits for the last save.

    Opening it sets damaged checkpoints that are newer than the newest whole one aside. On several
    hosts all call everything; the folder is one that they share.
    """

    def __init__(self, directory: Path):
        self._directory = directory.resolve()
        self._directory.mkdir(parents=True, exist_ok=True)
        with raise_on_all_hosts():
            if is_first():
                _set_damaged_aside(self._directory)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_metric,
                preservation_policy=_NewestAndBest(),
                cleanup_tmp_directories=True,
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=self._write_checksums
                ),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.wait()
        self._manager.close()

    def latest(self) -> int | None:
        """The newest checkpoint's step."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits until the last save is done; if it failed, that is told."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever a full disk or a lost mount raises, in any layer
            self._not_written(error)

    def save(self, step: int, state: TrainState, valid_reward: float | None) -> None:
        """Copies the state, which the next step may donate, and writes it in the background.

        What fails is told and leaves the checkpoints before as they are.
        """
        if step == self.latest():
            return
        self.wait()  # or the failure of the save before would be taken for this one's
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    rest=ocp.args.StandardSave(_rest(state)),
                ),
                metrics=None if valid_reward is None else {METRIC: valid_reward},
            )
        except Exception as error:  # as above
            self._not_written(error)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state but for its frozen weights.

        Args:
            like: Shapes, types and shardings (`jax.ShapeDtypeStruct`).
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                rest=ocp.args.StandardRestore(_rest(like)),
            ),
        )
        return TrainState(**restored["rest"])._replace(params=restored["params"])

    def _write_checksums(self) -> None:
        """Called by Orbax when all is written and the folder does not have its name yet."""
        if is_first():
            for folder in _unfinished(self._directory):
                (folder / CHECKSUMS).write_text(json.dumps(_checksums(folder)))

    def _not_written(self, error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log(f"warning: a checkpoint could not be written ({reason}); the newest is {self.latest()}")
        if is_first():
            for folder in _unfinished(self._directory):
                shutil.rmtree(folder, ignore_errors=True)


class _NewestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the newest checkpoints and those of the highest validation reward."""

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        del context
        validated = [c for c in checkpoints if c.metrics]
        best = sorted(validated, key=lambda c: (_metric(c.metrics), c.step))[-BEST:]
        kept = {c.step for c in (*checkpoints[-NEWEST:], *best)}
        return [c.step in kept for c in checkpoints]


def load_params(directory: Path, step: int, like: Params) -> Params:
    """The weights alone of the checkpoint `directory/step`; collective.

    Args:
        like: Shapes, types and shardings, from `abstract`.

    Raises:
        InputError: if there is no such checkpoint, or it is damaged.
    """
    folder = directory / str(step)
    with raise_on_all_hosts():
        if is_first() and (problem := _problem(folder, "params/")):
            raise InputError(f"{folder}: {problem}; use another checkpoint of {directory}")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((folder / "params").resolve(), like)


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints below `directory`, ascending; without looking into them."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def best_step(directory: Path) -> int | None:
    """The step of the highest validation reward, of several the last; None without a validation."""
    found = []
    for step in steps(directory):
        metrics = directory / str(step) / "metrics" / "metrics"
        if metrics.is_file():
            found.append((_metric(json.loads(metrics.read_text())), step))
    return max(found)[1] if found else None


def abstract(shape: Any, sharding: Any) -> Any:
    """`jax.ShapeDtypeStruct`s of a tree with the given shardings, to restore into."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shape,
        sharding,
    )


def _rest(state: TrainState) -> dict[str, Any]:
    return state._replace(params={}, frozen={})._asdict()


def _metric(metrics: dict[str, float]) -> float:
    return metrics[METRIC]


def _unfinished(directory: Path) -> list[Path]:
    return list(directory.glob("*.orbax-checkpoint-tmp*"))


def _set_damaged_aside(directory: Path) -> None:
    """Renames damaged checkpoints, from the newest on until one is whole."""
    for step in reversed(steps(directory)):
        folder = directory / str(step)
        problem = _problem(folder)
        if problem is None:
            return
        log(f"warning: {folder}: {problem}; going back to the checkpoint before")
        target = directory / f"{_DAMAGED}_{step}"
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)


def _problem(folder: Path, part: str = "") -> str | None:
    """What is wrong with a checkpoint, or a part of it, for people."""
    if not folder.is_dir():
        return "there is no such checkpoint"
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
    except (OSError, ValueError):
        return "it has no checksums"
    found = _checksums(folder, part)
    for name, checksum in expected.items():
        if name.startswith(part) and found.get(name) != checksum:
            return f"its file {name} is {'damaged' if name in found else 'missing'}"
    return None


def _checksums(folder: Path, part: str = "") -> dict[str, str]:
    """The BLAKE2 sum of every file of the items, or one of them, by its path.

    Files of the folder itself are left out: what Orbax writes there last are times and the like.
    """
    sums = {}
    for path in sorted(folder.glob(f"{part or '*/'}**/*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            sums[str(path.relative_to(folder))] = digest.hexdigest()
    return sums
