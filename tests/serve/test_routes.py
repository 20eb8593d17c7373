"""Files, jobs, models and webhooks in process, without a child: shapes, refusals, states."""

import pytest

from .in_process import BASE, GRADER, ROW, Server, jsonl, reinforcement


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path, max_file_bytes=100_000)
    yield made
    made.store.close()


def refused(answer, status, param=None, says=""):
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param, error
    assert says in error["message"], error
    return error


# ----------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "data",
    [
        jsonl([ROW]),
        jsonl([ROW]).rstrip(),
        b"\xef\xbb\xbf" + jsonl([ROW, ROW]).replace(b"\n", b"\r\n"),
        jsonl([{"messages": [], "text": "one\u2028two\u2029three"}]),
        jsonl([ROW]) + b"\n\n \n",
        jsonl([{"text": "x" * 90_000}]),
    ],
    ids=["plain", "no newline", "BOM and CRLF", "U+2028", "blank end", "long line"],
)
def test_rows_come_back_byte_for_byte(server, data):
    made = server.upload(data).json()
    assert (made["bytes"], made["status"], made["expires_at"]) == (len(data), "processed", None)
    content = server("GET", f"/files/{made['id']}/content")
    assert content.content == data
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "data, says",
    [
        (b'{"a": 1}\nnope\n', "line 2"),
        (b'{"a": 1}\n\n{"a": 2}\n', "line 2"),
        (b'\n{"a": 2}\n', "line 1"),
        (b'{"a": NaN}\n', "line 1"),
        (b'{"a": "\\ud800"}\n', "line 1"),
        (b'{"a": "\xff"}\n', "line 1"),
        (b"[1, 2]\n[3]\n", "line 1"),
        (b'[\n{"a": 1},\n{"a": 2}\n]', "line 1"),
        (b"\x1f\x8b\x08", "gzip"),
        (b'{"a": 1, "a": 2}\n', "twice"),
        (b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}\n", "line 1"),
        (b" \n \n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"", "empty"),
    ],
)
def test_bad_rows_are_refused_and_nothing_is_kept(server, data, says):
    error = refused(server.upload(data, "bad.jsonl"), 400, "file", says)
    assert "bad.jsonl" in error["message"] and str(server.options.dir) not in error["message"]
    assert not list(server.store.files.iterdir())
    assert server("GET", "/files").json()["data"] == []


def test_other_purposes_take_any_bytes(server):
    assert server.upload(b"\x00\xff", purpose="user_data").status_code == 200


@pytest.mark.parametrize(
    "name, kept",
    [
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        ("C:\\x\\rows.jsonl", "rows.jsonl"),
        ("Zürich 東京.jsonl", "Zürich 東京.jsonl"),
        ('a"b.jsonl', 'a"b.jsonl'),
        ("x" * 300, "x" * 255),
        ("<script>.jsonl", "<script>.jsonl"),
    ],
)
def test_filenames(server, name, kept):
    made = server.upload(name=name).json()
    assert made["filename"] == kept
    assert [path.name for path in server.store.files.iterdir()] == [made["id"]]


def test_limit_in_bytes(server):
    row = b'{"a": "' + b"x" * 990 + b'"}\n'
    assert server.upload(row[:1000] * 100).status_code == 200
    refused(server.upload(row * 101), 413, says="100,000 bytes")
    assert len(list(server.store.files.iterdir())) == 1


@pytest.mark.parametrize(
    "fields, status",
    [
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}, 200),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, 400),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, 400),
        ({"expires_after[anchor]": "created_at"}, 400),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "9" * 400}, 400),
    ],
)
def test_expiry(server, fields, status):
    answer = server.upload(**fields)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["expires_at"] == answer.json()["created_at"] + 3600


def test_what_is_no_form_is_refused(server):
    refused(server("POST", "/files", json={"purpose": "fine-tune"}), 400)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    refused(server("POST", "/files", content=b"nonsense", headers=kind), 400)
    cut = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n{}'
    refused(server("POST", "/files", content=cut, headers=kind), 400)
    refused(server("POST", "/files", data={"purpose": "fine-tune"}, files={"x": b"1"}), 400)
    assert not list(server.store.files.iterdir())


def test_pages(server):
    made = [server.upload().json()["id"] for _ in range(5)]
    first = server("GET", "/files", params={"limit": 2}).json()
    assert [file["id"] for file in first["data"]] == made[:2:-1]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (made[4], made[3], True)
    rest = server("GET", "/files", params={"after": made[3], "limit": 3}).json()
    assert [file["id"] for file in rest["data"]] == made[2::-1] and rest["has_more"] is False
    oldest = server("GET", "/files", params={"order": "asc", "after": made[0]}).json()
    assert [file["id"] for file in oldest["data"]] == made[1:]
    for name, value in (("limit", "0"), ("limit", "x"), ("limit", "²"), ("limit", "9" * 30),
                        ("after", "file-x"), ("order", "up")):  # fmt: skip
        refused(server("GET", "/files", params={name: value}), 400, name)


@pytest.mark.parametrize("identity", ["file-x", "%2e%2e%2fapi_key", "..%2fserver.sqlite", "a%00b"])
def test_ids_are_no_paths(server, identity):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        assert server(method, f"/files/{identity}{path}").status_code == 404


# ------------------------------------------------------------------------------------------ jobs


def test_a_job_as_it_is_made(server):
    valid = server.upload(jsonl([ROW | {"answer": "x"}])).json()["id"]
    job = server.job(validation_file=valid, suffix="A.b_c-1", metadata={"a": ""}).json()
    nothing = ("fine_tuned_model", "finished_at", "trained_tokens", "error", "estimated_finish",
               "hyperparameters", "integrations")  # fmt: skip
    assert [name for name in nothing if job[name] is not None] == []
    assert (job["status"], job["result_files"], job["organization_id"]) == (
        "validating_files", [], "org-local",
    )  # fmt: skip
    inner = job["method"]["reinforcement"]
    assert inner["grader"] == GRADER and inner["response_format"] is None
    assert inner["hyperparameters"] == {
        "batch_size": "auto", "n_epochs": "auto", "learning_rate_multiplier": "auto",
        "compute_multiplier": "auto", "eval_interval": "auto", "eval_samples": "auto",
        "reasoning_effort": "medium",
    }  # fmt: skip
    events = server("GET", f"/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert [event["message"] for event in events] == [
        f"Validating training file: {server.file} and validation file: {valid}",
        f"Created fine-tuning job: {job['id']}",
    ]


def test_supervised_jobs_of_old_and_new_clients(server):
    old = server.job(method=None, hyperparameters={"n_epochs": 2, "batch_size": "auto"}).json()
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    new = server.job(method=method, hyperparameters={"n_epochs": 9}).json()
    for job in (old, new):
        assert job["hyperparameters"]["n_epochs"] == 2
        assert job["method"]["supervised"]["hyperparameters"] == job["hyperparameters"]
        assert job["hyperparameters"]["batch_size"] == "auto"


HYPER = "method.reinforcement.hyperparameters."
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nonsense"}}}


@pytest.mark.parametrize(
    "change, param",
    [
        ({"model": None}, "model"),
        ({"model": "no"}, "model"),
        ({"model": 7}, "model"),
        ({"model": "/etc/models"}, "model"),
        ({"training_file": "file-x"}, "training_file"),
        ({"training_file": ["x"]}, "training_file"),
        ({"validation_file": "../api_key"}, "validation_file"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "a/b"}, "suffix"),
        ({"suffix": "a:b"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 10**100}, "seed"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {"x" * 65: "a"}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"integrations": [{"type": "other"}]}, "integrations"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "../x"}}]}, "integrations"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"method": {"type": "dpo", "dpo": {}}}, "method.type"),
        ({"method": {}}, "method.type"),
        ({"method": "supervised"}, "method"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
        ({"method": reinforcement(None)}, "method.reinforcement.grader"),
        ({"method": reinforcement("module:name")}, "method.reinforcement.grader"),
        ({"method": reinforcement({"type": "nonsense"})}, "method.reinforcement.grader"),
        ({"method": reinforcement(batch_size=0)}, HYPER + "batch_size"),
        ({"method": reinforcement(batch_size=257)}, HYPER + "batch_size"),
        ({"method": reinforcement(batch_size="4")}, HYPER + "batch_size"),
        ({"method": reinforcement(batch_size=True)}, HYPER + "batch_size"),
        ({"method": reinforcement(n_epochs=51)}, HYPER + "n_epochs"),
        ({"method": reinforcement(learning_rate_multiplier=0)}, HYPER + "learning_rate_multiplier"),
        ({"method": reinforcement(compute_multiplier=1e-5)}, HYPER + "compute_multiplier"),
        ({"method": reinforcement(compute_multiplier=11)}, HYPER + "compute_multiplier"),
        ({"method": reinforcement(eval_interval=0)}, HYPER + "eval_interval"),
        ({"method": reinforcement(eval_samples=-1)}, HYPER + "eval_samples"),
        ({"method": reinforcement(reasoning_effort="extreme")}, HYPER + "reasoning_effort"),
        ({"method": reinforcement(batchsize=4)}, HYPER + "batchsize"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"x": 1}}}},
         "method.supervised.hyperparameters.x"),
        ({"method": {"type": "reinforcement", "reinforcement": {
            "grader": GRADER, "response_format": {"type": "xml"}}}},
         "method.reinforcement.response_format.type"),
    ],
)  # fmt: skip
def test_jobs_that_are_refused(server, change, param):
    error = refused(server.job(**change), 404 if change.get("model") in ("no", "/etc/models") or (
        "file" in param and isinstance(change[param], str)) else 400, param)  # fmt: skip
    assert str(server.options.dir) not in error["message"]
    assert server("GET", "/fine_tuning/jobs").json()["data"] == []
    assert not list(server.store.jobs.iterdir())


def test_a_schema_that_is_none_is_refused(server):
    method = reinforcement()
    method["reinforcement"]["response_format"] = SCHEMA
    error = refused(server.job(method=method), 400)
    assert error["param"].startswith("method.reinforcement.response_format.json_schema.schema")


def test_results_cannot_be_trained_on(server):
    other = server.upload(b"{}", purpose="user_data").json()["id"]
    refused(server.job(training_file=other), 400, "training_file")


def test_a_job_keeps_its_files(server):
    job = server.job().json()
    assert server("DELETE", f"/files/{server.file}").json()["deleted"] is True
    assert (server.store.jobs / job["id"] / "train.jsonl").read_bytes() == jsonl([ROW])


@pytest.mark.parametrize(
    "status, allowed",
    [
        ("validating_files", "cancel"), ("queued", "cancel"), ("running", "cancel pause"),
        ("paused", "cancel resume"), ("succeeded", ""), ("failed", ""), ("cancelled", ""),
    ],
)  # fmt: skip
def test_states(server, status, allowed):
    for action in ("cancel", "pause", "resume"):
        job = server.job().json()
        server.set(job["id"], status=status)
        answer = server("POST", f"/fine_tuning/jobs/{job['id']}/{action}")
        if action in allowed.split():
            after = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}[action]
            assert answer.json()["status"] == ("running" if status == "running" else after)
        else:
            refused(answer, 409, says=f"is {status}")
            assert answer.headers["x-should-retry"] == "false"


def test_a_pause_does_not_undo_a_cancellation(server):
    job = server.job().json()["id"]
    server.set(job, status="running")
    for action, status in (("pause", 200), ("pause", 200), ("resume", 409), ("cancel", 200),
                           ("cancel", 200), ("pause", 409)):  # fmt: skip
        assert server("POST", f"/fine_tuning/jobs/{job}/{action}").status_code == status, action


def test_metadata_chooses_jobs(server):
    values = [{"a": "1", "b": ""}, {"a": "2"}, None, {"x[y]": "é", "q'\"": "1"}]
    made = [server.job(metadata=value).json()["id"] for value in values]

    def found(**params):
        return [
            job["id"] for job in server("GET", "/fine_tuning/jobs", params=params).json()["data"]
        ]

    assert found(**{"metadata[a]": "1"}) == [made[0]]
    assert found(**{"metadata[a]": "1", "metadata[b]": ""}) == [made[0]]
    assert found(**{"metadata[b]": "x"}) == found(**{"metadata[a]": "1' OR '1"}) == []
    assert found(metadata="null") == [made[2]]
    assert found(**{"metadata[x[y]]": "é"}) == found(**{"metadata[q'\"]": "1"}) == [made[3]]
    refused(server("GET", "/fine_tuning/jobs", params={"metadata": "x"}), 400, "metadata")


def test_a_request_that_is_sent_again_makes_no_second_job(server):
    body = {"model": BASE, "training_file": server.file, "method": reinforcement()}
    first = server("POST", "/fine_tuning/jobs", json=body).json()["id"]
    again = {"x-stainless-retry-count": "1"}
    assert server("POST", "/fine_tuning/jobs", json=body, headers=again).json()["id"] == first
    other = server("POST", "/fine_tuning/jobs", json=body | {"seed": 1}, headers=again).json()["id"]
    assert server("POST", "/fine_tuning/jobs", json=body).json()["id"] not in (first, other)


@pytest.mark.parametrize("path", ["", "/cancel", "/pause", "/resume", "/events", "/checkpoints"])
def test_unknown_jobs(server, path):
    method = "POST" if path in ("/cancel", "/pause", "/resume") else "GET"
    for identity in ("ftjob-x", "..", "a%2fb"):
        assert server(method, f"/fine_tuning/jobs/{identity}{path}").status_code in (404, 405)


# ---------------------------------------------------------------------------- models and webhooks


def test_models_by_names_with_slashes(server):
    listed = server("GET", "/models").json()
    assert [model["id"] for model in listed["data"]] == [BASE]
    for name in (BASE, BASE.replace("/", "%2F")):
        assert server("GET", f"/models/{name}").json()["id"] == BASE
    assert refused(server("GET", "/models/ft:x:y"), 404)["code"] == "model_not_found"
    refused(server("DELETE", f"/models/{BASE}"), 403)
    refused(server("DELETE", "/models/ft:x:y"), 404)


@pytest.mark.parametrize(
    "url, taken",
    [
        ("https://example.org/x", True), ("http://127.0.0.1:9/x", True), ("http://[::1]/", True),
        ("http://localhost:1", True), ("http://inside.lan/", True), ("http://example.org/", False),
        ("file:///etc/passwd", False), ("http://127.0.0.1:99999/", False), ("https://", False),
        ("https://user:pw@example.org/", False), ("https://exa mple.org/", False),
        ("http://127.0.0.1.example.org/", False),
    ],
)  # fmt: skip
def test_where_webhooks_may_go(tmp_path, url, taken):
    server = Server(tmp_path, allow_hosts=("inside.lan",))
    body = {"name": "n", "url": url, "event_types": ["fine_tuning.job.failed"]}
    answer = server("POST", "/webhook_endpoints", json=body)
    if taken:
        assert answer.json()["signing_secret"].startswith("whsec_")
    else:
        refused(answer, 400, "url")
    server.store.close()


def test_webhook_endpoints(server):
    body = {"name": "n", "url": "http://127.0.0.1:9/", "event_types": ["fine_tuning.job.failed"]}
    made = server("POST", "/webhook_endpoints", json=body).json()
    one = f"/webhook_endpoints/{made['id']}"
    assert "signing_secret" not in server("GET", one).json()
    assert server("POST", one, json={"name": "m"}).json()["name"] == "m"
    assert server("GET", "/webhook_endpoints").json()["data"][0]["name"] == "m"
    rotated = server("POST", f"{one}/rotate_secret").json()["signing_secret"]
    assert rotated != made["signing_secret"]
    refused(server("POST", one, json={"event_types": ["batch.completed"]}), 400, "event_types")
    refused(server("POST", one, json={"event_types": [["x"]]}), 400, "event_types")
    refused(server("POST", "/webhook_endpoints", json={"name": "n"}), 400, "url")
    assert server("DELETE", one).json()["deleted"] is True
    refused(server("GET", one), 404)
