"""TensorBoard event files of scalars, without TensorBoard.

An event file is a sequence of TFRecords (length, checksum, data, checksum), each an `Event`
protocol buffer; of that message only the few fields that scalars need are encoded here. Formats:
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details and tensorboard's
`event.proto` and `summary.proto`.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, bits reversed


class EventFile:
    """A new event file in `directory`; each write is flushed.

    Opening it at a step makes TensorBoard forget what older files in the directory hold from later
    steps, which a killed run had written after its last checkpoint and is about to write again.
    """

    def __init__(self, directory: Path, step: int):
        directory.mkdir(parents=True, exist_ok=True)
        # Unique, and sorted by time, as TensorBoard's loader expects.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (directory / name).open("wb")
        self._write(0, _bytes(3, b"brain.Event:2"))
        self._write(step + 1, _bytes(7, _integer(1, 1)))  # SessionLog START

    def close(self) -> None:
        self._file.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of a step, stored as float32."""
        values = [
            _bytes(1, _bytes(1, tag.encode()) + _number(2, "<f", value))
            for tag, value in scalars.items()
        ]
        self._write(step, _bytes(5, b"".join(values)))

    def _write(self, step: int, what: bytes) -> None:
        event = _number(1, "<d", time.time()) + _integer(2, step) + what
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3 | 0) + _varint(value)


def _number(field: int, kind: str, value: float) -> bytes:
    wire_type = {"<d": 1, "<f": 5}[kind]
    return _varint(field << 3 | wire_type) + struct.pack(kind, value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _crc_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()


def _checksum(data: bytes) -> bytes:
    """TFRecord's masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
