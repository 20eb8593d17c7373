r"""`choice`: 1 if the option that a text chooses is the reference's, else 0.

    {"type": "choice", "name": "answer", "input": "{{sample.output_text}}",
     "choices": ["A", "B", "C", "D"], "reference": "{{item.answer}}", "ignore_case": false}

A label counts where it stands alone, not as a part of a word (`\b` of Python's `re`); brackets and
other punctuation may surround it. One after "not", "nor", "neither", "never", "cannot", "n't" or
"than" in the same clause never counts, nor one before "is wrong", "is not" and the like. The choice
is the last label of the highest rank:

1. a marked one: it follows the word "answer" (not that of a closing tag) or `\boxed{` with nothing
   but words such as "is", "option", "I think" in between and no end of a sentence; or it stands
   alone on its line, or at the very start of the text, unless as the first of a list ("A or B");
2. any other;
3. an "A" or "I" that reads as an article or pronoun ("A reader", "I pass").

So "The answer is **(B)**. A good one!" chooses B, "Not A. B" chooses B, "B\n\nA reader would say
so" chooses B, "answer: not B" nothing. With `ignore_case` labels are compared after simple case
folding. A reference has to be one of the labels.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders.protocols import DeviceNode, ProbeTarget
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_device, render_on_host
from rft_jax.graders.types import ANSWER, HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import ByteString, decode, fold_text
from rft_jax.strings.byte_string import last_where, next_where, shift_left, shift_right
from rft_jax.strings.literals import literal_starts
from rft_jax.strings.unicode import fold_points, is_space, is_word
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import PyTree

MOST_CHARACTERS = 1000  # of all labels
# Words by what they do to a label that follows, or, from "lists" on, that stands before.
_WORDS = {
    "marks": "answer boxed fbox",
    "negates": "not nor neither never cannot than",
    "fills": "is are was be would should must will could can option choice letter label class "
    "category the my our final correct right best i think believe guess say so thus therefore "
    "hence likely most probably clearly definitely indeed then to for this that question problem "
    "given it s here text textbf textit mathrm mathbf mathsf strong em",
    "lists": "or and",
    "denies": "wrong incorrect false invalid isn aren wasn",
    "denies_later": "not",
    "no_article": "is was are were because since as and or but if when would has have does can "
    "could must should fits follows gives states says seems looks with at for from in on to",
}
_BY_KIND = {kind: tuple(words.split()) for kind, words in _WORDS.items()}
_ALL_WORDS = tuple(dict.fromkeys(word for words in _BY_KIND.values() for word in words))
_ENDS_CLAUSE = ".!?;:\n\r"
_MARKED, _PLAIN, _ARTICLE = 3, 2, 1


@dataclass(frozen=True)
class Choice(DeviceNode):
    """A validated `choice`."""

    type_name = "choice"
    name: str
    input: Template
    reference: Template
    choices: tuple[str, ...]
    ignore_case: bool

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Choice":
        """See `GraderType.parse`."""
        fields.only("input", "choices", "reference", "ignore_case")
        reference = fields.template("reference")
        if reference.sample_variables:
            raise fields.error("reference", "must not use the sample; take it from the item")
        ignore_case = fields.values.get("ignore_case", False)
        if not isinstance(ignore_case, bool):
            raise fields.error("ignore_case", f"must be true or false, not {ignore_case!r}")
        return cls(
            name=name,
            input=fields.template("input"),
            reference=reference,
            choices=_labels(fields, ignore_case),
            ignore_case=ignore_case,
        )

    @property
    def _folded(self) -> tuple[str, ...]:
        return tuple(map(self._fold, self.choices))

    def _fold(self, text: str) -> str:
        return fold_text(text) if self.ignore_case else text

    @property
    def probe_target(self) -> ProbeTarget:
        """See `Node.probe_target`."""
        return ProbeTarget.of_sides(self.input, self.reference)

    def encode(self, items: Items) -> PyTree:
        """See `GraderType.encode`."""
        references = [self._reference(items, n) for n in range(len(items.rows))]
        return self.input.encode(items), np.array(references, np.int32)

    def _reference(self, items: Items, n: int) -> int:
        """The number of the label that is right."""
        reference = self.reference.item_text(items, n)
        if self._fold(reference) not in self._folded:
            raise InputError(
                f"{items.source}, line {n + 1}: {self.reference.where} needs one of the choices "
                f"{', '.join(self.choices)}, not {reference!r}; correct the item"
            )
        return self._folded.index(self._fold(reference))

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        own, reference_N = encoded
        (text,), errors, failed_N = render_on_device(view, (self.input,), (own,))
        answer_N = jnp.where(failed_N, -1, choose(text, self._folded, self.ignore_case))
        details = {
            f"{self.name}/no_choice": (answer_N < 0).astype(jnp.float32),
            f"{self.name}{ANSWER}": answer_N.astype(jnp.float32),
        }
        return Score((answer_N == reference_N).astype(jnp.float32), errors, details, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; with `re`."""
        texts, errors = render_on_host(view, (self.input,), items, n)
        answer = choose_on_host(texts[0], self._folded, self.ignore_case) if texts else -1
        details = {f"{self.name}/no_choice": float(answer < 0), f"{self.name}{ANSWER}": answer}
        return HostScore(float(answer == self._reference(items, n)), errors, details)


class _Words(NamedTuple):
    """What is known of the words of N texts: bool[N, L] at the first character of each.

    Attributes:
        first: A word starts.
        marks: It says that the answer follows.
        negates: What follows is not the answer.
        weighs: It is no filler.
        lists: "or", "and".
        denies: What stands before is not the answer.
        denies_later: The same, with a filler in between.
        no_article: An "A" before it is no article.
    """

    first: jax.Array
    marks: jax.Array
    negates: jax.Array
    weighs: jax.Array
    lists: jax.Array
    denies: jax.Array
    denies_later: jax.Array
    no_article: jax.Array


def choose(text: ByteString, labels: tuple[str, ...], ignore_case: bool) -> jax.Array:
    """int32[N]: the number of the label that each text chooses, -1 for none.

    Args:
        text: ByteString of [N, L].
        labels: Folded if case is ignored.
        ignore_case: Compare the folded text.
    """
    points, length = map(jnp.asarray, decode(text))
    folded = fold_points(points)
    inside = jnp.arange(points.shape[-1]) < length[:, None]
    word = is_word(folded) & inside
    label, end = _find_labels(folded if ignore_case else points, word, labels)
    words = _read_words(folded, word, label >= 0)
    index = jnp.arange(points.shape[-1], dtype=jnp.int32)

    clause_end = inside & _is_any(points, _ENDS_CLAUSE)
    sentence_end = inside & (
        (points == ord("!")) | ((points == ord(".")) & is_space(shift_left(points, 1)))
    )
    governor = _before(last_where(words.weighs))
    negated = _at(words.negates, governor) & (_before(last_where(clause_end)) < governor)
    marked = _at(words.marks, governor) & (_before(last_where(sentence_end)) < governor)

    word_before, word_after = _before(last_where(word)), _after(word, end)
    verdict = _after(words.weighs, end)
    denied = _at(words.denies, verdict)
    denied |= _at(words.denies_later, verdict) & (verdict > word_after)
    denied &= _after(inside & ~word & ~is_space(points), end) > verdict

    newline = inside & ((points == ord("\n")) | (points == ord("\r")))
    is_word_label = _at(word, index) & _at(word, end - 1)
    alone = (word_before < 0) | (word_before < _before(last_where(newline)))
    nothing_after = word_after >= length[:, None]
    alone &= nothing_after | (word_after > _after(newline, end))
    lists = _at(words.lists, word_after) | _at(label >= 0, word_after)
    lists &= ~nothing_after & (_after(clause_end, end) > word_after)
    marked |= is_word_label & (alone | ((word_before < 0) & ~lists))

    letter = (end - index == 1) & (folded == ord("a"))
    pronoun = (end - index == 1) & (folded == ord("i"))
    solid_after = _after(inside & ~is_space(points), end)
    small = (_at(points, word_after) >= ord("a")) & (_at(points, word_after) <= ord("z"))
    reads_on = ~nothing_after & (solid_after == word_after) & (word_after > end) & small
    article = reads_on & (pronoun | (letter & ~_at(words.no_article, word_after)))

    rank = jnp.where(marked, _MARKED, _PLAIN)
    rank = jnp.where(article, _ARTICLE, rank)
    rank = jnp.where((label < 0) | negated | denied, 0, rank)
    best = jnp.argmax(rank * len(index) + index, axis=-1)[:, None]
    chosen = jnp.take_along_axis(jnp.where(rank > 0, label, -1), best, axis=-1)
    return chosen[:, 0]


def _find_labels(
    points: jax.Array, word: jax.Array, labels: tuple[str, ...]
) -> tuple[jax.Array, jax.Array]:
    """int32[N, L]: the number of the longest label that starts at a character, -1 for none; and its
    end there."""
    starts = literal_starts(points, [[*map(ord, label)] for label in labels])
    found = jnp.full(points.shape, -1, jnp.int32)
    index = jnp.arange(points.shape[-1], dtype=jnp.int32)
    end = jnp.broadcast_to(index, points.shape)
    for number in sorted(range(len(labels)), key=lambda k: len(labels[k])):
        label = labels[number]
        here = starts.of(number)
        if re.match(r"\w", label):
            here &= ~shift_right(word, 1)
        if re.search(r"\w\Z", label):
            here &= ~shift_left(word, len(label))
        found = jnp.where(here, number, found)
        end = jnp.where(here, index + len(label), end)
    return found, end


def _read_words(folded: jax.Array, word: jax.Array, is_label: jax.Array) -> _Words:
    spelled = [[*map(ord, text), 0] for text in (*_ALL_WORDS, "t")]
    ended = jnp.pad(jnp.where(word, folded, 0), ((0, 0), (0, 1)))
    starts = literal_starts(ended, spelled).until(word.shape[-1])
    first = word & ~shift_right(word, 1)

    def is_a(kind: str) -> jax.Array:
        return first & ~is_label & starts.any_of(map(_ALL_WORDS.index, _BY_KIND[kind]))

    before = shift_right(folded, 1)
    apostrophe = (before == ord("'")) | (before == ord("\u2019"))
    contracted = starts.of(len(_ALL_WORDS)) & apostrophe & (shift_right(folded, 2) == ord("n"))
    return _Words(
        first=first,
        marks=is_a("marks") & (before != ord("/")),
        negates=is_a("negates") | (first & ~is_label & contracted),
        weighs=first & ~is_a("fills"),
        lists=is_a("lists"),
        denies=is_a("denies"),
        denies_later=is_a("denies_later"),
        no_article=is_a("no_article"),
    )


def _before(x: jax.Array) -> jax.Array:
    """What `last_where` gave for the character before; -1 at the first."""
    return shift_right(x + 1, 1) - 1


def _after(mask: jax.Array, end: jax.Array) -> jax.Array:
    """The first character from `end` on where a mask holds, at least L without one."""
    width = mask.shape[-1]
    found = jnp.take_along_axis(next_where(mask), jnp.minimum(end, width - 1), axis=-1)
    return jnp.where(end < width, found, width)


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    """x at an index of its row; zero or false outside."""
    index = jnp.broadcast_to(index, x.shape)
    taken = jnp.take_along_axis(x, jnp.maximum(index, 0), axis=-1, mode="clip")
    return jnp.where((index >= 0) & (index < x.shape[-1]), taken, jnp.zeros_like(taken))


def _is_any(points: jax.Array, options: str) -> jax.Array:
    found = jnp.zeros(points.shape, bool)
    for option in options:
        found |= points == ord(option)
    return found


def choose_on_host(text: str, labels: tuple[str, ...], ignore_case: bool) -> int:
    """The same choice, of one text."""
    folded = fold_text(text)
    searched = folded if ignore_case else text
    found: dict[int, int] = {}
    for number in sorted(range(len(labels)), key=lambda k: len(labels[k])):
        for match in re.finditer(f"(?={re.escape(labels[number])})", searched):
            if _stands_alone(labels[number], folded, match.start()):
                found[match.start()] = number
    ranked = [
        (_rank(text, folded, start, labels[number], found), start)
        for start, number in found.items()
    ]
    rank, start = max(ranked, default=(0, 0))
    return found[start] if rank else -1


def _rank(text: str, folded: str, start: int, label: str, found: dict[int, int]) -> int:
    """The rank of a label that starts at a character; 0 if it does not count."""
    end = start + len(label)
    governor = _governor(folded, start, found)
    marked = False
    if governor:
        word, between = folded[governor[0] : governor[1]], text[governor[1] : start]
        contracted = word == "t" and folded[max(0, governor[0] - 2) : governor[0]] in ("n'", "n’")
        if word in _BY_KIND["negates"] or contracted:
            if not re.search(f"[{_ENDS_CLAUSE}]", between):
                return 0
        closing = text[governor[0] - 1 : governor[0]] == "/"
        marked = word in _BY_KIND["marks"] and not closing
        marked &= not _ends_sentence(text, governor[1], start)
    if _is_denied(folded, end, found):
        return 0
    line_before = re.split(r"[\n\r]", folded[:start])[-1]
    rest = folded[end:]
    following = re.search(r"\w+", rest)
    if re.match(r"\w", label) and re.search(r"\w\Z", label):
        alone = not re.search(r"\w", line_before + re.split(r"[\n\r]", rest)[0])
        marked |= alone or (not re.search(r"\w", folded[:start]) and not _lists(folded, end, found))
    if following and label in ("a", "A", "i", "I"):
        solid = end + following.start()
        reads_on = text[end:solid].isspace() and "a" <= text[solid] <= "z"
        known = word_at(folded, solid, found) in _BY_KIND["no_article"]
        if reads_on and (label in "iI" or not known):
            return _ARTICLE
    return _MARKED if marked else _PLAIN


def _is_denied(folded: str, end: int, found: dict[int, int]) -> bool:
    """Whether what follows, without punctuation in between, says that a label is wrong."""
    start, number = end, 0
    while match := re.compile(r"\s*(\w+)").match(folded, start):
        word = word_at(folded, match.start(1), found)
        if word not in _BY_KIND["fills"]:
            late = number > 0 and word in _BY_KIND["denies_later"]
            return word in _BY_KIND["denies"] or late
        start, number = match.end(), number + 1
    return False


def _governor(folded: str, start: int, found: dict[int, int]) -> tuple[int, int] | None:
    """The last word before a character that is no filler; a label has a weight of its own."""
    for match in reversed([*re.finditer(r"\w+", folded[:start])]):
        if match.start() in found:
            return match.start(), match.start()
        if match[0] not in _BY_KIND["fills"]:
            return match.span()
    return None


def _ends_sentence(text: str, begin: int, end: int) -> bool:
    return any(
        text[k] == "!" or (text[k] == "." and text[k + 1 : k + 2].isspace())
        for k in range(begin, end)
    )


def _lists(folded: str, end: int, found: dict[int, int]) -> bool:
    """Whether a label or "or" follows in the same clause."""
    following = re.search(r"\w+", folded[end:])
    if not following or re.search(f"[{_ENDS_CLAUSE}]", folded[end : end + following.start()]):
        return False
    solid = end + following.start()
    return solid in found or word_at(folded, solid, found) in _BY_KIND["lists"]


def word_at(folded: str, start: int, found: dict[int, int]) -> str:
    """The word at a character; empty for a label."""
    match = re.compile(r"\w+").match(folded, start)
    return match[0] if match and start not in found else ""


def _stands_alone(label: str, folded: str, start: int) -> bool:
    """Whether a label is not a part of a word."""
    before, after = folded[start - 1 : start] if start else "", folded[start + len(label) :][:1]
    joined = re.match(r"\w", label) and re.match(r"\w", before)
    return not joined and not (re.search(r"\w\Z", label) and re.match(r"\w", after))


def _labels(fields: Fields, ignore_case: bool) -> tuple[str, ...]:
    labels = fields.values.get("choices")
    if not isinstance(labels, list | tuple) or len(labels) < 2:
        raise fields.error("choices", 'must be a list of two labels or more, such as ["A", "B"]')
    known = set()
    for k, label in enumerate(labels):
        if not isinstance(label, str) or not label or label != label.strip():
            raise fields.error(
                f"choices[{k}]", f"must be a text without white space around it, not {label!r}"
            )
        fields.unicode(f"choices[{k}]", label)
        folded = fold_text(label) if ignore_case else label
        if folded in known:
            raise fields.error(f"choices[{k}]", f"{label!r} stands there twice; remove one")
        known.add(folded)
    if sum(map(len, labels)) > MOST_CHARACTERS:
        raise fields.error("choices", f"longer than {MOST_CHARACTERS} characters; shorten them")
    return tuple(labels)
