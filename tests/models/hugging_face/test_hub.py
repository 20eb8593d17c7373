"""Names of models on the Hub: found in the cache, or one sentence that says why not."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from rft_jax.models.hugging_face import locate
from rft_jax.utils.errors import InputError


def refused(name):
    with pytest.raises(InputError) as error:
        locate(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_directory_is_itself():
    assert locate("models/mine") == Path("models/mine")


def test_a_model_of_the_cache_is_found_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--Owner--Name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    assert locate("hf:Owner/Name") == snapshot
    assert locate(f"hf:Owner/Name@{'0' * 40}") == snapshot


def test_without_network_and_cache_the_remedy_is_a_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert refused("hf:Owner/Name") == (
        "hf:Owner/Name: cannot be downloaded without a network and is not in the cache; download "
        "it elsewhere and give its directory instead"
    )


def test_a_name_that_cannot_be_one_is_explained():
    assert refused("hf:a/b/c") == "hf:a/b/c: expected hf:Owner/Name, e.g. hf:Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    "kind, sentence",
    [
        (errors.GatedRepoError, "accept its license at https://huggingface.co/Owner/Name"),
        (errors.RepositoryNotFoundError, "no such model, or it is private"),
        (errors.RevisionNotFoundError, "the model has no revision 'v2'"),
        (errors.HfHubHTTPError, "the download failed (500 Server Error); try again"),
        (ConnectionResetError, "the download failed (500 Server Error); try again"),
    ],
)
def test_a_refused_download_says_why(kind, sentence, monkeypatch):
    def snapshot_download(*_, **__):
        error = kind.__new__(kind)
        error.args = ("500 Server Error\nRequest ID: 1",)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert sentence in refused("hf:Owner/Name@v2")
