"""`rft train`: an experiment, from its beginning or from where it was left."""

import argparse
from pathlib import Path

from rft_jax.commands.arguments import Subparsers, add_config
from rft_jax.commands.output import tell_next


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "train", help="run an experiment, or go on with it", add_help=False,
        usage="rft train --config FILE --workdir DIR [--config.SETTING=VALUE ...]",
    )  # fmt: skip
    parser.add_argument("-h", "--help", action=_HelpWithSettings, nargs=0)
    add_config(parser)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.set_defaults(run=run)


class _HelpWithSettings(argparse.Action):
    """`--help` with every setting at its end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from rft_jax.config.help import settings_text

        parser.print_help()
        print(f"\n{settings_text()}", flush=True)
        parser.exit()


def run(options: argparse.Namespace) -> None:
    """Trains, on all hosts of a launcher together."""
    from rft_jax.config.load import load_config
    from rft_jax.parallel import distributed_session, is_first, raise_on_all_hosts
    from rft_jax.training import train

    with distributed_session():
        with raise_on_all_hosts():
            config = load_config(options.config, options.overrides)
        train(config, options.workdir, options.began)
        if is_first() and config.training_stages:
            tell_next(options.workdir)
