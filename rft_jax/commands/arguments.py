"""Arguments that several commands share."""

import argparse
from pathlib import Path

from rft_jax.config import HostOptions

Subparsers = argparse._SubParsersAction  # argparse has no public name for it


def seed(text: str) -> int:
    """A seed, for argparse."""
    if not 0 <= (value := int(text)) < 2**32:
        raise argparse.ArgumentTypeError("must lie in 0 .. 2**32 - 1")
    return value


def add_model(parser: argparse.ArgumentParser, action: str = "store") -> None:
    """`--workdir` or `--model`."""
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--workdir", type=Path, help="a run; its last stage's model")
    either.add_argument(
        "--model", type=Path, action=action,
        help="a run, a stage WORKDIR/STAGE, WORKDIR/STAGE/checkpoints/STEP (or best), or a Hugging "
        "Face checkpoint, a directory or hf:Owner/Name; of a run or stage that was validated the "
        "best checkpoint is taken, but by bench the newest",
    )  # fmt: skip


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config`; its settings are taken out of the command line before (`entry`)."""
    parser.add_argument(
        "--config", required=True,
        help="experiment file with get_config(), or the name of one that comes with rft_jax, such "
        "as claims",
    )  # fmt: skip


def add_grader(parser: argparse.ArgumentParser) -> None:
    """`--grader`."""
    parser.add_argument(
        "--grader", required=True, help="JSON in OpenAI's format, or MODULE:NAME of a device_grader"
    )


def add_sandbox(parser: argparse.ArgumentParser) -> None:
    """`--no-sandbox` and `--tool`."""
    parser.add_argument(
        "--no-sandbox", dest="sandbox", action="store_false",
        help="run Python graders without isolation, where the kernel offers none",
    )  # fmt: skip
    parser.add_argument(
        "--tool", action="append", default=[], metavar="PATH",
        help="a program or folder that isolated Python graders may use, read-only; repeatable",
    )  # fmt: skip


def host_options(options: argparse.Namespace) -> HostOptions:
    """What graders on the host may use, by `add_sandbox`."""
    return HostOptions(sandbox=options.sandbox, tools=tuple(options.tool))
