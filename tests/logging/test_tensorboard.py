"""Event files against TensorBoard's own reader."""

import pytest

from rft_jax.logging.tensorboard import TensorBoardFile


def write(directory, start, rows):
    file = TensorBoardFile(directory, start)
    for row in rows:
        file.write(row)
    file.close()


@pytest.mark.oracle
def test_tensorboard_reads_the_scalars_and_forgets_what_a_killed_run_had_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    timing = {"timing": {"full_iteration": 1}}
    write(tmp_path, 0, [{"step": k, "train_reward_mean": k / 8, **timing} for k in range(9)])
    write(tmp_path, 5, [{"step": k, "train_reward_mean": -1.0} for k in (6, 1_000_000)])
    read = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert sorted(read.Tags()["scalars"]) == ["timing/full_iteration", "train_reward_mean"]
    found = [(event.step, event.value) for event in read.Scalars("train_reward_mean")]
    assert found == [*((k, k / 8) for k in range(6)), (6, -1.0), (1_000_000, -1.0)]
