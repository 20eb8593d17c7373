"""`repetition`: the share of a text's n-grams that do not repeat an earlier one.

    {"type": "repetition", "name": "fresh", "input": "{{sample.output_text}}", "n": 4}

Words are what `str.split` gives, compared as they are. The score is

    1 - (n-grams of n words that occurred before) / (all n-grams)
        = different n-grams / all n-grams

which is 1 - seq-rep-n of Welleck et al., "Neural text generation with unlikelihood training"
(arXiv 1908.04319), who take n = 4, the default. A text of fewer than n words repeats nothing and
earns 1: this is a penalty, to be one part of a `multi`.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from rft_jax.graders.protocols import DeviceNode, ProbeTarget
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import distinct_ngrams, split_words
from rft_jax.utils.types import PyTree

DEFAULT_N = 4
MOST_WORDS = 16  # in an n-gram; memory and time grow with it


@dataclass(frozen=True)
class Repetition(DeviceNode):
    """A validated `repetition`."""

    type_name = "repetition"
    name: str
    input: Template
    n: int

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Repetition":
        """See `GraderType.parse`."""
        fields.only("input", "n")
        return cls(name, fields.template("input"), fields.integer("n", DEFAULT_N, 1, MOST_WORDS))

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        return ProbeTarget.of_sides(self.input)

    def encode(self, items: Items) -> PyTree:
        """See `GraderType.encode`."""
        return self.input.encode(items)

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        (text,), errors, failed_N = render_on_device(view, (self.input,), (encoded,))
        words = split_words(text)
        all_N = words.count - self.n + 1
        share_N = distinct_ngrams(words, self.n) / jnp.maximum(all_N, 1)
        score_N = jnp.where(failed_N, 0, jnp.where(all_N > 0, share_N, 1))
        return Score(score_N.astype(jnp.float32), errors, {}, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with Python's sets."""
        texts, errors = render_on_host(view, (self.input,), items, n)
        if errors:
            return HostScore(0.0, errors)
        return HostScore(fresh_fraction(texts[0], self.n))


def fresh_fraction(text: str, n: int) -> float:
    """The fraction of a text's n-grams that do not repeat an earlier one; 1 without any."""
    words = text.split()
    ngrams = list(zip(*(words[k:] for k in range(n)), strict=False))
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0
