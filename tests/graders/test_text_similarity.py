"""`text_similarity` is what rapidfuzz, nltk and rouge-score compute, and says what it lacks."""

import random
import sys
import types

import jax
import pytest

from rft_jax.graders import build_grader, explain, grade_texts, load_grader
from rft_jax.graders.text_similarity import METRICS
from rft_jax.graders.types import HostSample, HostView, Items
from rft_jax.strings import from_host
from rft_jax.utils.errors import InputError

WIDTH, ROWS = 192, 512
jit_metrics = jax.jit(lambda text, reference: {m: f(text, reference) for m, f in METRICS.items()})


def spec(metric, **fields):
    return {
        "type": "text_similarity",
        "name": "likeness",
        "input": "{{sample.output_text}}",
        "reference": "{{item.r}}",
        "evaluation_metric": metric,
        **fields,
    }


LONG = "It is a guide to action which ensures that the military always obeys the commands"
OTHER = "It is a guide to action that ensures that the military will forever heed Party commands"


@pytest.mark.parametrize(
    "text, reference, expected",
    [
        ("", "", {"fuzzy_match": 1, "bleu": 0, "gleu": 0, "rouge_1": 0, "rouge_l": 0}),
        ("", "a", {"fuzzy_match": 0, "bleu": 0, "gleu": 0, "rouge_1": 0, "rouge_l": 0}),
        ("a", "", {"fuzzy_match": 0, "bleu": 0, "gleu": 0, "rouge_1": 0, "rouge_l": 0}),
        (" \n", "...", {"fuzzy_match": 0, "bleu": 0, "gleu": 0, "rouge_1": 0, "rouge_l": 0}),
        (
            "the cat sat",
            "the cat sat",
            {"fuzzy_match": 1, "gleu": 1, "rouge_3": 1, "rouge_4": 0, "bleu": 0.1**0.25},
        ),
        ("The cat sat.", "the cat sat", {"gleu": 1 / 6, "rouge_3": 1, "fuzzy_match": 20 / 23}),
        (
            "a b c d e f",
            "a b c d e f g h",
            {"bleu": 0.7165313, "gleu": 18 / 26, "rouge_5": 4 / 6, "rouge_l": 12 / 14},
        ),
        (
            "the the the the the the the",
            "the cat is on the mat",
            {"bleu": (2 / 7 * 0.1 / 6 * 0.1 / 5 * 0.1 / 4) ** 0.25, "gleu": 2 / 22},
        ),
        (f"{LONG} of the party", OTHER, {"bleu": 0.411804, "gleu": 29 / 66, "rouge_l": 22 / 34}),
        ("e\u0301😀 x-ray", "é😀 x ray", {"rouge_2": 2 * 1 / 3, "fuzzy_match": 12 / 17}),
    ],
)
def test_metrics_follow_their_definitions(text, reference, expected):
    found = jit_metrics(from_host([text], 128), from_host([reference], 128))
    assert {m: found[m].item() for m in expected} == pytest.approx(expected, abs=1e-5)


def test_fields_of_the_answers_json_can_be_compared(parity):
    input = "{{sample.output_json.a}} {{sample.output_json.b}}"
    both = parity(spec("rouge_1", input=input), [{"r": "x [1] y"}])
    samples = [HostSample(text) for text in ('{"b": [1, "y"], "a": "X"}', '{"a": "x"}', "x")]
    score = both.on_device(samples, [0] * 3)
    assert score.score[:3].tolist() == [1, 0, 0]
    assert score.errors["invalid_variable_error"][:3].tolist() == [False, True, False]
    assert score.errors["sample_parse_error"][:3].tolist() == [False, False, True]


PIECES = [
    *["the", "The", "cat", "cats", "a", "b", "of", "SCN1A", "x-ray", "1.5", "isn't", "variant"],
    *["e\u0301tude", "étude", "Z\u0308", "😀", "👩\u200d🔬", "שלום", "\u202eabc\u202c", "مرحبا"],
    *[
        "日本",
        "\x00",
        "a\x00b",
        "\ufffd",
        "\u0130x",
        "\u212ag",
        "KG",
        "ß",
        "SS",
        ".",
        ",",
        "((",
        "--",
    ],
]
GAPS = [" "] * 12 + ["\r\n", "\n", "  ", "\t", "\u2003", "\x85", "\u3000", "", "\u200b", "\x1c"]


def repaired(text, size, width):
    """An answer cut after some bytes, as the detokenizer shows it, of at most `width` bytes."""
    cut = text.encode()[:size].decode("utf-8", "replace")
    while len(cut.encode()) > width:
        cut = cut[:-1]
    return cut


def generated(rng, count, width=WIDTH):
    """Pairs of texts from unlike to equal, one made of the other by edits of its words."""
    for _ in range(count):
        vocabulary = rng.sample(PIECES, rng.choice([1, 3, 8, len(PIECES)]))
        words = rng.choices(vocabulary, k=rng.randint(0, 30))
        edited = []
        rate = rng.choice([0, 0.05, 0.2, 0.5, 1])
        for word in words:
            if rng.random() >= rate:
                edited.append(word)
            elif rng.random() < 0.7:
                edited += rng.choices(vocabulary, k=rng.randint(1, 2))
        texts = ["".join(w + rng.choice(GAPS) for w in side) for side in (words, edited)]
        sizes = [rng.randint(0, width) if rng.random() < 0.3 else width for _ in texts]
        yield tuple(map(repaired, texts, sizes, (width, width)))


def differences(parity, metric, pairs):
    items = [{"r": reference} for _, reference in pairs]
    both = parity(spec(metric), items, WIDTH, ROWS)
    return both.differences([(text, n) for n, (text, _) in enumerate(pairs)])


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_thousands_of_pairs_score_as_in_the_libraries(parity, metric):
    (
        pytest.importorskip("rapidfuzz"),
        pytest.importorskip("nltk"),
        pytest.importorskip("rouge_score"),
    )
    pairs = list(generated(random.Random(1), 4096))
    assert len({pair for pair in pairs}) > 3800
    found = differences(parity, metric, pairs)
    print(f"{metric}: {len(pairs)} pairs, {len(found)} differ by more than 1e-5")
    assert found == []


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"metric": "cosine"}, "evaluation_metric: unknown evaluation_metric 'cosine'; use one of"),
        ({"metric": "rouge_6"}, "evaluation_metric: unknown evaluation_metric 'rouge_6'"),
        ({"metric": "bleu", "reference": "{{item.r"}, "reference: a '{{' is not closed"),
        ({"metric": "bleu", "smoothing": 1}, "smoothing: unknown field"),
    ],
)
def test_what_is_wrong_with_a_specification_is_said(fields, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(**fields))


def test_a_pass_threshold_has_no_meaning_in_training():
    assert load_grader(spec("bleu", pass_threshold=0.5)) == load_grader(spec("bleu"))


@pytest.mark.parametrize(
    "metric, module, package",
    [
        ("fuzzy_match", "rapidfuzz", "rapidfuzz"),
        ("bleu", "nltk", "nltk"),
        ("gleu", "nltk", "nltk"),
        ("rouge_l", "rouge_score", "rouge-score"),
    ],
)
def test_a_library_that_the_host_lacks_is_named(monkeypatch, metric, module, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"likeness: {metric} .*; pip install {package}$"):
        items = Items([{"r": "a"}], "items.jsonl")
        load_grader(spec(metric)).score_on_host(HostView(HostSample("a")), items, 0)


class WordNet:
    """The real one's face, with the synonyms of one word."""

    def __init__(self, present=True):
        self.present = present

    def ensure_loaded(self):
        if not self.present:
            raise LookupError("Resource wordnet not found.")

    def synsets(self, word):
        names = {"tom": ["tom", "cat"]}.get(word, [])
        lemmas = [types.SimpleNamespace(name=lambda name=name: name) for name in names]
        return [types.SimpleNamespace(lemmas=lambda: lemmas)] if lemmas else []


@pytest.fixture
def nltk_stub(monkeypatch):
    """Puts a module in place of nltk's corpora."""

    def put(wordnet):
        corpus = types.ModuleType("nltk.corpus")
        if wordnet:
            corpus.wordnet = wordnet
        monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
        monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)

    return put


def test_meteor_says_at_validation_what_it_lacks(nltk_stub):
    nltk_stub(None)
    with pytest.raises(InputError, match="^evaluation_metric: meteor .*; pip install nltk$"):
        load_grader(spec("meteor"))
    nltk_stub(WordNet(present=False))
    with pytest.raises(InputError, match="WordNet; run python -m nltk.downloader wordnet$"):
        load_grader(spec("meteor"))


def test_meteor_runs_on_the_host_only(nltk_stub):
    nltk_stub(WordNet())
    meteor = load_grader(spec("meteor"))
    assert [line["runs_on"] for line in explain(build_grader(meteor).spec)] == ["host"]
    with pytest.raises(InputError, match="likeness: .* runs on the host only; use placement auto"):
        build_grader(meteor, "device")
    with pytest.raises(InputError, match="items, line 1: reference needs {{item.r}}"):
        grade_texts(build_grader(meteor), ["a"], [{}])


@pytest.mark.oracle
def test_meteor_is_that_of_nltk(monkeypatch):
    corpus = pytest.importorskip("nltk.corpus")
    monkeypatch.setattr(corpus, "wordnet", WordNet())
    meteor = build_grader(load_grader(spec("meteor")))
    pairs = {
        # Of 3 words 2 match in one chunk; penalty 0.5 * (chunks / matches) ^ 3.
        ("The cat sat", "the cat ran"): 2 / 3 * (1 - 0.5 / 8),
        ("cats sat", "cat sat"): 1 - 0.5 / 8,  # by their stems
        ("a tom", "a cat"): 1 - 0.5 / 8,  # by WordNet
        ("x", "y"): 0,
        ("", "y"): 0,
        ("x", ""): 0,
    }
    texts, references = zip(*pairs, strict=True)
    grade = grade_texts(meteor, texts, [{"r": reference} for reference in references])
    assert grade.reward.tolist() == pytest.approx(list(pairs.values()), abs=1e-6)
