"""Judges at a server: what they are asked, what counts as a verdict, and whose key is sent."""

import json

import pytest

from rft_jax.commands.entry import main
from rft_jax.config import HostOptions
from rft_jax.graders import HostSample, Items
from rft_jax.graders.host import LabelModel, ScoreModel
from rft_jax.graders.host.client import RETRIES
from rft_jax.graders.spec_reader import Fields
from rft_jax.utils.errors import InputError

PROMPT = [{"role": "user", "content": "Rate {{sample.output_text}} against {{item.answer}}."}]
SCORE = {"type": "score_model", "model": "m", "input": PROMPT}
LABEL = {
    "type": "label_model",
    "model": "m",
    "input": PROMPT,
    "labels": ["good", "fair", "poor"],
    "passing_labels": ["good", "fair"],
}
TYPES = {"score_model": ScoreModel, "label_model": LabelModel}


def parse(spec):
    return TYPES[spec["type"]].parse("g", Fields(spec, "g.json", "", None))


def grade(spec, texts, rows=None):
    rows = rows or [{"answer": n} for n in range(len(texts))]
    with parse(spec).open(HostOptions(requests=4)) as session:
        return session.grade_batch(
            [HostSample(text) for text in texts], Items(rows, "rows.jsonl"), range(len(rows))
        )


def completion(content, finish_reason="stop", **message):
    message = {"role": "assistant", "content": content, **message}
    value = {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return 200, {}, json.dumps(value).encode()


def verdict(result):
    return completion(json.dumps({"steps": [], "result": result}))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"model": 3}, "model: must be a string"),
        ({"input": "Rate this"}, "input: must be a list of messages"),
        ({"input": []}, "input: must be a list of messages"),
        ({"input": ["Rate this"]}, r"input\[0\]: must be an object"),
        ({"input": [{"role": "judge", "content": ""}]}, r"input\[0\].role: unknown role 'judge'"),
        ({"input": [{"role": "user"}]}, r"input\[0\].content: is missing"),
        ({"input": [{"role": "user", "content": "{{x.y}}"}]}, r"input\[0\].content: .*namespace"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            r"input\[0\].content\[0\].type: only text",
        ),
        ({"sampling_params": {"top_k": 3}}, "sampling_params.top_k: unknown"),
        ({"sampling_params": {"seed": "1"}}, "sampling_params.seed: '1' cannot be used"),
        ({"base_url": "localhost:8000"}, "base_url: .* is no web address"),
        ({"range": [1, 0]}, "range: must be the lowest and the highest"),
        ({"range": [0, 0.5, 1]}, "range: must be the lowest and the highest"),
        ({"labels": []}, "labels: unknown field"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused(change, sentence):
    with pytest.raises(InputError, match=f"^g.json: {sentence}"):
        parse(SCORE | change)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"labels": []}, "labels: must be a list of strings"),
        ({"labels": ["good", 1]}, "labels: must be a list of strings"),
        ({"passing_labels": ["great"]}, "passing_labels: 'great' is none of the labels"),
        ({"range": [0, 1]}, "range: unknown field"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, sentence):
    with pytest.raises(InputError, match=f"^g.json: {sentence}"):
        parse(LABEL | change)


def test_an_item_that_lacks_what_the_prompt_needs_is_named():
    with pytest.raises(InputError, match=r"^rows.jsonl, line 2: input\[0\].content needs .*answer"):
        parse(SCORE).check(Items([{"answer": 1}, {}], "rows.jsonl"))


def test_the_prompt_and_the_sampling_are_sent(serve, monkeypatch):
    service = serve(lambda number, body: verdict(0.5))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{service.url}/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    parts = [{"type": "input_text", "text": "Rate"}, "{{sample.output_json.x}}"]
    messages = [{"role": "system", "content": "Be strict."}, {"role": "user", "content": parts}]
    params = {"temperature": 0.5, "max_completions_tokens": 99, "seed": None}
    score = grade(SCORE | {"input": messages, "sampling_params": params}, ['{"x": [1, "é"]}'])[0]
    assert (score.score, score.errors) == (0.5, set())
    assert score.details["g/prompt_tokens"] == 7 and score.details["g/completion_tokens"] == 3
    assert service.paths == ["/v1/chat/completions"]
    assert service.headers[0]["authorization"] == "Bearer key"
    body = service.bodies[0]
    assert body["messages"] == [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": 'Rate\n[1,"é"]'},
    ]
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("m", 0.5, 99)
    assert "seed" not in body
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["steps", "result"] and schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "content, score",
    [
        ('{"result": 0.7, "steps": []}', 0.7),
        ('{"result": 9}', 2),
        ('{"result": -9}', -1),
        ("1.5", 1.5),
        (" 1e400 ", None),
        ('{"result": "0.7"}', None),
        ('{"result": true}', None),
        ('{"result": NaN}', None),
        ('{"score": 0.7}', None),
        ('{"result": 0.7', None),
        ("excellent", None),
        ("", None),
        (None, None),
        ([{"type": "text"}], None),
        ("[" * 100_000, None),
    ],
)
def test_a_number_is_clipped_and_anything_else_counted(serve, monkeypatch, content, score):
    monkeypatch.setenv("OPENAI_BASE_URL", serve(lambda number, body: completion(content)).url)
    found = grade(SCORE | {"range": [-1, 2]}, ["x"])[0]
    assert found.score == (score or 0)
    assert found.errors == (set() if score is not None else {"model_grader_parse_error"})


@pytest.mark.parametrize(
    "content, score",
    [
        ('{"result": "good"}', 1),
        ('{"result": "fair"}', 1),
        ('{"result": "poor"}', 0),
        ("good\n", 1),
        ('"poor"', 0),
        ('{"result": "great"}', None),
        ('{"result": ["good"]}', None),
        ("Good", None),
    ],
)
def test_a_label_passes_or_not(serve, monkeypatch, content, score):
    monkeypatch.setenv("OPENAI_BASE_URL", serve(lambda number, body: completion(content)).url)
    found = grade(LABEL, ["x"])[0]
    assert found.score == (score or 0)
    assert found.errors == (set() if score is not None else {"model_grader_parse_error"})


@pytest.mark.parametrize("label", ["1", "true", "null", "1.50", '{"a"'])
def test_a_bare_label_can_look_like_json(serve, monkeypatch, label):
    monkeypatch.setenv("OPENAI_BASE_URL", serve(lambda number, body: completion(label)).url)
    found = grade(LABEL | {"labels": [label, "x"], "passing_labels": [label]}, ["x"])[0]
    assert (found.score, found.errors) == (1, set())


@pytest.mark.parametrize(
    "reply",
    [completion(None, refusal="I will not"), completion("", finish_reason="content_filter")],
)
def test_a_refusal_is_counted(serve, monkeypatch, reply):
    monkeypatch.setenv("OPENAI_BASE_URL", serve(lambda number, body: reply).url)
    score = grade(SCORE, ["x"])[0]
    assert (score.score, score.errors) == (0, {"model_grader_refusal_error"})
    assert "refuses" in score.message


@pytest.mark.parametrize(
    "reply",
    [(500, {}, b""), (401, {}, b"no key"), (200, {}, b"<html>"), (200, {}, b'{"choices": []}')],
)
def test_a_server_that_fails_leaves_the_sample_invalid(serve, monkeypatch, reply):
    service = serve(lambda number, body: reply)
    monkeypatch.setenv("OPENAI_BASE_URL", service.url)
    score = grade(SCORE, ["x"])[0]
    assert (score.score, score.errors) == (0, {"model_grader_server_error"})
    assert len(service.bodies) == (RETRIES + 1 if reply[0] == 500 else 1)


def test_a_busy_server_is_asked_again(serve, monkeypatch):
    busy = 429, {"Retry-After": "0.001"}, b""
    service = serve(lambda number, body: busy if number < 2 else verdict(1))
    monkeypatch.setenv("OPENAI_BASE_URL", service.url)
    assert grade(SCORE, ["x"])[0].score == 1 and len(service.bodies) == 3


@pytest.mark.parametrize(
    "text, error",
    [("not JSON", "sample_parse_error"), ('{"y": 1}', "invalid_variable_error")],
)
def test_an_answer_that_the_prompt_cannot_take_is_not_judged(serve, monkeypatch, text, error):
    service = serve(lambda number, body: verdict(1))
    monkeypatch.setenv("OPENAI_BASE_URL", service.url)
    prompt = [{"role": "user", "content": "{{sample.output_json.x}}"}]
    scores = grade(SCORE | {"input": prompt}, [text, '{"x": 1}'])
    assert [(score.score, score.errors) for score in scores] == [(0, {error}), (1, set())]
    assert len(service.bodies) == 1
    assert scores[0].details.keys() == scores[1].details.keys()


def test_scores_keep_the_samples_order(serve, monkeypatch):
    def reply(number, body):
        return verdict(int(body["messages"][0]["content"].split()[-1].strip(".")) / 100)

    monkeypatch.setenv("OPENAI_BASE_URL", serve(reply).url)
    scores = grade(SCORE, ["x"] * 20)
    assert [score.score for score in scores] == [n / 100 for n in range(20)]


def test_the_key_goes_to_no_server_that_only_the_grader_names(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("RFT_JUDGE_KEY", "other")
    service = serve(lambda number, body: verdict(1))
    grade(SCORE | {"base_url": service.url}, ["x"])
    grade(SCORE | {"base_url": service.url, "api_key_env": "RFT_JUDGE_KEY"}, ["x"])
    assert "authorization" not in service.headers[0]
    assert service.headers[1]["authorization"] == "Bearer other"


@pytest.mark.parametrize(
    "environment, change, sentence",
    [
        ({}, {}, "g: the judge at https://api.openai.com/v1 needs a key; set OPENAI_API_KEY"),
        (
            {},
            {"base_url": "http://h", "api_key_env": "RFT_JUDGE_X"},
            "g: .*http://h needs a key; set RFT_JUDGE_X",
        ),
        ({"OPENAI_BASE_URL": "localhost:8000"}, {}, "g: OPENAI_BASE_URL .* is no web address"),
    ],
)
def test_without_a_server_the_remedy_is_named(serve, monkeypatch, environment, change, sentence):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{sentence}"):
        with parse(SCORE | change).open(HostOptions()):
            pass


def test_grade_tells_what_judges_spent(serve, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPENAI_BASE_URL", serve(lambda number, body: verdict("good")).url)
    spec = {
        "type": "multi",
        "graders": {"a": LABEL, "b": LABEL, "c": LABEL | {"model": "other"}},
        "calculate_output": "(a + b + c) / 3",
    }
    files = {"grader": spec, "items": {"answer": "x"}, "samples": {"output_text": "y"}}
    arguments = ["grade"]
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content) + "\n")
        arguments += [f"--{name}", str(tmp_path / name)]
    assert main(arguments) == 0
    line = json.loads(capsys.readouterr().out)
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert line["model_grader_token_usage_per_model"] == {
        "m": {count: 2 * tokens for count, tokens in usage.items()},
        "other": usage,
    }
    assert line["metadata"]["token_usage"] == 30
    assert line["metadata"]["sampled_model_name"] is None and line["reward"] == 1
