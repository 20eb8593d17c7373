"""`rft export`: a model for other programs."""

import argparse
import sys
from pathlib import Path

from rft_jax.commands.arguments import Subparsers, add_model


def add_parser(commands: Subparsers) -> None:
    """The command's arguments."""
    parser = commands.add_parser("export", help="write a model for other programs")
    add_model(parser)
    parser.add_argument(
        "--format", choices=("hf", "peft", "gguf"), required=True,
        help="a directory for transformers, adapters merged; the adapter for PEFT; or one file for "
        "llama.cpp",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="new directory")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes the model."""
    from rft_jax.runs.export import export_model

    export_model(options.workdir or options.model, options.out, options.format, options.dtype)
    files = sorted(path for path in options.out.iterdir() if path.is_file())
    size = sum(path.stat().st_size for path in files)
    names = ", ".join(path.name for path in files)
    print(f"{options.out}: {size / 1e6:,.1f} MB in {names}", file=sys.stderr)
