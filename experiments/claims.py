"""The worked example: insurance claims, decided by a model of a third of a million parameters.

    rft train --config claims --workdir runs/claims

Settings, time and the result to expect are those of `jsonl.py`, which takes files of one's own.
"""

from rft_jax.config import Config
from rft_jax.config.load import load_config


def get_config() -> Config:
    """`jsonl.py` with the files of `experiments/claims`, which are its defaults."""
    return load_config("jsonl", {})
