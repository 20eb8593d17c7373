"""`rft`: parses the command line and runs one command.

Machine-readable output goes to stdout, one JSON value a line; progress and errors go to stderr.
Exit status: 0 when the thing asked for was done, 2 for a usage or input error.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

from rft_jax.commands import (
    bench,
    eval,
    export,
    grade,
    plan,
    quickstart,
    sample,
    show,
    train,
    validate,
)
from rft_jax.config import GPU_MEMORY_FRACTION
from rft_jax.utils.errors import InputError, Interrupted, RunFailed

COMMANDS = (quickstart, train, eval, sample, export, grade, validate, plan, show, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs one command."""
    began = time.perf_counter()
    arguments, overrides = split_overrides(sys.argv[1:] if argv is None else list(argv))
    parser = _parser()
    sys.path.insert(0, os.getcwd())  # for modules that an experiment or a grader names
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises what it logs
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the older name, refused beside it
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(GPU_MEMORY_FRACTION))
    try:
        options = parser.parse_args(arguments)
        if overrides and "config" not in options:
            parser.error(f"{options.command} takes no --config.* settings")
        options.overrides, options.began = overrides, began
        options.run(options)
    except InputError as error:
        print(f"rft {options.command}: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"rft {options.command}: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"rft {options.command}: {error}; start the same command to go on", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:  # before there is anything to save
        print(f"rft {options.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--config.a.b=value` (or `--config.a.b value`) out of the command line."""
    rest, overrides = [], {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--config.").partition("=")
        overrides[name] = value if equals else next(words, "")
    return rest, overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rft", description="Reinforcement fine-tuning in JAX.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
