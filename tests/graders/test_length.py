"""`length` is DAPO's soft overlong punishment, moved to 0..1."""

import pytest

from rft_jax.graders import load_grader
from rft_jax.graders.types import HostSample
from rft_jax.utils.errors import InputError


def spec(**fields):
    return {"type": "length", "name": "length", **fields}


def overlong_punishment(length, longest, cache):
    """The soft overlong punishment of arXiv 2503.14476."""
    if length <= longest - cache:
        return 0
    if length <= longest:
        return ((longest - cache) - length) / cache
    return -1


@pytest.mark.parametrize("max_tokens, buffer", [(16, 4), (20, 20), (7, 1), (16_384, 4096)])
def test_the_score_is_the_punishment_plus_one(parity, max_tokens, buffer):
    both = parity(spec(max_tokens=max_tokens, buffer=buffer))
    edges = {max_tokens - buffer, max_tokens}
    lengths = {0, *(max(0, edge + k) for edge in edges for k in range(-4, 5)), 2**31 - 1}
    samples = [HostSample("", completion_tokens=length) for length in sorted(lengths)]
    assert both.differences([(sample, 0) for sample in samples]) == []
    scores = both.on_device(samples, [0] * len(samples)).score[: len(samples)]
    expected = [1 + overlong_punishment(n, max_tokens, buffer) for n in sorted(lengths)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_without_a_buffer_the_limit_is_hard(parity):
    both = parity(spec(max_tokens=5, buffer=0))
    samples = [HostSample("", completion_tokens=n) for n in (0, 5, 6, 100)]
    assert both.differences([(sample, 0) for sample in samples]) == []
    assert both.on_device(samples, [0] * 4).score[:4].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"buffer": 1}, "max_tokens: is missing"),
        ({"max_tokens": 1}, "buffer: is missing"),
        ({"max_tokens": 0, "buffer": 0}, "max_tokens: must be a whole number from 1"),
        ({"max_tokens": 4, "buffer": 5}, "buffer: must be a whole number from 0 to 4"),
        ({"max_tokens": 4, "buffer": 1.5}, "buffer: must be a whole number"),
        ({"max_tokens": 4, "buffer": 1, "unit": "bytes"}, "unit: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))
