"""report.html: nothing that a model wrote is markup; one file; what a browser makes of it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rft_jax.report import Reporter, html, write_report
from rft_jax.report.history import MAX_SAMPLES, read_run

HOSTILE = [
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
    "<!--<script>",
    "]]>&lt;b&gt;&amp;\u2028\u2029\x00\x1b[31m\ud800",
    "@@data@@ @@script@@ \\1 \\u003c",
    "'\"`${document.title = 'owned'}",
]


class Page(HTMLParser):
    """The elements of a page, their attributes, and the text of each script and style."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.texts[-1] += text

    @property
    def style(self):
        return self.texts[0]

    @property
    def data(self):
        return json.loads(self.texts[1])

    @property
    def script(self):
        return self.texts[2]


@pytest.fixture
def hostile(make_run, rows, sample, results):
    """A run in which every text is an attack."""
    samples = [
        sample(
            prompt=[{"role": text, "content": text}],
            thought=text,
            answer=text,
            scores={text: 0.5},
            errors=[text],
        )
        for text in HOSTILE
    ]
    for row in rows:
        row |= {f"train_{text}": 1.0 for text in HOSTILE}
    evaluation = results["evaluations"].pop("genes_unseen")
    for text in HOSTILE:
        evaluation["models"][text] = {text: 0.5, "note": text}
        results["evaluations"][text] = evaluation
    return make_run(rows, {10: samples}, results, name=HOSTILE[0])


def read(path):
    return path.read_text(encoding="utf-8")


def test_what_a_model_wrote_is_never_markup(hostile):
    text = read(write_report(hostile))
    page = Page(text)
    shown = [group["samples"][0]["answer"] for group in page.data["groups"]]
    assert shown == [text.replace("\ud800", "?") for text in HOSTILE]
    template = (Path(html.__file__).parent / "page.html").read_text()
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(template).elements]
    assert text.count("</script>") == 2 and "<!--" not in text
    (title,) = re.findall("<title>(.*)</title>", text)
    assert title.startswith("&lt;/script&gt;")


def test_the_page_allows_its_own_script_and_style_only(make_run, rows):
    page = Page(read(write_report(make_run(rows))))
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )

    def digest(text):
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest(page.style)}'; "
        f"script-src 'sha256-{digest(page.script)}'"
    )
    assert not re.search(r"\.(innerHTML|outerHTML|insertAdjacent|write\()|eval\(", page.script)


def test_the_page_needs_no_other_file(make_run, rows, sample):
    page = Page(read(write_report(make_run(rows, {10: [sample()]}))))
    for _, attributes in page.elements:
        assert "src" not in attributes and attributes.get("href", "#").startswith("#")
    assert re.findall("https?://[^\"']*", page.script) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in page.style and "@import" not in page.style


def test_samples_of_a_prompt_share_it(make_run, rows, sample):
    lines = [sample(), sample(), sample(prompt=[{"role": "user", "content": "another"}])]
    data = html.page_data(read_run(make_run(rows, {10: lines, 20: lines})))
    assert [group["prompt"] for group in data["groups"]] == [0, 1, 0, 1]
    assert [message["content"] for (message,) in data["prompts"]] == ["a question", "another"]
    assert data["sampling"] == ["rft: all 6 samples that the run wrote down."]


def test_the_models_answers_to_a_case_stand_together(make_run, rows, cases):
    data = html.page_data(read_run(make_run(rows, cases=cases)))
    assert [(group["stage"], group["step"]) for group in data["groups"]] == [("unseen", None)] * 2
    for group in data["groups"]:
        assert [sample["model"] for sample in group["samples"]] == ["base", "tuned"]
    assert data["sampling"] == ["unseen: the first 2 cases."]


def test_reward_and_audit_are_in_one_chart_and_where_they_differ_below(make_run, rows, sample):
    for row in rows[::20]:
        row |= {"valid_audit/reward_mean": 0.5, "valid_answers/bytes_mean": 7.0}
    audit = {20 * k: [sample(1.0, audit=0.0, answer=f"{k}")] for k in range(1, 21)}
    data = html.page_data(read_run(make_run(rows, audit=audit)))
    (stage,) = (stage for stage in data["stages"] if stage["name"] == "rft")
    first = stage["sections"][0]["charts"][0]
    assert "valid_audit/reward_mean" in [curve["name"] for curve in first["series"]]
    assert "Form of the answers" in [section["title"] for section in stage["sections"]]
    assert len(data["audit"]) == 8 and data["audit"][-1]["step"] == 400
    assert data["audit"][-1]["samples"][0]["audit"] == 0 and data["groups"] == []


def test_the_same_run_gives_the_same_report(make_run, rows, sample):
    path = write_report(make_run(rows, {10: [sample()]}))
    first = path.read_bytes()
    assert write_report(path.parent).read_bytes() == first
    assert not list(path.parent.glob("*.tmp"))


def test_reports_of_a_running_run_stay_within_their_share_of_its_time(monkeypatch, tmp_path):
    now, written = 0.0, []

    def write(workdir):
        nonlocal now
        now += 0.2
        written.append(now)

    monkeypatch.setattr(html, "write_report", write)
    monkeypatch.setattr(html.time, "perf_counter", lambda: now)
    reporter = Reporter(tmp_path)
    for _ in range(1000):
        now += 1.0
        reporter.update()
    assert 20 <= len(written) <= 26  # of 0.2 s each, in 1005 s
    reporter.finish()
    assert written[-1] == now


def test_a_full_disk_does_not_stop_a_run(make_run, rows, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rft_jax.utils.files.os.replace", full)
    Reporter(make_run(rows)).update()
    assert "No space left on device" in capsys.readouterr().err


# ---- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_page(tmp_path_factory):
    """The document that a browser makes of a report, after its script has run."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(path, query="", size="1280,900"):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        address = f"{path.as_uri()}{query}"
        done = subprocess.run(
            [chromium, *flags, f"--user-data-dir={profile}", f"--window-size={size}", address],
            capture_output=True,
            timeout=120,
            check=True,
        )
        return re.sub("<script.*?</script>", "", done.stdout.decode(), flags=re.DOTALL)

    return run


def count(text):
    """(samples, prompts) that the page says it found."""
    found = re.search(r'role="status">([\d,]+) samples? of ([\d,]+) prompts?<', text)
    return tuple(int(number.replace(",", "")) for number in found.groups())


@pytest.mark.slow
def test_a_browser_draws_a_hostile_run_as_text(hostile, open_page):
    text = open_page(write_report(hostile))
    assert "data-ready=" in text and "owned</title>" not in text
    assert "<img" not in text and "<script" not in text
    assert "&lt;img src=x onerror=" in text and "&lt;/script&gt;&lt;script&gt;" in text
    assert count(text) == (len(HOSTILE), len(HOSTILE))


@pytest.mark.slow
def test_a_browser_draws_curves_comparison_and_samples(make_run, rows, sample, results, open_page):
    text = open_page(write_report(make_run(rows, {10: [sample()]}, results)))
    for title in ("Mean reward", "exact", "Loss", "surprise", "small rft", "Paired differences"):
        assert title in text
    assert "train_loss: not finite at 1 steps" in text
    assert "Mean reward. training: 0.0040 at step 1, 0.400 at step 100; validation: 0.200" in text
    assert text.count("<svg") > 6 and "NaN" not in text and "[object" not in text


@pytest.mark.slow
def test_a_browser_filters_samples_by_the_address(make_run, rows, sample, open_page):
    def lines(k):
        question = [{"role": "user", "content": f"question {k}"}]
        return [sample(r / 4, prompt=question, errors=["x_error"][: r == 0]) for r in range(5)]

    path = write_report(make_run(rows, {10: lines(1) + lines(2), 20: lines(3)}))
    for query, expected in {
        "": (15, 3),
        "#samples?step=10": (10, 2),
        "#samples?step=20&from=0.7": (2, 1),
        "#samples?to=0.3&error=none": (3, 3),
        "#samples?error=x_error": (3, 3),
        "#samples?text=QUESTION+2": (5, 1),
        "#samples?text=nothing": (0, 0),
    }.items():
        assert count(open_page(path, query)) == expected, query


@pytest.mark.slow
def test_a_browser_shows_models_side_by_side(make_run, rows, sample, cases, open_page):
    path = write_report(make_run(rows, {10: [sample()]}, cases=cases))
    text = open_page(path)
    assert count(text) == (5, 3) and "Evaluation</b>" in text and "Step 10</b>" in text
    assert text.index("Evaluation</b>") < text.index("Step 10</b>")  # the newest
    assert re.findall('aria-label="(base|tuned), reward', text) == ["base", "tuned"] * 2
    assert count(open_page(path, "#samples?step=10")) == (1, 1)


@pytest.mark.slow
def test_a_run_without_steps_says_so(make_run, open_page):
    workdir = make_run()
    shutil.rmtree(workdir / "sft")
    assert "No step is done yet." in open_page(write_report(workdir))


@pytest.mark.slow
@pytest.mark.parametrize("length", [20, 3000])  # of a thought, in characters
def test_a_long_run_gives_a_small_report(length, make_run, rows, sample, open_page):
    names = [f"train_details/grader/{k}" for k in range(40)]
    long = [
        {"step": k, "timing": {"full_iteration": 1.0}, "train_reward_mean": k % 97 / 97}
        | {name: (k * (i + 7)) % 1009 / 1009 for i, name in enumerate(names)}
        for k in range(10_001)
    ]
    dumps = {
        20 * d: [
            sample(s / 10, prompt=[{"role": "user", "content": f"{d} {g}"}], thought="ü" * length)
            for g in range(10)
            for s in range(10)
        ]
        for d in range(1, 501)
    }
    path = write_report(make_run(long, dumps))
    assert path.stat().st_size < 20_000_000
    groups = Page(read(path)).data["groups"]
    assert len({group["step"] for group in groups}) == 64
    shown = sum(len(group["samples"]) for group in groups)
    assert 640 <= shown <= MAX_SAMPLES
    assert count(open_page(path))[0] == shown
