"""Stand-ins for the tokenizers of checkpoints: small vocabularies, each family's real pipeline."""

import json
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "Observed: Seizure; Ataxia.   Absent: Größe 日本 \N{SNOWMAN} 12 years, COL2A1.\n\n",
    ' {"genes": ["SCN1A", "COL2A1"], "n": 10}\n\tWhat is the diagnosis? I\'m sure it\'s 42.',
    "system user assistant model tool Environment: ipython Cutting Knowledge Date: December 2023",
] * 3

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_WORDS = QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
QWEN_ADDED = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
QWEN_ADDED += ["<think>", "</think>", "a token, with spaces"]
LLAMA_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]
LLAMA_SPECIAL += ["<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>"]
LLAMA_SPECIAL += ["<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
DEEPSEEK_SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
DEEPSEEK_ADDED = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(words: str, special: list[str], added: list[str], start: str | None) -> dict:
    """A byte-level BPE; `start` is what the library by itself writes before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    if start is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    return json.loads(tokenizer.to_str())


def byte_fallback(special: list[str], added: list[str], strip: bool) -> dict:
    """A BPE with byte tokens, as Gemma's or, where a text starts with a space, Llama 2's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    replace = normalizers.Replace(" ", "\u2581")
    prepend = [normalizers.Prepend("\u2581")] if strip else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, replace])
    if not strip:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * strip)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special + BYTES,
        limit_alphabet=60,
        max_token_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    serialized = json.loads(tokenizer.to_str())
    # Byte tokens are of the vocabulary only; the trainer takes them for special tokens.
    serialized["added_tokens"] = [
        token for token in serialized["added_tokens"] if token["content"] not in BYTES
    ]
    return serialized


def qwen3() -> tuple[dict, dict, list[str], str | None]:
    """The tokenizer, tokenizer_config.json, the stop tokens and the padding of generation."""
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    tokenizer = byte_level(QWEN_WORDS, QWEN_SPECIAL, QWEN_ADDED, None)
    return tokenizer, config, ["<|im_end|>", "<|endoftext|>"], "<|endoftext|>"


def llama3_2() -> tuple[dict, dict, list[str], str | None]:
    """As for Qwen 3; there is no padding token."""
    config = {"eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>"}
    config["clean_up_tokenization_spaces"] = True
    tokenizer = byte_level(LLAMA_WORDS, LLAMA_SPECIAL, [], "<|begin_of_text|>")
    return tokenizer, config, ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], None


def gemma3() -> tuple[dict, dict, list[str], str | None]:
    """As for Qwen 3; the end of a turn is no end of the text."""
    names = ("pad", "eos", "bos", "unk")
    config = {f"{name}_token": f"<{name}>" for name in names}
    tokenizer = byte_fallback(GEMMA_SPECIAL, ["\n\n", "<unused0>", "<b>"], strip=False)
    return tokenizer, config, ["<eos>", "<end_of_turn>"], "<pad>"


def llama2() -> tuple[dict, dict, list[str], str | None]:
    """As for Qwen 3; there is no chat template."""
    config = {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "unk_token": "<unk>"}
    special = ["<unk>", "<s>", "</s>"]
    return byte_fallback(special, ["<tool> "], strip=True), config, ["</s>"], None


def deepseek_r1_distill() -> tuple[dict, dict, list[str], str | None]:
    """As for Qwen 3; the template opens the thought, and drops it from earlier turns."""
    config = {"bos_token": DEEPSEEK_SPECIAL[0], "eos_token": DEEPSEEK_SPECIAL[1]}
    tokenizer = byte_level(QWEN_WORDS, DEEPSEEK_SPECIAL, DEEPSEEK_ADDED, DEEPSEEK_SPECIAL[0])
    return tokenizer, config, [DEEPSEEK_SPECIAL[1]], None


FAMILIES = (qwen3, llama3_2, gemma3, llama2, deepseek_r1_distill)


def write(directory: Path, family, templates: Path) -> Path:
    """Writes a family's stand-in as the files of a checkpoint."""
    directory.mkdir()
    tokenizer, config, stops, pad = family()
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    generation = {"eos_token_id": [ids[stop] for stop in stops]}
    if len(stops) == 1:
        generation["eos_token_id"] = generation["eos_token_id"][0]
    if pad is not None:
        generation["pad_token_id"] = ids[pad]
    template = templates / f"{family.__name__}.jinja"
    if template.exists():
        config["chat_template"] = template.read_text(encoding="utf-8")
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": config,
        "generation_config.json": generation,
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, data_files) -> dict[str, Path]:
    """A directory with a stand-in of each family, by the family's name."""
    root = tmp_path_factory.mktemp("checkpoints")
    templates = data_files / "chat_templates"
    return {f.__name__: write(root / f.__name__, f, templates) for f in FAMILIES}
