"""Continuous batching: what slots answer is what `sample_model` samples, whoever else asks."""

import json

import jsonschema
import pytest

from rft_jax.evaluation.sample import sample_model
from rft_jax.grammars import open_grammar
from rft_jax.serve import grammar_pool
from rft_jax.serve.grammar_pool import MOST_GRAMMARS, GrammarPool

from .small_run import QUESTION, answers, make_task
from .small_run import batcher as batcher
from .small_run import small_stage as small_stage

OTHER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "lost ring"}]
VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["yes", "no"]}, "note": {"type": "string", "maxLength": 5}},
    "required": ["verdict", "note"],
    "additionalProperties": False,
}


def texts(samples):
    return [sample["text"] for sample in samples]


def form(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_greedy_answers_are_those_of_sample_model(batcher, small_stage):
    (expected,) = sample_model(small_stage, QUESTION, temperature=0)
    (found,) = answers(batcher, make_task(batcher, temperature=0.0))[1]
    assert (found["text"], found["finish"]) == (expected["text"], expected["stop_reason"])


def test_a_sample_depends_on_neither_load_nor_number_nor_room(batcher):
    alone = texts(answers(batcher, make_task(batcher, samples=3))[1])
    others = [
        make_task(batcher, 2, OTHER, samples=7, temperature=1.5, seed=1),
        make_task(batcher, 3, samples=2, seed=2, top_p=0.5),
        make_task(batcher, 4, OTHER * 4, samples=3, limit=70, streams=True),
    ]
    found = answers(batcher, others[0], make_task(batcher, samples=5), *others[1:])
    assert texts(found[1])[:3] == alone
    assert texts(found[3]) != alone[:2]
    again = answers(batcher, make_task(batcher, 4, OTHER * 4, samples=3, limit=70))
    assert found[4] == again[4], "a stream is the same answer in parts"


def test_a_limit_cuts_the_same_completion(batcher):
    whole = answers(batcher, make_task(batcher, thinking_tokens=2, samples=4))[1]
    cut = answers(batcher, make_task(batcher, thinking_tokens=2, samples=4, limit=9))[1]
    for one, other in zip(cut, whole, strict=True):
        assert other["text"].startswith(one["text"])
        assert one["finish"] == "length" or one == other
    assert any(one["text"] != other["text"] for one, other in zip(cut, whole, strict=True))


def test_greedy_where_asked_beside_samples_at_any_temperature(batcher):
    greedy = make_task(batcher, 1, temperature=0.0)
    expected = texts(answers(batcher, greedy)[1])
    hot = make_task(batcher, 2, temperature=2.0, samples=5)
    narrow = make_task(batcher, 3, temperature=2.0, top_p=1e-6, seed=8)
    found = answers(batcher, hot, make_task(batcher, 1, temperature=0.0), narrow)
    assert texts(found[1]) == expected == texts(found[3]), "a nucleus of one token is greedy"
    assert texts(found[2])[0] != expected[0]


def test_stops_end_the_answer_in_front_of_them(batcher):
    (whole,) = texts(answers(batcher, make_task(batcher, thinking_tokens=0))[1])
    stop = whole[3:5]
    (cut,) = answers(batcher, make_task(batcher, thinking_tokens=0, stops=("\x01", stop), top=0))[1]
    assert cut["text"] == whole[: whole.find(stop)] and cut["finish"] == "stop"
    assert b"".join(bytes(token["bytes"]) for token in cut["tokens"]) == cut["text"].encode()


def test_log_probabilities_are_of_the_answers_tokens(batcher):
    task = make_task(batcher, temperature=0.0, thinking_tokens=0, top=3)
    beside = make_task(batcher, 2, OTHER, temperature=2.0, samples=3)
    (answer,) = answers(batcher, task, beside)[1]
    tokens = answer["tokens"]
    assert b"".join(bytes(token["bytes"]) for token in tokens) == answer["text"].encode()
    for token in tokens:
        top = [other["logprob"] for other in token["top_logprobs"]]
        assert len(top) == 3 and top == sorted(top, reverse=True)
        assert token["logprob"] == top[0] <= 0, "greedy decoding takes the likeliest"
    hot = make_task(batcher, temperature=2.0, thinking_tokens=0, top=1, top_p=0.9)
    (first, *_) = answers(batcher, hot)[1][0]["tokens"]
    assert first["top_logprobs"][0] == tokens[0]["top_logprobs"][0], "neither scaled nor truncated"


def test_grammars_of_slots_side_by_side(batcher, small_stage):
    tokenizer = batcher.model.tokenizer
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}
    grammars = {
        name: (name, open_grammar(form(schema), tokenizer))
        for name, schema in (("verdict", VERDICT), ("numbers", numbers))
    }
    plain = texts(answers(batcher, make_task(batcher, 9, samples=3))[9])
    tasks = [
        make_task(batcher, 1, samples=5, grammar=grammars["verdict"]),
        make_task(batcher, 9, samples=3),
        make_task(batcher, 2, samples=5, grammar=grammars["numbers"]),
    ]
    found = answers(batcher, *tasks)
    assert texts(found[9]) == plain, "a grammar is that of its own slot"
    expected = sample_model(small_stage, QUESTION, seed=5, samples=5, response_format=form(VERDICT))
    assert texts(found[1]) == [sample["text"] for sample in expected], "seeds are its seeds"
    for number, schema in ((1, VERDICT), (2, numbers)):
        for sample in found[number]:
            assert sample["finish"] == "stop"
            jsonschema.validate(json.loads(sample["text"]), schema)


def test_a_pool_has_a_limit_and_keeps_states(batcher):
    tables = open_grammar(form(VERDICT), batcher.model.tokenizer)
    pool = GrammarPool()
    first = [pool.first_state(str(number), tables) for number in range(MOST_GRAMMARS)]
    assert None not in first and len(set(first)) == len(first)
    assert pool.first_state("3", tables) == first[3]
    assert pool.first_state("one more", tables) is None
    pool.clear()
    assert pool.first_state("one more", tables) == first[0]


def test_a_pool_takes_any_grammar_alone(batcher, monkeypatch):
    monkeypatch.setattr(grammar_pool, "MOST_BYTES", 1)
    tables, pool = open_grammar(form(VERDICT), batcher.model.tokenizer), GrammarPool()
    assert pool.first_state("", batcher.model.counted) is not None
    assert pool.first_state("large", tables) is not None
    assert pool.first_state("one more", tables) is None


def test_canceled_tasks_free_their_slots(batcher):
    expected = texts(answers(batcher, make_task(batcher, samples=2))[1])
    for task in (make_task(batcher, 7, OTHER, samples=30), make_task(batcher, 8, samples=2)):
        batcher.add(task)
    batcher.step()
    batcher.cancel(7)
    batcher.cancel(8)
    assert not batcher.busy
    assert texts(answers(batcher, make_task(batcher, samples=2))[1]) == expected


def test_usage_counts_all_samples(batcher):
    batcher.add(make_task(batcher, samples=3, thinking_tokens=4))
    events = []
    while batcher.busy:
        events += batcher.step()
    assert [event["sample"] for event in events[:-1]].count(0) == 1
    usage = events[-1]["usage"]
    assert events[-1]["done"] and 3 <= usage["completion"] <= 3 * batcher.model.default_tokens
    assert 0 < usage["reasoning"] <= 3 * 4


@pytest.mark.parametrize("length", [1, 64])
def test_prompts_of_all_lengths_are_copied_from_slot_to_slot(batcher, length):
    prompt = tuple(10 + index % 200 for index in range(length))
    tasks = [make_task(batcher, number, samples=6) for number in (1, 2)]
    tasks[0].prompt = tasks[1].prompt = prompt
    first = answers(batcher, tasks[0])[1]  # run once, and copied to three slots
    assert first == answers(batcher, tasks[1])[2]
