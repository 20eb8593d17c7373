"""`rft quickstart`: the embedded demonstration."""

import argparse
from pathlib import Path

from rft_jax.commands.arguments import Subparsers, seed
from rft_jax.commands.output import tell_next
from rft_jax.config.overrides import apply_overrides


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "quickstart", help="the embedded demonstration, in minutes on a laptop's CPU"
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--seed", type=seed, default=0)
    parser.set_defaults(run=run, config=None)


def run(options: argparse.Namespace) -> None:
    """Trains and shows the demonstration."""
    from rft_jax.quickstart import get_config
    from rft_jax.report import show_run
    from rft_jax.training import train

    train(apply_overrides(get_config(options.seed), options.overrides), options.workdir)
    tell_next(options.workdir)
    show_run(options.workdir)
