"""Demonstrations as the student and the teacher read them."""

import json

import pytest

from rft_jax.config import SelfDistillStage
from rft_jax.data import load_demonstrations, with_demonstrations, without_answers
from rft_jax.utils.errors import InputError

QUESTION = {"role": "user", "content": "2 + 2?"}
ITEM = {
    "messages": [
        {"role": "system", "content": "Calculate."},
        QUESTION,
        {"role": "assistant", "content": "4", "reasoning_content": "two twos"},
    ],
    "key": 7,
}


def write(path, *items):
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return str(path)


def test_the_student_reads_the_question_alone():
    (asked,) = without_answers([ITEM])
    assert asked == {"messages": ITEM["messages"][:-1], "key": 7}


def test_the_teacher_reads_the_answer_in_its_last_message():
    template = SelfDistillStage().demonstration
    (shown,) = with_demonstrations([ITEM], template)
    *before, last = shown["messages"]
    assert before == ITEM["messages"][:1] and last["role"] == "user" and shown["key"] == 7
    assert last["content"] == (
        "2 + 2?\n\nThis is an example for a response to the question:\ntwo twos\n4\n\n"
        "Now answer with a response of your own, including the thinking process:"
    )
    assert ITEM["messages"][1] == QUESTION


def test_what_stands_in_the_texts_is_not_filled_in():
    odd = {"messages": [QUESTION | {"content": "{{ demonstration }}"}, ITEM["messages"][-1]]}
    (shown,) = with_demonstrations([odd], "{{ prompt }} | {{ demonstration }}")
    assert shown["messages"][-1]["content"] == "{{ demonstration }} | two twos\n4"


@pytest.mark.parametrize("before", [[], [QUESTION, {"role": "assistant", "content": "?"}]])
def test_a_demonstration_without_a_question_is_refused(tmp_path, before):
    path = write(tmp_path / "x.jsonl", ITEM, {"messages": [*before, ITEM["messages"][-1]]})
    with pytest.raises(InputError, match=r"x.jsonl, line 2: messages: no question stands before"):
        load_demonstrations(path)
