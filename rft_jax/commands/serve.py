"""`rft serve`: OpenAI's fine-tuning API over models of this machine."""

import argparse
from pathlib import Path

from rft_jax.commands.arguments import Subparsers


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "serve", help="serve OpenAI's fine-tuning API",
        epilog="The key is $RFT_API_KEY, or that of DIR/api_key, which is made at the first start.",
    )  # fmt: skip
    parser.add_argument("--dir", required=True, type=Path, help="data of the server; made if new")
    parser.add_argument(
        "--model", action="append", required=True, type=_named_model, metavar="NAME=SOURCE",
        help="a base model: a run, WORKDIR[/STAGE[/checkpoints/STEP]], or an experiment "
        "FILE.py[:VARIANT] whose model is a Hugging Face checkpoint; repeatable",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-file-bytes", type=_positive, default=512 << 20, metavar="BYTES")
    parser.add_argument(
        "--python-timeout", type=_seconds, default=120.0, metavar="SECONDS",
        help="the longest that a Python grader may take for an answer; default: 120",
    )  # fmt: skip
    parser.add_argument(
        "--judge-url", default="", metavar="URL",
        help="a server in OpenAI's format for graders that ask a model",
    )  # fmt: skip
    parser.add_argument(
        "--inference-url", default="", metavar="URL", help="a server that answers instead of ours"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST",
        help="a host besides this one that webhooks may go to by http; repeatable",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serves until SIGTERM."""
    import os

    from rft_jax.config import GPU_MEMORY_FRACTION
    from rft_jax.utils.errors import InputError

    environment = dict(os.environ)
    if environment.get("XLA_CLIENT_MEM_FRACTION") == str(GPU_MEMORY_FRACTION):
        del environment["XLA_CLIENT_MEM_FRACTION"]  # `rft`'s default is for a device of its own
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process must not hold a device
    os.umask(0o077)
    try:
        from rft_jax.serve.start import serve
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; `pip install rft_jax[serve]`") from None
    serve(
        folder=options.dir,
        base_models=tuple(options.model),
        host=options.host,
        port=options.port,
        max_file_bytes=options.max_file_bytes,
        python_timeout_s=options.python_timeout,
        judge_url=options.judge_url,
        inference_url=options.inference_url,
        allow_hosts=tuple(options.allow_host),
        environment=environment,
    )


def _named_model(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not equals or not name or not source:
        raise argparse.ArgumentTypeError("must be NAME=SOURCE")
    if len(name) > 200 or name != name.strip("/ ") or any(ord(c) <= 32 for c in name):
        raise argparse.ArgumentTypeError(f"{name!r} cannot be the name of a model")
    return name, source


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    if not 0 < (value := float(text)) < 1e6:
        raise argparse.ArgumentTypeError("must be above 0")
    return value
