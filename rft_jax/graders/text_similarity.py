"""`text_similarity`: how alike two texts are, from 0 to 1.

    {"type": "text_similarity", "name": "likeness", "input": "{{sample.output_text}}",
     "reference": "{{item.answer}}", "evaluation_metric": "rouge_l"}

OpenAI names the metrics and leaves open how they are computed. Here they are what the usual
libraries compute by default, to rounding:

    fuzzy_match          rapidfuzz `fuzz.ratio` / 100, over code points
    bleu                 nltk `sentence_bleu`: n-grams up to 4, equal weights, smoothing method 1
    gleu                 nltk `sentence_gleu`: n-grams of 1 to 4 words
    meteor               nltk `meteor_score`; it needs WordNet and runs on the host only
    rouge_1 ... rouge_5  rouge-score, F-measure of n-grams
    rouge_l              rouge-score, F-measure of the longest common subsequence

The input is the hypothesis. Words are what `str.split` gives; for the metrics of ROUGE what
rouge-score gives without stemming, runs of a to z and 0 to 9 in lower case. Nothing else is
normalized. BLEU of fewer than four words counts the missing n-grams as one that is not found. Two
empty texts are alike in `fuzzy_match`, 1; wherever else a text has no words, the score is 0.
`cosine`, for which OpenAI asks a model for embeddings, is not one of its metrics in training.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rft_jax.graders.meteor import Meteor
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import (
    ByteString,
    Words,
    decode,
    indel_similarity,
    lcs_words,
    ngram_matches,
    split_alphanumeric,
    split_words,
)
from rft_jax.utils.errors import InputError

SMOOTHING = 0.1  # matches that BLEU is given in place of none: epsilon of smoothing method 1
LONGEST = 4  # n-grams of BLEU and GLEU


def fuzzy_match(text: ByteString, reference: ByteString) -> jax.Array:
    """float32[N]: twice the longest common subsequence by the length of both."""
    return indel_similarity(decode(text), decode(reference))


def bleu(text: ByteString, reference: ByteString) -> jax.Array:
    """float32[N]: BLEU of one sentence (Papineni et al., ACL 2002).

    Smoothing: Chen and Cherry, "A systematic comparison of smoothing techniques for sentence-level
    BLEU", 2014, method 1.
    """
    hypothesis, target = split_words(text), split_words(reference)
    matches = ngram_matches(hypothesis, target, 1, LONGEST).astype(jnp.float32)
    counts = jnp.maximum(_ngrams_in(hypothesis, 1, LONGEST), 1)
    precision = jnp.where(matches == 0, SMOOTHING, matches) / counts
    length_ratio = target.count / jnp.maximum(hypothesis.count, 1)
    log_brevity = jnp.minimum(1 - length_ratio, 0)
    return jnp.where(
        matches[..., 0] == 0, 0, jnp.exp(log_brevity + jnp.log(precision).mean(axis=-1))
    )


def gleu(text: ByteString, reference: ByteString) -> jax.Array:
    """float32[N]: the lower of precision and recall (Wu et al., arXiv 1609.08144, section 4.3)."""
    hypothesis, target = split_words(text), split_words(reference)
    matches = ngram_matches(hypothesis, target, 1, LONGEST).sum(axis=-1)
    counts = [_ngrams_in(words, 1, LONGEST).sum(axis=-1) for words in (hypothesis, target)]
    return matches / jnp.maximum(jnp.maximum(*counts), 1).astype(jnp.float32)


def rouge_n(text: ByteString, reference: ByteString, n: int) -> jax.Array:
    """float32[N]: F-measure of n-grams (Lin, "ROUGE", 2004)."""
    hypothesis, target = split_alphanumeric(text), split_alphanumeric(reference)
    matches = ngram_matches(hypothesis, target, n, n)[..., 0]
    counts = _ngrams_in(hypothesis, n, n) + _ngrams_in(target, n, n)
    return 2 * matches / jnp.maximum(counts[..., 0], 1).astype(jnp.float32)


def rouge_l(text: ByteString, reference: ByteString) -> jax.Array:
    """float32[N]: F-measure of the longest common subsequence (Lin, "ROUGE", 2004)."""
    hypothesis, target = split_alphanumeric(text), split_alphanumeric(reference)
    counts = hypothesis.count + target.count
    return 2 * lcs_words(hypothesis, target) / jnp.maximum(counts, 1).astype(jnp.float32)


def _ngrams_in(words: Words, shortest: int, longest: int) -> jax.Array:
    """int32[N, longest - shortest + 1]: how many n-grams a text has of every n."""
    n = jnp.arange(shortest, longest + 1, dtype=jnp.int32)
    return jnp.maximum(words.count[..., None] - n + 1, 0)


def _fuzzy_match_on_host(text: str, reference: str) -> float:
    from rapidfuzz import fuzz

    return fuzz.ratio(text, reference) / 100


def _bleu_on_host(text: str, reference: str) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothing = SmoothingFunction(epsilon=SMOOTHING).method1
    return sentence_bleu([reference.split()], text.split(), smoothing_function=smoothing)


def _gleu_on_host(text: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    return sentence_gleu([reference.split()], text.split(), max_len=LONGEST)


def _rouge_on_host(text: str, reference: str, kind: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind]).score(reference, text)[kind].fmeasure


_N = range(1, 6)
METRICS: dict[str, Callable[[ByteString, ByteString], jax.Array]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    **{f"rouge_{n}": functools.partial(rouge_n, n=n) for n in _N},
    "rouge_l": rouge_l,
}
ON_HOST: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": _fuzzy_match_on_host,
    "bleu": _bleu_on_host,
    "gleu": _gleu_on_host,
    **{f"rouge_{n}": functools.partial(_rouge_on_host, kind=f"rouge{n}") for n in _N},
    "rouge_l": functools.partial(_rouge_on_host, kind="rougeL"),
}


@dataclass(frozen=True)
class TextSimilarity:
    """A validated `text_similarity`."""

    name: str
    input: Template
    reference: Template
    evaluation_metric: str

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "TextSimilarity | Meteor":
        """See `GraderType.parse`."""
        fields.only("input", "reference", "evaluation_metric")
        templates = fields.template("input"), fields.template("reference")
        metric = fields.choice("evaluation_metric", (*METRICS, "meteor"))
        if metric == "meteor":
            return Meteor.parse(name, fields)
        return cls(name, *templates, metric)

    def encode(self, items: Items) -> Any:
        """See `GraderType.encode`."""
        return self.input.encode(items), self.reference.encode(items)

    def score(self, view: SampleView, encoded: Any) -> Score:
        """See `GraderType.score`."""
        (text, reference), errors, failed_N = render_on_device(
            view, (self.input, self.reference), encoded
        )
        score_N = METRICS[self.evaluation_metric](text, reference)
        return Score(jnp.where(failed_N, 0, score_N).astype(jnp.float32), errors, {}, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with rapidfuzz, nltk or rouge-score."""
        texts, errors = render_on_host(view, (self.input, self.reference), items, n)
        if errors:
            return HostScore(0.0, errors)
        try:
            return HostScore(float(ON_HOST[self.evaluation_metric](*texts)))
        except ImportError as error:
            package = (error.name or "").partition(".")[0].replace("_", "-")
            raise InputError(
                f"{self.name}: {self.evaluation_metric} on the host needs a library; "
                f"pip install {package}"
            ) from None
