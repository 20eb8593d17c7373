"""A grader type is one file and one line in the registry, a composite one too."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.graders import build_grader, explain, grade_texts, load_grader, registry
from rft_jax.graders.host.list_overlap import ListOverlap as TokenOverlap
from rft_jax.graders.meteor import Meteor
from rft_jax.graders.probe import probe
from rft_jax.graders.protocols import CompositeNode, GraderType, leaves
from rft_jax.graders.types import Items, Score

KINDS = {"text": "string_check", "list": "rank"}
PARTS = {
    "text": {
        "type": "string_check",
        "operation": "eq",
        "input": "{{sample.output_json.text}}",
        "reference": "{{item.text}}",
    },
    "list": {
        "type": "rank",
        "input": "{{sample.output_json.list}}",
        "reference": "{{item.list}}",
        "credit": [1],
    },
}
SPEC = {"type": "best", "name": "best", "graders": PARTS}
ROWS = [
    {"messages": [{"role": "user", "content": "q"}], "text": f"word{n}", "list": f"name{n}"}
    for n in range(6)
]


@dataclass(frozen=True)
class Best(CompositeNode):
    """The best of the scores, or of those in the list that an item has as `asked`."""

    type_name = "best"
    chooses = True
    name: str
    parts: tuple[tuple[str, GraderType], ...]

    @classmethod
    def parse(cls, name, fields):
        fields.only("graders")
        return cls(
            name,
            tuple(
                (key, fields.parse_grader(fields.inside(f"graders.{key}", part), f"{name}/{key}"))
                for key, part in fields.values["graders"].items()
            ),
        )

    @property
    def why(self) -> str:
        return "the best of others always does"

    @property
    def children(self) -> Mapping[str, GraderType]:
        return dict(self.parts)

    def with_children(self, children):
        return replace(self, parts=tuple(children.items()))

    def has_say(self, key, items, n):
        return key in items.rows[n].get("asked", self.children)

    def encode(self, items):
        has_say = [
            np.array([self.has_say(key, items, n) for n in range(len(items.rows))])
            for key, _ in self.parts
        ]
        return has_say, [part.encode(items) for _, part in self.parts]

    def score(self, view, encoded):
        scores = {
            part.name: jnp.where(has_say_N, part.score(view, own).score, 0)
            for (_, part), has_say_N, own in zip(self.parts, *encoded, strict=True)
        }
        return Score(jnp.stack([*scores.values()]).max(axis=0), {}, {}, scores)


@pytest.fixture
def best(monkeypatch):
    """The grader, its type registered with one line."""
    monkeypatch.setitem(registry.TYPES, "best", Best)
    return load_grader(SPEC)


@pytest.mark.parametrize("placement", ["auto", "host"])
def test_a_composite_type_of_ones_own_is_placed_explained_and_grades(best, placement):
    grader = build_grader(best, placement)
    lines = list(explain(grader.spec))
    assert [(line["node"], line["type"]) for line in lines] == [
        ("best", "best"),
        *((f"best/{key}", kind) for key, kind in KINDS.items()),
    ]
    place = "host" if placement == "host" else "device"
    assert [line["runs_on"] for line in lines] == ["device", place, place]
    assert [leaf.name for leaf in leaves(grader.spec)] == ["best/text", "best/list"]
    assert grader.type_name == "best" and grader.needs_host == (placement == "host")
    texts = ['{"text": "word0"}', '{"list": ["name1"]}', '{"list": ["name1"]}', "nothing"]
    items = [ROWS[0], ROWS[1], ROWS[1] | {"asked": ["text"]}, ROWS[3]]
    grade = grade_texts(grader, texts, items)
    assert grade.reward.tolist() == [1, 1, 0, 0]
    assert grade.scores["best/list"].tolist() == [0, 1, 0, 0]


def test_a_composite_type_of_ones_own_is_probed(best):
    rewards = {p.name: p.reward for p in probe(build_grader(best), Items(ROWS, "train.jsonl"))}
    assert rewards["right"] == 1
    assert rewards["the commonest reference"] == pytest.approx(1 / len(ROWS))


def test_a_composite_type_of_ones_own_stands_in_others(best):
    multi = {"type": "multi", "graders": {"most": SPEC}, "calculate_output": "0.5 * most"}
    grade = grade_texts(build_grader(load_grader(multi)), ['{"text": "word0"}'], ROWS[:1])
    assert grade.reward.tolist() == [0.5]


def test_a_node_s_type_is_the_one_in_the_json():
    for name, kind in (registry.TYPES | registry.DEVICE_JUDGES).items():
        assert kind.type_name == name
    assert Meteor.type_name == "text_similarity" and TokenOverlap.type_name == "list_overlap"
