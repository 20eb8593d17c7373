"""A run's tokenizer: its source's, a given one, the one it trained before, or a new one."""

from pathlib import Path

from rft_jax import data
from rft_jax.config import Config
from rft_jax.runs.datasets import Rows, training_texts
from rft_jax.runs.pretrained import Source
from rft_jax.tokenizers import SentencePieceTokenizer, Tokenizer, train_sentencepiece
from rft_jax.utils.console import log

TOKENIZER_FILE = "tokenizer.model"


def stored_tokenizer(
    config: Config, sources: dict[str, Source], workdir: Path | None
) -> Tokenizer | None:
    """The tokenizer that a run has without training one; None if there is none.

    Args:
        config: The run's configuration.
        sources: By model, what its weights are from.
        workdir: The run's; None for one that begins, which has none of its own.
    """
    if sources:
        return next(iter(sources.values())).tokenizer(config.tokenizer.thinking)
    if workdir is not None and (own := workdir / TOKENIZER_FILE).exists():
        return SentencePieceTokenizer(own)
    return SentencePieceTokenizer(config.tokenizer.path) if config.tokenizer.path else None


def train_tokenizer(
    config: Config, rows: dict[str, dict[str, Rows]], symbols: str, path: Path
) -> Tokenizer:
    """Trains a tokenizer on what the run's stages read.

    Args:
        config: The run's configuration.
        rows: What each stage reads, by purpose.
        symbols: A file of texts that stay whole, a line each; empty for none.
        path: The file that the tokenizer is written to.
    """
    texts = training_texts(rows, config.tokenizer.training_texts)
    log(f"training a tokenizer on {len(texts):,} texts")
    whole = data.load_lines(symbols) if symbols else ()
    train_sentencepiece(texts, path, config.tokenizer.vocab_size, whole)
    return SentencePieceTokenizer(path)
