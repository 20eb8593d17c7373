"""The public API: every name is there, and importing the package loads nothing else."""

import subprocess
import sys

import pytest

import rft_jax


@pytest.mark.parametrize("name", rft_jax.__all__)
def test_every_public_name_has_a_docstring(name):
    assert getattr(rft_jax, name).__doc__


def test_what_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = rft_jax.trian


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import rft_jax", "jax"),
        ("from rft_jax.commands.entry import _parser; _parser().format_help()", "jax"),
        ("import rft_jax.strings", "optax"),
    ],
)
def test_imports_stay_small(statement, absent):
    code = f"{statement}\nimport sys\nassert {absent!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
