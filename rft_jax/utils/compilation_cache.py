"""Compiled programs are kept on disk, so that the same command starts faster the next time."""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from rft_jax.utils.console import log


def use_compilation_cache(directory: str | None) -> None:
    """Lets jax read programs that took a second or more to compile from a folder, and add to it.

    What is read is the executable that was written, so that results stay the same bit for bit.

    Args:
        directory: The folder, made if needed; empty: none. None: the one that jax has been given
            already, as by JAX_COMPILATION_CACHE_DIR, else `default_directory()`.
    """
    given = jax.config.values["jax_compilation_cache_dir"]
    if directory is None:
        directory = given or str(default_directory())
    if problem := _problem(directory):
        log(
            f"warning: {directory}: compiled programs cannot be kept there ({problem}); set "
            "compilation_cache to another folder, or empty for none"
        )
        directory = ""
    if directory != (given or ""):
        jax.config.update("jax_compilation_cache_dir", directory or None)
        reset_cache()  # jax looks for the setting only once, when it first compiles


def _problem(directory: str) -> str:
    """Why a folder cannot be made; empty where it can, or is none of this machine's."""
    if directory and "://" not in directory:
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return error.strerror or str(error)
    return ""


def folder(name: str) -> Path | None:
    """A folder within that of the compiled programs, for what else takes long; None: not kept."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    if not directory or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    return Path(directory) / name


def default_directory() -> Path:
    """The user's own folder, by the XDG base directory specification."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "rft_jax" / "compilations"
