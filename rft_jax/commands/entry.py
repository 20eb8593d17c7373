"""`rft`: parses the command line and runs one command.

What was asked for goes to stdout: tables on a terminal, one JSON value a line elsewhere; progress
and errors go to stderr. Exit status: 0 when the thing asked for was done; 1 when it failed, or what
was checked did not pass; 2 for a usage or input error; 128 and its number for a signal.
"""

import argparse
import dataclasses
import io
import itertools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence

import rft_jax
from rft_jax.commands import (
    bench,
    eval,
    export,
    grade,
    plan,
    quickstart,
    record,
    sample,
    serve,
    show,
    train,
    validate,
)
from rft_jax.config import GPU_MEMORY_FRACTION, Config
from rft_jax.config.elsewhere import setting_for
from rft_jax.utils.errors import InputError, Interrupted, RunFailed
from rft_jax.utils.suggestions import did_you_mean

COMMANDS = (
    quickstart,
    train,
    eval,
    sample,
    export,
    grade,
    validate,
    plan,
    show,
    bench,
    serve,
    record,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs one command."""
    began = time.perf_counter()
    arguments, overrides = split_overrides(sys.argv[1:] if argv is None else list(argv))
    parser = _parser()
    _check_command(parser, arguments)
    _check_options(parser, arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # signs of tables that the encoding lacks
        sys.stdout.reconfigure(errors="replace")
    sys.path.insert(0, os.getcwd())  # for modules that an experiment or a grader names
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax raises what it logs
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the older name, refused beside it
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(GPU_MEMORY_FRACTION))
    # XLA's banner on a compilation of minutes is logged as an error; true ones are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        options = parser.parse_args(arguments)
        if overrides and "config" not in options:
            parser.error(f"{options.command} takes no --config.* settings")
        options.overrides, options.began = overrides, began
        _check_environment()
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
    except (RuntimeError, AssertionError) as error:
        if not (os.environ.get("JAX_PLATFORMS") and _has_no_device(error)):
            raise
        print(
            f"rft {options.command}: JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: there is no such "
            "device here, or JAX was installed without its support; unset it, or set it to cpu",
            file=sys.stderr,
        )
        return 2
    return 0


def _check_command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuses a command that does not exist, with the one that may be meant."""
    names = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        remedy = did_you_mean(arguments[0], names) or f"use one of {', '.join(names)}"
        parser.error(f"there is no command {arguments[0]!r}; {remedy}")


def _check_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuses an option that the command does not have, with the one that may be meant.

    argparse would name the required ones that are missing, and not what is misspelled.
    """
    command = _commands(parser).get(arguments[0]) if arguments else None
    if command is None:
        return
    known = list(command._option_string_actions)  # argparse has no public name for it
    known += ["--config."] if "--config" in known else []
    for before, word in itertools.pairwise(arguments):
        flag = word.partition("=")[0]
        if word == "--":
            return
        if any(name.startswith(flag) for name in known):
            continue
        of_option = before.startswith("--") and "=" not in before
        if "--config." in known and (flag.startswith("--") or "=" in word and not of_option):
            if meant := _setting_meant(flag.removeprefix("--")):
                command.error(f"there is no option {flag}; did you mean --config.{meant}?")
        if not flag.startswith("--"):
            continue
        name, dot, setting = flag.partition(".")
        remedy = did_you_mean(name + dot, [n for n in known if len(n) > 3]).removesuffix("?")
        if remedy:
            command.error(f"there is no option {flag}; {remedy}{setting}?")


def _setting_meant(name: str) -> str:
    """The setting that is meant by a name without `config.`, or by one of another system."""
    settings = [field.name for field in dataclasses.fields(Config)]
    return name if name.partition(".")[0] in settings else setting_for(name)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands' parsers by name."""
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(subparsers.choices)


def _check_environment() -> None:
    """Refuses what JAX would end in a traceback for.

    Raises:
        InputError: The variable is no number.
    """
    count = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    if not count.isdecimal() or int(count) < 1:
        raise InputError(f"JAX_NUM_CPU_DEVICES: {count!r} is no number from 1; correct or unset it")


def _has_no_device(error: BaseException) -> bool:
    """Whether JAX raised it when it looked for its devices."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(f.name == "backends" and f.filename.endswith("xla_bridge.py") for f in frames)


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
    parser.add_argument("--version", action="version", version=f"rft_jax {rft_jax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
