"""Hands a fine-tuned model back, for transformers, PEFT or llama.cpp: `rft export`."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

import jax.numpy as jnp

from rft_jax.config import SamplingStage
from rft_jax.config.overrides import to_json
from rft_jax.models import Params, hugging_face
from rft_jax.models.gguf import FILE, export_gguf, find_architecture
from rft_jax.runs.checkpoint import METRIC
from rft_jax.runs.export_record import RECORD_FILE, ExportRecord, write_record
from rft_jax.runs.pretrained import DATE_FILE, Source, base_source
from rft_jax.runs.reopen import OpenModel, open_best
from rft_jax.tokenizers import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    gguf_vocabulary,
)
from rft_jax.tokenizers.spm_export import write_tokenizer
from rft_jax.tokenizers.stop_files import write_stops
from rft_jax.utils.errors import InputError
from rft_jax.utils.metrics_file import METRICS_FILE, read_metrics

CARD = "README.md"
Form: TypeAlias = Literal["hf", "peft", "gguf"]


def export_model(path: Path, directory: Path, form: Form = "hf", dtype: str | None = None) -> None:
    """Writes weights, configuration, tokenizer, templates, stop tokens and a model card.

    The directory gets its name when all is written. A model that was trained from scratch is
    written as the Llama or Qwen that computes the same.

    Args:
        path: As for `reopen.open_best`.
        directory: Created; must be empty.
        form: "hf" for all weights, with an adapter merged into them; "peft" for the adapter;
            "gguf" for all in one file, tokenizer and chat template too.
        dtype: "bfloat16", "float16" or "float32", of the weights; None: bfloat16, but float32 of an
            adapter and of a model that was trained from scratch.

    Raises:
        InputError: There is no such model, it has no adapter, transformers has no architecture
            with its options, or GGUF none, or the directory is not empty.
    """
    hugging_face.check_empty(directory)
    model = open_best(path)
    source, tokenizer = model.run.sources.get(model.stage.model), model.run.tokenizer
    if form == "peft" and (source is None or source.config.lora is None):
        raise InputError(f"{path}: has no adapter; export all weights instead")
    temporary = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        described = _describe(model, Path(scratch)) if source is None else source.directory
        decoder = model.run.model(model.stage)
        params = model.run.load_params(model.stage, model.step)
        default = "float32" if source is None else "bfloat16"
        if form == "gguf":
            _write_gguf(model, params, described, temporary, dtype or default)
        elif source is not None and form == "peft":
            kind, base = jnp.dtype(dtype or "float32"), base_source(source.config)
            hugging_face.export_adapter(decoder, params, described, base, temporary, dtype=kind)
        else:
            kind = jnp.dtype(dtype or default)
            hugging_face.export(decoder, params, described, temporary, dtype=kind)
    if isinstance(tokenizer, HuggingFaceTokenizer) and form != "gguf":
        write_stops(tokenizer, temporary)
    (temporary / DATE_FILE).unlink(missing_ok=True)  # is in the record
    write_record(_record(model, source), temporary)
    (temporary / CARD).write_text(_card(model, source), encoding="utf-8")
    os.replace(temporary, directory)


def _write_gguf(
    model: OpenModel, params: Params, described: Path, directory: Path, dtype: str
) -> None:
    """One file in a new directory.

    Raises:
        InputError: The format has no place for the model or its tokenizer.
    """
    decoder, tokenizer = model.run.model(model.stage), model.run.tokenizer
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        tokenizer = HuggingFaceTokenizer(described, decoder.vocab_size)
    named = find_architecture(described, decoder.config).name
    vocabulary = gguf_vocabulary(tokenizer, named)
    directory.mkdir(parents=True)
    file = directory / FILE
    export_gguf(decoder, params, described, vocabulary, file, dtype=jnp.dtype(dtype))


def _describe(model: OpenModel, directory: Path) -> Path:
    """Fills a directory with what stands for the source of a model that was trained from scratch.

    Raises:
        InputError: As `export_model`.
    """
    run, stage, _ = model
    tokenizer, longest = run.tokenizer, _longest(model)
    vocab_size = run.model(stage).vocab_size
    settings = hugging_face.describe(run.model_config(stage), vocab_size, longest)
    if isinstance(tokenizer, SentencePieceTokenizer):
        write_tokenizer(tokenizer, directory, longest)
        settings |= {"bos_token_id": tokenizer.bos_id}
    else:  # of another model of the run, which has a source
        hugging_face.copy_description(run.tokenizer_path.parent, directory)
    settings |= {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
    text = json.dumps(settings, indent=2)
    (directory / hugging_face.CONFIG_FILE).write_text(f"{text}\n", encoding="utf-8")
    return directory


def _longest(model: OpenModel) -> int:
    """Tokens of the longest sequence that the run's stages let the model see."""
    lengths = [
        stage.rollout.max_prompt_tokens + stage.rollout.max_completion_tokens
        if isinstance(stage, SamplingStage)
        else stage.max_row_tokens
        for stage in model.run.config.training_stages
        if stage.model == model.stage.model
    ]
    return max(lengths)


def _record(model: OpenModel, source: Source | None) -> ExportRecord:
    sampling = model.sampling
    return ExportRecord(
        completion_tokens=None if sampling is None else sampling.max_completion_tokens,
        thinking_tokens=None if sampling is None else sampling.thinking_tokens,
        thinking=None if source is None else model.run.config.tokenizer.thinking,
        date=None if source is None else source.date.isoformat(),
    )


def _card(model: OpenModel, source: Source | None) -> str:
    run, stage, step = model
    name = "A small model" if source is None else source.config.source
    origin = "trained from scratch" if source is None else "fine-tuned"
    at = "" if step is None else f", step {step}"
    settings = json.dumps(to_json(stage), indent=2)
    lines = [
        *_metadata(source),
        f"# {run.config.name}",
        "",
        f"{name}, {origin} with rft_jax; stage `{stage.name}`{at}.",
        "",
        *_validation_table(model),
        f"`{RECORD_FILE}` tells rft_jax how the run sampled; other programs do not need it.",
        "",
        *([_FORMAT, ""] if isinstance(run.tokenizer, SentencePieceTokenizer) else []),
        "Settings of the stage:",
        "",
        "```json",
        settings,
        "```",
        "",
    ]
    return "\n".join(lines)


_FORMAT = """\
A completion is a thought, `<|end_of_think|>`, the answer and `</s>`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
messages = [{"role": "user", "content": "..."}]
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
output = model.generate(**prompt, max_new_tokens=256)[0, prompt["input_ids"].shape[1] :]
text = tokenizer.decode(output, skip_special_tokens=True)
thought, _, answer = text.partition("<|end_of_think|>")
```"""


def _metadata(source: Source | None) -> list[str]:
    """What the Hub reads: https://huggingface.co/docs/hub/model-cards."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if source is not None and source.config.source.startswith("hf:"):
        lines.append(f"base_model: {source.config.source.removeprefix('hf:').partition('@')[0]}")
    return ["---", *lines, "---", ""]


def _validation_table(model: OpenModel) -> list[str]:
    """The first and the last validation; of the other metrics, those that were not 0 in both."""
    run, stage, step = model
    rows = read_metrics(run.directory(stage) / METRICS_FILE)
    rows = [row for row in rows if METRIC in row]
    if step is not None:
        rows = [row for row in rows if row["step"] <= step]
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    names = [name for name in last if name.startswith("valid_") and name in first]
    names = [name for name in names if name == METRIC or first[name] or last[name]]
    names = [name for name in names if not name.endswith("_count")]  # their means are there too
    return [
        f"| validation | step {first['step']} | step {last['step']} |",
        "|---|---|---|",
        *(f"| {name} | {first[name]:.4g} | {last[name]:.4g} |" for name in names),
        "",
    ]
