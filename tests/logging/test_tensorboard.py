"""Event files against TensorBoard's own reader."""

import struct

import pytest

from rft_jax.logging.tensorboard import EventFile, _checksum


def write(directory, start, rows):
    file = EventFile(directory, start)
    for step, scalars in rows:
        file.write(step, scalars)
    file.close()


def test_the_checksum_is_tfrecords_masked_crc32c():
    # The Castagnoli check value, 0xE3069283 for "123456789", rotated and shifted.
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(b"123456789") == struct.pack("<I", masked)


def test_a_file_is_a_sequence_of_whole_records(tmp_path):
    write(tmp_path, 0, [(k, {f"name/{i}": i / 7 for i in range(40)}) for k in range(300)])
    (path,) = tmp_path.iterdir()
    data, count = path.read_bytes(), 0
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event, rest = data[12 : 12 + length], data[12 + length :]
        assert data[8:12] == _checksum(data[:8]) and rest[:4] == _checksum(event)
        data, count = rest[4:], count + 1
    assert count == 302


@pytest.mark.oracle
def test_tensorboard_reads_the_scalars_and_forgets_what_a_killed_run_had_written(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(
        tmp_path,
        0,
        [(k, {"train_reward_mean": k / 8, "timing/full_iteration": 1}) for k in range(9)],
    )
    write(tmp_path, 5, [(k, {"train_reward_mean": -1.0}) for k in (6, 1_000_000)])
    read = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert sorted(read.Tags()["scalars"]) == ["timing/full_iteration", "train_reward_mean"]
    found = [(event.step, event.value) for event in read.Scalars("train_reward_mean")]
    assert found == [*((k, k / 8) for k in range(6)), (6, -1.0), (1_000_000, -1.0)]
