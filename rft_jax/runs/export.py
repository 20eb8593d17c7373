"""Hands a fine-tuned model back as a directory that transformers loads: `rft export`."""

import json
import os
import shutil
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from rft_jax.config.overrides import to_json
from rft_jax.logging.metrics import read_metrics
from rft_jax.models import hugging_face
from rft_jax.runs.pretrained import base_source
from rft_jax.runs.run import OpenModel, open_model
from rft_jax.utils.errors import InputError

CARD = "README.md"


def export_model(
    path: Path, directory: Path, form: Literal["hf", "peft"] = "hf", dtype: str | None = None
) -> None:
    """Writes weights, configuration, tokenizer, templates and a model card.

    The directory gets its name when all is written.

    Args:
        path: as for `run.open_model`, of a model that came from a Hugging Face checkpoint.
        directory: created; must be empty.
        form: "hf" for all weights, with an adapter merged into them; "peft" for the adapter.
        dtype: "bfloat16" or "float32", of the weights; None: bfloat16, of an adapter float32.

    Raises:
        InputError: there is no such model, it was trained from scratch, has no adapter, or the
            directory is not empty.
    """
    hugging_face.check_empty(directory)
    model = open_model(path)
    source = model.run.sources.get(model.stage.model)
    if source is None:
        raise InputError(
            f"{path}: was trained from scratch and has no architecture of Hugging Face's; only "
            "models with a `source` can be exported"
        )
    if form == "peft" and source.config.lora is None:
        raise InputError(f"{path}: has no adapter; use --format hf for all weights")
    params = model.run.load_params(model.stage, model.step)
    decoder = model.run.model(model.stage)
    temporary = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if form == "peft":
        kind, base = jnp.dtype(dtype or "float32"), base_source(source.config)
        hugging_face.export_adapter(decoder, params, source.directory, base, temporary, dtype=kind)
    else:
        kind = jnp.dtype(dtype or "bfloat16")
        hugging_face.export(decoder, params, source.directory, temporary, dtype=kind)
    (temporary / CARD).write_text(_card(model, source.config.source), encoding="utf-8")
    os.replace(temporary, directory)


def _card(model: OpenModel, source: str) -> str:
    run, stage, step = model
    rows = read_metrics(run.directory(stage) / "metrics.jsonl")
    validated = [row for row in rows if "valid_reward_mean" in row]
    if step is not None:
        validated = [row for row in validated if row["step"] <= step]
    lines = [
        f"# {run.config.name}",
        "",
        f"{source}, fine-tuned with rft_jax; stage `{stage.name}`"
        + ("" if step is None else f", step {step}")
        + ".",
        "",
    ]
    if validated:
        first, last = validated[0], validated[-1]
        names = [name for name in last if name.startswith("valid_") and name in first]
        lines += [f"| validation | step {first['step']} | step {last['step']} |", "|---|---|---|"]
        lines += [f"| {name} | {first[name]} | {last[name]} |" for name in names]
        lines.append("")
    settings = json.dumps(to_json(stage), indent=2)
    return "\n".join([*lines, "Settings of the stage:", "", "```json", settings, "```", ""])
