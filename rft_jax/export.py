"""Hands a fine-tuned model back as a directory that transformers loads: `rft export`."""

import json
from pathlib import Path

import jax.numpy as jnp

from rft_jax.config import to_json
from rft_jax.errors import InputError
from rft_jax.metrics import read_metrics
from rft_jax.models import hugging_face
from rft_jax.run import OpenModel, open_model

CARD = "README.md"


def export_model(path: Path, directory: Path, dtype: str = "bfloat16") -> None:
    """Writes weights, configuration, tokenizer, templates and a model card.

    Args:
        path: as for `run.open_model`, of a model that came from a Hugging Face checkpoint.
        directory: created; must be empty.
        dtype: "bfloat16" or "float32", of the weights.

    Raises:
        InputError: there is no such model, it was trained from scratch, or the directory is not
            empty.
    """
    model = open_model(path)
    source = model.run.sources.get(model.stage.model)
    if source is None:
        raise InputError(
            f"{path}: was trained from scratch and has no architecture of Hugging Face's; only "
            "models with a `source` can be exported"
        )
    params = model.run.load_params(model.stage, model.step)
    decoder = model.run.model(model.stage)
    hugging_face.export(decoder, params, source.directory, directory, dtype=jnp.dtype(dtype))
    (directory / CARD).write_text(_card(model, source.config.source), encoding="utf-8")


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
