"""A stage's checkpoints, written asynchronously by Orbax."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from rft_jax.learn.optimizer import TrainState
from rft_jax.models import Params

KEEP = 2


class Checkpoints:
    """The checkpoints of one stage in `directory`; a context manager that waits for the last save.

    A checkpoint is two items, so that others may read the weights alone: `params`, and `rest` with
    optimiser, counters and frozen weights.
    """

    def __init__(self, directory: Path):
        self._manager = ocp.CheckpointManager(
            directory.resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=KEEP)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Copies the state, which the next step may donate, and writes it in the background."""
        if step == self.latest():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                rest=ocp.args.StandardSave(state._replace(params={})._asdict()),
            ),
        )

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The whole state; `like` gives shapes, types and shardings (`jax.ShapeDtypeStruct`)."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                rest=ocp.args.StandardRestore(like._replace(params={})._asdict()),
            ),
        )
        return TrainState(**restored["rest"])._replace(params=restored["params"])

    def restore_params(self, step: int, like: Params) -> Params:
        """The weights alone."""
        args = ocp.args.Composite(params=ocp.args.StandardRestore(like))
        return self._manager.restore(step, args=args)["params"]


def latest_step(directory: Path) -> int | None:
    """The newest complete checkpoint below `directory`, without opening it for writing."""
    return max(ocp.utils.checkpoint_steps(directory), default=None) if directory.is_dir() else None


def abstract(shape, sharding):
    """`jax.ShapeDtypeStruct`s of a tree with the given shardings, to restore into."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shape,
        sharding,
    )
