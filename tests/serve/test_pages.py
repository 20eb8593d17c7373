"""The pages: what they may load, and that a browser shows hostile names as text."""

import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from rft_jax.serve import pages
from rft_jax.serve.errors import exception_handlers
from rft_jax.serve.limits import middleware, page_token

KEY = "page-key"
JOB = "ftjob-" + "0a" * 12
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "javascript:alert(1)",
    "</pre>&lt;\u202e\u0000'\"><svg onload=document.title='owned'>",
)
EVIL = " ".join(HOSTILE)


def hostile_job(status):
    method = {"type": EVIL, EVIL: {"grader": {"name": EVIL}}}
    return {
        "id": JOB, "status": status, "model": EVIL, "created_at": 1, "finished_at": 2,
        "estimated_finish": None, "fine_tuned_model": EVIL, "training_file": EVIL,
        "validation_file": EVIL, "trained_tokens": 3, "seed": 4, "method": method,
        "metadata": {EVIL: EVIL}, "error": {"message": EVIL},
    }  # fmt: skip


def lists(*rows):
    async def endpoint(request):
        return JSONResponse({"object": "list", "data": rows, "has_more": False})

    return endpoint


async def one_job(request):
    return JSONResponse(hostile_job("succeeded"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    run = folder / "jobs" / JOB / "run"
    run.mkdir(parents=True)
    (run / "report.html").write_text("<p>the report</p>")
    (run.parent / "log").write_text("x" * 100_000 + EVIL)
    (run.parent / "config.json").write_text('{"name": "<b>"}')
    options = SimpleNamespace(dir=folder, api_key=KEY)
    event = {"created_at": 1, "level": EVIL, "message": EVIL, "type": "message", "data": None}
    checkpoint = {"fine_tuned_model_checkpoint": EVIL, "step_number": 3, "metrics": {}}
    file = {"id": "file-1", "filename": EVIL, "bytes": 5, "purpose": EVIL, "created_at": 1}
    jobs = "/v1/fine_tuning/jobs"
    routes = [
        Route(jobs, lists(hostile_job("succeeded"), hostile_job(EVIL))),
        Route(f"{jobs}/{JOB}", one_job),
        Route(f"{jobs}/{JOB}/events", lists(event)),
        Route(f"{jobs}/{JOB}/checkpoints", lists(checkpoint)),
        Route("/v1/files", lists(file)),
        *pages.routes(SimpleNamespace(options=options)),
    ]
    app = Starlette(
        routes=routes, middleware=middleware(KEY, 1000), exception_handlers=exception_handlers()
    )
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, ws="none", log_config=None, access_log=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def get(server):
    with httpx.Client(base_url=f"http://{server}", auth=("any", KEY)) as client:
        yield client.get


@pytest.mark.parametrize("path", ["/", f"/jobs/{JOB}", "/files", "/graders"])
def test_a_page_lets_nothing_run_but_our_script(get, path):
    page = get(path)
    assert page.status_code == 200 and page_token(KEY) in page.text and KEY not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?://|<script>|style=| on\w+=", page.text), "offline, nothing inline"


def test_scripts_make_no_markup_and_go_nowhere_else():
    script = (Path(pages.__file__).parent / "app.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?:", script
    )


def test_a_job_has_report_settings_and_log(get):
    report = get(f"/jobs/{JOB}/report")
    assert report.text == "<p>the report</p>"
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts;")
    assert get(f"/jobs/{JOB}/settings").json() == {"name": "<b>"}
    log = get(f"/jobs/{JOB}/log")
    assert log.text.endswith(EVIL) and len(log.content) == 64 << 10
    assert log.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("job", ["ftjob-" + "0b" * 12, "..", "%2e%2e", "ftjob-..%2f..", "x"])
def test_other_places_are_not_read(get, job):
    for part in ("report", "settings", "log"):
        assert get(f"/jobs/{job}/{part}").status_code == 404
    assert get("/pages/shell.html").status_code == 404
    assert get("/pages/..%2f__init__.py").status_code == 404


def test_the_disk_is_told(get):
    assert get("/pages/state").json()["used"] > 100_000


@pytest.fixture(scope="module")
def draw(server, tmp_path_factory):
    """The document that a browser makes of a page."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(path, size="1200,900"):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=6000"]
        flags += ["--dump-dom", f"--user-data-dir={profile}", f"--window-size={size}"]
        done = subprocess.run(
            [chromium, *flags, f"http://any:{KEY}@{server}{path}"],
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout.decode()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", f"/jobs/{JOB}", "/files"])
def test_a_browser_shows_hostile_names_as_text(draw, path):
    began = time.monotonic()
    text = draw(path)
    assert time.monotonic() - began < 60
    assert "<title>rft serve</title>" in text
    assert "<img" not in text and "<svg" not in text and text.count("<script") == 1
    assert "&lt;img src=x onerror=" in text and "&lt;script&gt;" in text
    assert 'href="javascript' not in text


@pytest.mark.slow
def test_a_grader_can_be_edited(draw):
    text = draw("/graders", "500,900")
    assert "string_check" in text and "Validate" in text and "Run" in text
