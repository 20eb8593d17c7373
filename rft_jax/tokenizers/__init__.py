"""Tokenizers behind one small interface, and the detokenizer that runs on the device.

    path = train_sentencepiece(texts, workdir / "tokenizer.model", vocab_size=8192)
    tokenizer = SentencePieceTokenizer(path)  # or HuggingFaceTokenizer(directory)
    text, overflow = detokenize(tokenizer.piece_table(), tokens_NT, start_N, end_N, max_bytes)

`base` has the interface, `spm` SentencePiece with the chat format of models trained here,
`hugging_face` the tokenizers of checkpoints, `chat` their chat templates, `thoughts` what tells a
thought from its answer, `device_decode` tokens -> bytes on the device. `spm_export` and
`stop_files` write for transformers, `gguf_vocabulary` for llama.cpp.
"""

from rft_jax.tokenizers.base import Tokenizer as Tokenizer
from rft_jax.tokenizers.base import control_ids as control_ids
from rft_jax.tokenizers.base import message_text as message_text
from rft_jax.tokenizers.base import same_tokens as same_tokens
from rft_jax.tokenizers.base import thought_end as thought_end
from rft_jax.tokenizers.base import thought_text as thought_text
from rft_jax.tokenizers.device_decode import DetokenizeTable as DetokenizeTable
from rft_jax.tokenizers.device_decode import detokenize as detokenize
from rft_jax.tokenizers.gguf_vocabulary import GgufVocabulary as GgufVocabulary
from rft_jax.tokenizers.gguf_vocabulary import gguf_vocabulary as gguf_vocabulary
from rft_jax.tokenizers.hugging_face import HuggingFaceTokenizer as HuggingFaceTokenizer
from rft_jax.tokenizers.spm import SentencePieceTokenizer as SentencePieceTokenizer
from rft_jax.tokenizers.spm import train_sentencepiece as train_sentencepiece
