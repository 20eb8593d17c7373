"""The TensorFlow Datasets builder writes array_record without TensorFlow."""

import functools
import http.server
import sys
import threading

import pytest

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("importlib_resources")

from rft_jax.tasks.rare_disease import phenopackets, prompts, tfds_builder  # noqa: E402


@pytest.fixture
def archive(write_archive, make_packet):
    packets = [make_packet(f"case {n}", f"G{n}", f"PMID:{n}", variant=f"{n}") for n in range(1, 9)]
    return write_archive([*packets, make_packet("unscorable", present=())])


def prepared(tmp_path, **options):
    builder = tfds_builder.RareDisease(
        data_dir=tmp_path / "tfds",
        file_format="array_record",
        train_cases=4,
        valid_cases=2,
        **options.pop("builder", {}),
    )
    builder.download_and_prepare(**options)
    return builder


def as_item(example):
    """An example as the JSON line of the same case."""
    roles, contents = example["messages"]["role"], example["messages"]["content"]
    messages = [
        {"role": role.decode(), "content": content.decode()}
        for role, content in zip(roles, contents, strict=True)
    ]
    fields = {key: example[key].decode() for key in ("gene", "case_id", "pmid")}
    return {"messages": messages, "aliases": list(example["aliases"]), **fields}


def test_examples_are_the_items_of_the_cases(archive, tmp_path):
    builder = prepared(tmp_path, builder={"archive": archive})
    sources = {name: builder.as_data_source(name) for name in ("train", "validation", "cases")}
    assert {name: len(source) for name, source in sources.items()} == {
        "train": 4,
        "validation": 2,
        "cases": 8,
    }
    written = sorted((as_item(e) for e in sources["cases"]), key=lambda r: r["case_id"])
    cases = [case for case in phenopackets.load_cases(archive) if case.scorable]
    expected = [prompts.item(case, prompts.PromptOptions()) for case in cases]
    assert written == sorted(expected, key=lambda r: r["case_id"])
    train, valid = ({e["gene"] for e in sources[name]} for name in ("train", "validation"))
    assert not train & valid
    assert list((tmp_path / "tfds").rglob("*.array_record*"))
    assert "tensorflow" not in sys.modules


def test_the_published_archive_is_downloaded(archive, tmp_path, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setattr(tfds_builder, "ARCHIVE_URL", url)
        builder = prepared(tmp_path, download_dir=tmp_path / "downloads")
        server.shutdown()
    assert len(builder.as_data_source("cases")) == 8


def test_a_copy_in_the_manual_directory_is_used(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_builder, "ARCHIVE_URL", "http://127.0.0.1:9/unreachable")
    config = tfds.download.DownloadConfig(manual_dir=archive.parent)
    builder = prepared(tmp_path, download_config=config)
    assert len(builder.as_data_source("cases")) == 8
