"""transformers reads a GGUF file as the model and the tokenizer that it was written from."""

import json

import numpy as np
import pytest

from rft_jax.config import ModelConfig
from rft_jax.models import build_model
from rft_jax.models.gguf import FILE, export_gguf
from rft_jax.models.hugging_face import describe
from rft_jax.runs.export import export_model
from rft_jax.tokenizers import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    gguf_vocabulary,
    train_sentencepiece,
)
from rft_jax.tokenizers.spm_export import write_tokenizer

from ...small_checkpoint import TEXTS
from .cases import CASES, write_case

pytestmark = pytest.mark.oracle

SENTENCES = (
    "A stolen camera, 1500 EUR,  reported after 9 days; Zoë's.",
    "def f(x):\n    return x  # 3.5\n\n",
    "<|user|>x<eos><|assistant|>y",
)


def same(peer, found, prompt, tokens=24):
    import torch

    weights = found.state_dict()
    assert weights.keys() == peer.state_dict().keys()
    # Gemma's norms multiply by 1 + their weight, which is what the file has, rounded.
    around_one = "Gemma" in type(peer).__name__
    for name, weight in peer.state_dict().items():
        rounded = around_one and "norm" in name
        np.testing.assert_allclose(weights[name], weight, rtol=0, atol=6e-8 if rounded else 0)
    prompt = torch.tensor([prompt])
    with torch.no_grad():
        logits = peer(prompt).logits, found(prompt).logits
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5 if around_one else 0)
    options = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
    rows = [model.generate(prompt, pad_token_id=0, **options) for model in (peer, found)]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_goes_there_and_back(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    source = write_case(name, tmp_path / "source")
    export_model(source, tmp_path / "out", "gguf", "float32")
    auto = transformers.AutoModelForCausalLM
    peer = auto.from_pretrained(source, dtype="float32")
    found = auto.from_pretrained(tmp_path / "out", gguf_file=FILE, dtype="float32")
    assert type(found) is type(peer)
    same(peer, found, [7, 3, 250, 9, 100, 64, 5, 17])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file=FILE)
    ours = HuggingFaceTokenizer(source, 320)
    for text in SENTENCES:
        encoded = theirs.encode(text, add_special_tokens=False)
        assert encoded == ours._parse(text)
        assert theirs.decode(encoded, skip_special_tokens=True) == ours.decode(encoded)
    messages = [{"role": "user", "content": "What is it?"}]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == ours.encode_prompt(messages)


def test_a_model_from_scratch_goes_there_with_its_sentencepiece(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    import jax
    import jax.numpy as jnp

    texts = TEXTS.read_text().splitlines()
    spm = SentencePieceTokenizer(train_sentencepiece(texts, tmp_path / "m.model", 512))
    source = tmp_path / "source"
    source.mkdir()
    write_tokenizer(spm, source, 64)
    config = ModelConfig(
        num_layers=2, hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=24
    )
    model = build_model(config, spm.vocab_size)
    params = jax.tree.map(lambda x: 5 * x, model.init(jax.random.key(0)))
    settings = describe(config, spm.vocab_size, 64)
    (source / "config.json").write_text(json.dumps(settings))
    tokenizer = HuggingFaceTokenizer(source, spm.vocab_size)
    vocabulary = gguf_vocabulary(tokenizer, "llama")
    assert vocabulary.model == "llama" and not vocabulary.adds_space
    out = tmp_path / "out"
    out.mkdir()
    export_gguf(model, params, source, vocabulary, out / FILE, dtype=jnp.float32)
    found = transformers.AutoModelForCausalLM.from_pretrained(out, gguf_file=FILE)
    theirs = transformers.AutoTokenizer.from_pretrained(out, gguf_file=FILE)
    # Its class for such tokenizers puts a space before a text, whatever the file says.
    for text in ("A stolen camera, 1500 EUR", "x  y"):
        ids = spm.encode(f" {text}")
        assert theirs.encode(text, add_special_tokens=False) == ids
    import torch

    tokens = np.array([spm.encode(" A stolen camera")], np.int32)
    positions = np.arange(tokens.shape[1])[None]
    hidden = model.hidden(params, tokens, positions, np.ones_like(tokens))
    with torch.no_grad():
        logits = found(torch.tensor(tokens, dtype=torch.long)).logits
    np.testing.assert_allclose(model.logits(params, hidden), logits, rtol=0, atol=2e-4)
