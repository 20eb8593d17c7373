"""The stop tokens in a checkpoint's files, for transformers and vLLM.

A base model's files name the end of a document only, while one that was tuned with a chat template
ends its answers with the template's token and would never stop elsewhere.
"""

import json
from pathlib import Path

from rft_jax.tokenizers.hugging_face import (
    CONFIG_FILE,
    GENERATION_FILE,
    MODEL_FILE,
    SPECIAL_TOKENS_FILE,
    HuggingFaceTokenizer,
)
from rft_jax.utils.types import JsonObject


def write_stops(tokenizer: HuggingFaceTokenizer, directory: Path) -> None:
    """Makes generation_config.json name every stop token of a tokenizer.

    Where the token that ends an answer was not among them, it becomes the tokenizer's eos_token
    too, unless the chat template writes that token out.

    Args:
        tokenizer: With which the model was trained.
        directory: Its files, which are changed.
    """
    model, generation = (_read(directory / name) for name in (MODEL_FILE, GENERATION_FILE))
    if not generation:
        names = ("bos_token_id", "pad_token_id", "eos_token_id")
        generation = {name: model[name] for name in names if model.get(name) is not None}
    named = generation.get("eos_token_id")
    named = named if isinstance(named, list) else [named]
    generation["eos_token_id"] = list(tokenizer.stop_ids)
    _write(directory / GENERATION_FILE, generation)
    if tokenizer.ending_id in named or tokenizer.template_names("eos_token"):
        return
    ending = tokenizer.ending_token
    for path in (directory / CONFIG_FILE, directory / SPECIAL_TOKENS_FILE):
        content = _read(path)
        token = content.get("eos_token")
        if path.name == CONFIG_FILE or token is not None:
            token = token | {"content": ending} if isinstance(token, dict) else ending
            _write(path, content | {"eos_token": token})


def _read(path: Path) -> JsonObject:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write(path: Path, value: JsonObject) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
