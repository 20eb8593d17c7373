"""A stage's metrics as a TensorBoard event file, written by tensorboardX."""

import time
from pathlib import Path

from tensorboardX import SummaryWriter

from rft_jax.logging.metrics import scalars
from rft_jax.utils.types import JsonObject


class TensorBoardFile:
    """A stage's TensorBoard event file; `tensorboard --logdir WORKDIR` finds it.

    Opening it at a step makes TensorBoard forget what older files in the directory hold from later
    steps, which a killed run had written after its last checkpoint and is about to write again.
    """

    def __init__(self, directory: Path, step: int):
        # tensorboardX names a file by the second: two starts in one would share it.
        suffix = f".{time.time_ns()}"
        self._file = SummaryWriter(str(directory), purge_step=step + 1, filename_suffix=suffix)

    def write(self, row: JsonObject) -> None:
        """Appends a row's scalars; non-finite ones are left out."""
        for name, value in scalars(row).items():
            self._file.add_scalar(name, value, row["step"])
        self._file.flush()

    def close(self) -> None:
        self._file.close()
