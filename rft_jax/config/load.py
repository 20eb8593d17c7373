"""Experiment files: Python with `get_config() -> Config`.

config = load_config("experiments/jsonl.py", {"stages.rft.steps": "200"})
config = load_config("claims", {})  # an experiment that comes with the package
"""

import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from rft_jax.config.elsewhere import remedy, setting_for
from rft_jax.config.overrides import apply_overrides
from rft_jax.config.schema import Config
from rft_jax.utils.errors import InputError

# In an installed package they lie in it, in a clone beside it.
_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "experiments", _PACKAGE.parent / "experiments")


def load_config(path: str, overrides: Mapping[str, str]) -> Config:
    """The configuration of an experiment file, with settings replaced.

    Args:
        path: The file, or the name of one that comes with the package (`claims`), each with
            `:VARIANT` behind it for `get_config("VARIANT")`.
        overrides: Settings by their dotted names, as text.

    Raises:
        InputError: If the file is no experiment or a setting does not exist.
    """
    file, variant = _locate(path)
    if not file.is_file():
        known = ", ".join(sorted(file.stem for file in shipped_experiments()))
        raise InputError(
            f"{path}: there is no such experiment file; those that come with rft_jax are {known}"
        )
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: an experiment is a Python file; its name ends with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for `overrides.from_json` of data classes of its own
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(f"{path}: an experiment file defines get_config(); this one does not")
        config = module.get_config(variant) if variant else module.get_config()
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: not Python ({error.msg})") from None
    except InputError:
        raise
    except Exception as error:  # whatever a user's file raises
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((frame.lineno for frame in frames if frame.filename == spec.origin), "?")
        name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        meant = setting_for(name[1]) if name else ""
        advice = remedy(name[1], meant) if name and meant else "correct it"
        raise InputError(
            f"{path}: failed at line {line} ({type(error).__name__}: {error}); {advice}"
        ) from None
    if not isinstance(config, Config):
        raise InputError(f"{path}: get_config() must return a rft_jax.config.Config")
    return apply_overrides(config, overrides)


def shipped_experiments() -> list[Path]:
    """The experiment files that come with the package."""
    files = [file for folder in _FOLDERS for file in folder.glob("*.py")]
    return [file for file in files if "def get_config(" in file.read_text(encoding="utf-8")]


def _locate(path: str) -> tuple[Path, str]:
    """The file and the variant of a path; a bare name is that of a shipped experiment."""
    name, _, variant = path.partition(".py:")
    if variant:
        return Path(f"{name}.py"), variant
    if path.endswith(".py") or Path(path).exists():
        return Path(path), ""
    name, _, variant = path.partition(":")
    found = [folder / f"{name}.py" for folder in _FOLDERS if (folder / f"{name}.py").is_file()]
    return (found[0] if found else Path(path)), variant
