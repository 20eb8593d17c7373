"""`rft record` against a server on this machine that fails in every way a real one does."""

import http.server
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rft_jax.commands.entry import main
from rft_jax.config import HostOptions
from rft_jax.data.items import load_answers
from rft_jax.evaluation.grading import grade_files

CLAIMS = Path(__file__).parents[2] / "experiments" / "claims"
KEY = "sk-secret-of-the-test"
ITEMS = 12


@pytest.fixture
def server():
    """A model that answers with the claim's last word; what it does wrong is set by a test."""
    state = SimpleNamespace(asked=[], status={}, wrong_key=False)

    class Model(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt = body["messages"][-1]["content"]
            state.asked.append((self.path, dict(self.headers), body))
            failures = state.status.get(prompt, [])
            if self.headers["authorization"] != f"Bearer {KEY}":
                self.answer(401, {"error": {"message": f"wrong key {KEY}"}})
            elif failures:
                status = failures.pop(0)
                text = f"status {status}, your key was {KEY}"
                self.answer(status, {"error": {"message": text, "code": None}})
            else:
                content = f"é{prompt.split()[-1]}"
                message = {"role": "assistant", "content": content}
                choices = [{"message": message, "finish_reason": "stop", "index": 0}]
                self.answer(200, {"model": body["model"], "choices": choices, "usage": {}})

        def answer(self, status, value):
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("retry-after-ms", "1")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{listening.server_port}/v1"
    yield state
    listening.shutdown()


@pytest.fixture
def record(server, tmp_path, monkeypatch, capfd):
    """Runs the command; returns its status and what it said, in which the key never is."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("rft_jax.serve.record._TELL_S", 0.0)
    lines = (CLAIMS / "valid.jsonl").read_text().splitlines()[:ITEMS]
    (tmp_path / "valid.jsonl").write_text("\n".join(lines) + "\n")
    server.prompts = [json.loads(line)["messages"][-1]["content"] for line in lines]
    server.out = tmp_path / "answers.jsonl"

    def run(*more, model="ft:o4-mini:org::abc"):
        files = "--data", str(tmp_path / "valid.jsonl"), "--out", str(server.out)
        status = main(["record", "--base-url", server.url, "--model", model, *files, *more])
        said = "".join(capfd.readouterr())
        assert KEY not in said
        return status, said

    return run


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_in_the_items_order_and_can_be_graded(server, record, tmp_path):
    status, said = record("--temperature", "0.5", "--reasoning-effort", "low")
    assert status == 0 and f"of {ITEMS} answers recorded" in said
    path, _, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"]) == ("ft:o4-mini:org::abc", 0.5)
    assert body["reasoning_effort"] == "low" and "max_completion_tokens" not in body
    expected = [f"é{prompt.split()[-1]}" for prompt in server.prompts]
    assert load_answers(server.out, ITEMS) == expected
    assert [row["item"] for row in rows(server.out)] == list(range(1, ITEMS + 1))
    files = tmp_path / "valid.jsonl", server.out
    graded = grade_files(str(CLAIMS / "grader.json"), *files, "host", HostOptions())
    assert [line["item"] for line in graded] == list(range(1, ITEMS + 1))


def test_busy_servers_are_asked_again_and_refused_items_are_empty(server, record):
    server.status = {server_prompt(3): [429, 500, 503], server_prompt(5): [400]}
    status, said = record()
    assert status == 0 and "1 answers were refused" in said
    found = rows(server.out)
    assert found[2]["output_text"] and found[4]["output_text"] == ""
    assert "status 400" in found[4]["refusal"] and KEY not in server.out.read_text()


def server_prompt(line):
    row = json.loads((CLAIMS / "valid.jsonl").read_text().splitlines()[line - 1])
    return row["messages"][-1]["content"]


def test_it_goes_on_where_it_ended(server, record, monkeypatch):
    monkeypatch.setattr("rft_jax.serve.record.RETRIES", 1)
    server.status = {server_prompt(8): [500] * 99}
    status, said = record("--requests", "1")
    assert status == 1 and "line 8" in said and "go on" in said
    part = server.out.with_name("answers.jsonl.part")
    assert not server.out.exists() and len(rows(part)) == 8
    with part.open("a") as file:
        file.write('{"item": 8, "output_te')  # as a kill leaves it
    status, said = record("--requests", "1", model="another")
    assert status == 2 and "another model" in said
    server.status, before = {}, len(server.asked)
    status, said = record("--requests", "1")
    assert status == 0 and f"7 of {ITEMS} answers are recorded already" in said
    assert len(server.asked) - before == ITEMS - 7
    assert len(load_answers(server.out, ITEMS)) == ITEMS and not part.exists()
    assert record()[0] == 2, "a file that exists is not overwritten"


def test_a_wrong_key_or_model_ends_it_at_once(server, record, monkeypatch):
    server.status = {server_prompt(1): [404]}
    status, said = record()
    assert status == 2 and "--model" in said and len(server.asked) == 1
    server.status = {server_prompt(1): [400]}
    status, said = record()
    assert status == 2 and "line 1" in said and len(server.asked) == 2
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    status, said = record()
    assert status == 2 and "key" in said and len(server.asked) == 3
    monkeypatch.delenv("OPENAI_API_KEY")
    status, said = record()
    assert status == 2 and "OPENAI_API_KEY" in said


def test_requests_run_side_by_side(server, record, monkeypatch):
    began = time.monotonic()
    assert record("--requests", "4")[0] == 0
    assert time.monotonic() - began < 10
    assert len({body["messages"][-1]["content"] for _, _, body in server.asked}) == ITEMS
