"""Finds a checkpoint: a directory, or `hf:Owner/Name`, which is downloaded once."""

from pathlib import Path

from rft_jax.utils.errors import InputError

PREFIX = "hf:"
# Weights, configuration and tokenizer; not the same weights in other formats.
FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*")
OTHER_FILES = ("*/*", "consolidated*")  # copies of the weights for other programs


def locate(name: str) -> Path:
    """The directory of a checkpoint.

    Args:
        name: A directory, or `hf:Owner/Name`, with `@REVISION` behind it if wanted. A download
            goes to the cache of huggingface_hub and is found there the next time.

    Raises:
        InputError: if it cannot be downloaded and is not in the cache, saying why.
    """
    if not name.startswith(PREFIX):
        return Path(name)
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise InputError(f"{name}: `pip install huggingface_hub` to download models") from error
    try:
        path = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=FILES,
            ignore_patterns=OTHER_FILES,
        )
    except HFValidationError as error:
        raise InputError(f"{name}: expected hf:Owner/Name, e.g. hf:Qwen/Qwen3-0.6B") from error
    except GatedRepoError as error:
        raise InputError(
            f"{name}: the model is gated; accept its license at "
            f"https://huggingface.co/{repository} and log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name}: the model has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: Hugging Face has no such model, or it is private and needs `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{name}: cannot be downloaded without a network and is not in the cache; download it "
            "elsewhere and give its directory instead"
        ) from error
    except OSError as error:  # among them every error of the server or of the connection
        raise InputError(
            f"{name}: the download failed ({_first_line(error)}); try again"
        ) from error
    return Path(path)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
