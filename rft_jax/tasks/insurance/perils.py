"""What caused a claim, from the adjuster's note: nine perils of the Wisconsin property fund.

The data are `Data/peril.{training,validation}.csv` of https://github.com/OpenActTexts/LDAVer2
(CC0 1.0): 4,991 and 1,039 real claims with notes such as "lightning damage at town hall". A note
comes in and a ranking of at most three perils comes out; the metric is the accuracy of the first
(https://arxiv.org/abs/2206.02014 has baselines).

    supervised.jsonl   labeled notes with the right peril and two others by chance
    answers.jsonl      all training notes with the right peril alone
    train.jsonl        the training notes, to reinforce on
    valid.jsonl        training notes set aside to validate on
    test.jsonl         the release's 1,039 validation notes
    test.logistic.jsonl   answers to them by a logistic regression on the training notes' words
    symbols.txt        the answer's parts, which a tokenizer trained here keeps whole

The release's two files share notes; what stands in the test file, in whatever case, leaves the
training file.
"""

import json
import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from rft_jax.tasks.insurance.logistic import fit
from rft_jax.tasks.release import ReleaseData, messages, read_csv, worked
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

# The release's names. WaterNW and WaterW are water that weather did not, and did bring.
PERILS = (
    "Vandalism",
    "Fire",
    "Lightning",
    "Wind",
    "Hail",
    "Vehicle",
    "WaterNW",
    "WaterW",
    "Misc",
)
CREDIT = (1.0, 0.5, 0.25)
INSTRUCTIONS = (
    "You are given an adjuster's note on a claim against the insurance of public property. Name "
    "the peril that caused the damage: Vandalism (theft included), Fire, Lightning, Wind, Hail, "
    "Vehicle, WaterNW (water, not by weather: burst pipes, sewers), WaterW (water by weather: "
    "rain, flood, ice) or Misc. Answer with one JSON object and nothing else: "
    '{"perils": ["...", "...", "..."]}, the likeliest first, at most three.'
)


@dataclass(frozen=True)
class PerilsData(ReleaseData):
    """The notes as items, with the keys `peril`, `note` and `loss` (dollars).

    Attributes:
        instructions: Open with a developer message, which a general model needs; without, notes are
            in lower case, as is best for a model that is trained on them alone.
        labeled: So many notes for `supervised`.
        valid_notes: So many notes for `valid`.
        copies: Further copies of every note in `train`, each without some of its words: a model
            that was tuned on the notes knows their answers by heart, and learns nothing more of
            prompts on which all its answers earn the same. Copies that come out as a note of
            `valid` or `test` are left out.
        word_dropout: The share of the words that a copy lacks.
        data_seed: The seed of what is drawn.
    """

    instructions: bool = False
    labeled: int = 1000
    valid_notes: int = 200
    copies: int = 0
    word_dropout: float = 0.3
    data_seed: int = 0

    def rows(
        self, release: Path, directory: Path | None = None
    ) -> Mapping[str, Sequence[JsonObject]]:
        """See `ReleaseData.rows`."""
        del directory
        folder = release / "Data" if (release / "Data").is_dir() else release
        test = self._items(folder / "peril.validation.csv")
        known = {_text(item) for item in test}
        known_items = self._items(folder / "peril.training.csv")
        items = [item for item in known_items if _text(item) not in known]
        # Notes recur: what is validated on must not be a note that is trained on.
        notes = list(dict.fromkeys(_text(item) for item in items))
        rng = random.Random(f"perils {self.data_seed}")
        rng.shuffle(notes)
        if not 0 < self.valid_notes < len(notes):
            raise InputError(f"data.valid_notes: must be from 1 to {len(notes) - 1}")
        if self.copies < 0 or not 0 <= self.word_dropout < 1:
            raise InputError("data.copies and data.word_dropout: must be at least 0, one below 1")
        held_out = set(notes[: self.valid_notes])
        train = [item for item in items if _text(item) not in held_out]
        rng.shuffle(train)
        baseline = fit([(item["note"], item["peril"]) for item in train])
        return {
            "train": _different(self._with_copies(train, known | held_out)),
            "valid": _different([item for item in items if _text(item) in held_out]),
            "test": test,
            "supervised": [
                worked(item, answer(_with_others(item["peril"], rng)))
                for item in train[: self.labeled]
            ],
            "answers": [worked(item, answer([item["peril"]])) for item in train],
            "test.logistic": [
                {"output_text": answer(perils[: len(CREDIT)])}
                for perils in baseline([item["note"] for item in test])
            ],
        }

    def symbols_of(self) -> Sequence[str]:
        """See `ReleaseData.symbols_of`."""
        return ('{"perils": ["', '", "', '"]}', *PERILS)

    def _with_copies(self, items: Sequence[JsonObject], held_out: Set[str]) -> list[JsonObject]:
        """The items and those of their copies that are not held out, in random order."""
        rng = random.Random(f"copies {self.data_seed}")
        found = list(items)
        for item in [item for item in items for _ in range(self.copies)]:
            *before, prompt = item["messages"]
            words = prompt["content"].split()
            kept = [word for word in words if rng.random() >= self.word_dropout] or words
            prompt = prompt | {"content": " ".join(kept)}
            copy = item | {"messages": [*before, prompt]}
            # A note without some of its words can be another note, word for word.
            if _text(copy) not in held_out:
                found.append(copy)
        rng.shuffle(found)
        return found

    def _items(self, path: Path) -> list[JsonObject]:
        instructions = INSTRUCTIONS if self.instructions else ""
        items: list[JsonObject] = []
        for number, row in enumerate(read_csv(path, (*PERILS, "Loss", "Description")), 2):
            marked = [peril for peril in PERILS if row[peril].strip() == "1"]
            if len(marked) != 1:
                raise InputError(
                    f"{path}, line {number}: has {len(marked)} perils, not one; correct the row"
                )
            note = " ".join(row["Description"].split())
            items.append(
                {
                    "messages": messages(note if instructions else note.lower(), instructions),
                    "peril": marked[0],
                    "note": note,
                    "loss": row["Loss"],
                }
            )
        return items


def answer(perils: Sequence[str]) -> str:
    """The answer's JSON, the likeliest peril first."""
    return json.dumps({"perils": list(perils)})


def grader() -> JsonObject:
    """Partial credit for the second and the third place."""
    return {
        "type": "rank",
        "name": "peril",
        "input": "{{sample.output_json.perils}}",
        "reference": "{{item.peril}}",
        "credit": list(CREDIT),
        "max_items": len(CREDIT),
    }


def official_grader() -> JsonObject:
    """The accuracy of the first peril, for `audit_grader`."""
    return grader() | {"name": "accuracy", "credit": [1.0]}


def response_format() -> JsonObject:
    """The schema to hold answers to: one to three of the nine names."""
    names = {"type": "array", "items": {"enum": list(PERILS)}, "minItems": 1, "maxItems": 3}
    return {
        "type": "object",
        "properties": {"perils": names},
        "required": ["perils"],
        "additionalProperties": False,
    }


def _text(item: JsonObject) -> str:
    """The prompt, by which notes are held apart: in lower case, as a model may read it."""
    return item["messages"][-1]["content"].lower()


def _with_others(peril: str, rng: random.Random) -> list[str]:
    return [peril, *rng.sample([name for name in PERILS if name != peril], len(CREDIT) - 1)]


def _different(items: Sequence[JsonObject]) -> list[JsonObject]:
    """The items without repetitions of prompt and peril."""
    return list({(item["messages"][-1]["content"], item["peril"]): item for item in items}.values())
