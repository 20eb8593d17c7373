"""A random checkpoint of a few thousand weights, with a tokenizer and a chat template."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .models.hugging_face.conftest import tensors_of, write

SETTINGS = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
}
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = Path(__file__).parents[1] / "experiments" / "claims" / "supervised.jsonl"


def write_small(directory: Path, template: str = TEMPLATE, **settings) -> Path:
    """Writes it; `settings` are of config.json."""
    settings = SETTINGS | settings
    tensors = {name: 0.1 * tensor for name, tensor in tensors_of(settings).items()}
    write(directory, settings, tensors)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<eos>", "<|user|>", "<|assistant|>"],
        show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS.read_text().splitlines(), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"pad_token": "<pad>", "eos_token": "<eos>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
