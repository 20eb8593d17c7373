"""Models as GGUF files, for llama.cpp and what is built on it: `export_gguf`.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from rft_jax.models.gguf.architectures import ARCHITECTURES, find_architecture
from rft_jax.models.gguf.export import FILE, export_gguf

__all__ = ["ARCHITECTURES", "FILE", "export_gguf", "find_architecture"]
