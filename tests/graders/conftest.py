"""Holding what a grader type finds on the device against what it finds on the host."""

import copy

import jax
import numpy as np
import pytest

from rft_jax.graders import Sample, load_grader
from rft_jax.graders.types import NOT_THE_MODELS, HostSample, HostView, Items, SampleView
from rft_jax.strings import from_host


class Parity:
    """A grader compiled once, for batches of `rows` texts of `width` bytes."""

    def __init__(self, spec, items=({},), width=256, rows=64):
        self.width, self.rows = width, rows
        self.grader = load_grader(spec)
        self.items = Items(items, "items.jsonl")
        self.encoded = self.grader.encode(self.items)
        score = self.grader.score
        self._score = jax.jit(lambda sample, row: score(SampleView(sample), row))

    def like(self, spec, items):
        """For another specification and other items, without compiling anew.

        Only for specifications that differ in nothing but what goes into the encoded items.
        """
        other = copy.copy(self)
        other.grader = load_grader(spec)
        other.items = Items(items, "items.jsonl")
        other.encoded = other.grader.encode(other.items)
        return other

    def on_device(self, samples, numbers):
        """The Score of at most `rows` samples, each with the number of its item."""
        padding = self.rows - len(samples)
        samples = [*samples, *[HostSample("")] * padding]
        numbers = np.array([*numbers, *[0] * padding])
        no = np.zeros(self.rows, bool)
        sample = Sample(
            output_text=from_host([sample.output_text for sample in samples], self.width),
            has_answer=~no,
            truncated=no,
            overflow=no,
            completion_tokens=np.array([s.completion_tokens for s in samples], np.int32),
        )
        row = jax.tree.map(lambda leaf: np.asarray(leaf)[numbers], self.encoded)
        return jax.device_get(self._score(sample, row))

    def differences(self, pairs):
        """The pairs (sample or text, item number) that are graded otherwise on the host."""
        pairs = [(HostSample(s) if isinstance(s, str) else s, number) for s, number in pairs]
        pairs = [p for p in pairs if len(p[0].output_text.encode()) <= self.width]
        assert pairs
        found = []
        for first in range(0, len(pairs), self.rows):
            batch = pairs[first : first + self.rows]
            score = self.on_device(*zip(*batch, strict=True))
            if not self.grader.asks_host:
                assert score.errors.keys() == set(self.grader.errors)
            for n, (sample, number) in enumerate(batch):
                host = self.grader.score_on_host(HostView(sample), self.items, number)
                errors = {name for name, flags in score.errors.items() if flags[n]}
                details = {name: float(detail[n]) for name, detail in score.details.items()}
                same = errors == host.errors and details == dict(host.details)
                same &= (
                    bool(errors & set(NOT_THE_MODELS)) or abs(score.score[n] - host.score) < 1e-5
                )
                if not same:
                    device = float(score.score[n]), errors, details
                    found.append((sample.output_text, self.items.rows[number], device, host))
        return found

    def scores(self, *texts, item=0):
        """What texts earn, on the device and on the host alike."""
        assert self.differences([(text, item) for text in texts]) == []
        samples = [HostSample(text) for text in texts]
        return self.on_device(samples, [item] * len(texts)).score[: len(texts)].tolist()


@pytest.fixture(scope="session")
def parity():
    """The class `Parity`."""
    return Parity
