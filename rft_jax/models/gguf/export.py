"""Writes a model as one GGUF file, with its tokenizer and chat template in it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from rft_jax.config import LinearRope, Llama3Rope, ModelConfig, YarnRope
from rft_jax.models.families import Family, Settings
from rft_jax.models.gguf.architectures import GgufArchitecture, find_architecture
from rft_jax.models.hugging_face.checkpoint import read_family
from rft_jax.models.hugging_face.layout import Layout, layouts
from rft_jax.models.layer_kinds import kinds_of_layers
from rft_jax.models.lora import is_weight, merge_weight
from rft_jax.models.model import Model, Params
from rft_jax.models.rotary import frequencies
from rft_jax.models.weight_axes import INPUTS
from rft_jax.tokenizers import GgufVocabulary
from rft_jax.utils.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFWriter

FILE = "model.gguf"
FREQUENCIES = "rope_freqs.weight"  # by what Llama 3's rotary frequencies are divided
QUERIES_AND_KEYS = ("q_DKMQ", "k_DKQ", "q_bias_KMQ", "k_bias_KQ")


def export_gguf(
    model: Model,
    params: Params,
    source: Path,
    vocabulary: GgufVocabulary,
    file: Path,
    *,
    dtype: jnp.dtype = jnp.bfloat16,
) -> None:
    """Writes weights, sizes, tokenizer and chat template.

    Args:
        model: The decoder.
        params: Its weights; one stacked array at a time is brought to the host, with the adapter
            merged into it.
        source: Describes it, as for `hugging_face.export`.
        vocabulary: Its tokenizer's.
        file: In a directory that exists.
        dtype: That of matrices, bfloat16, float16 or float32; all else is float32.

    Raises:
        InputError: The format has no place for the model, or the library `gguf` is missing.
    """
    family, settings = read_family(source)
    architecture = find_architecture(source, model.config)
    try:
        import gguf
    except ImportError:
        raise InputError("GGUF needs its library; pip install 'rft_jax[gguf]'") from None
    types = {
        "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
        "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
        "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    }
    matrix_type, file_type = types[jnp.dtype(dtype).name]
    writer = gguf.GGUFWriter(file, architecture.name)
    writer.add_type("model")
    writer.add_file_type(file_type)
    _add_sizes(writer, model, settings)
    _add_vocabulary(writer, vocabulary)
    own = Family(family.architecture, family.read_config, architecture.weights)
    tree = jax.tree.leaves_with_path(layouts(own, model))
    factors = _frequency_factors(model.config)
    if factors is not None:
        writer.add_tensor_info(FREQUENCIES, factors.shape, factors.dtype, factors.nbytes)
    for path, layout in tree:
        kind = np.dtype(dtype if _is_matrix(path) else np.float32)
        size = math.prod(layout.tensor_shape) * kind.itemsize
        raw = matrix_type if _is_matrix(path) else gguf.GGMLQuantizationType.F32
        for name in layout.names():
            writer.add_tensor_info(name, layout.tensor_shape, kind, size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in _tensors(model.config, architecture, tree, params, dtype):
        writer.write_tensor_data(tensor)
    writer.close()


def _name(path: tuple) -> str:
    return path[-1].key


def _is_matrix(path: tuple) -> bool:
    return _name(path) in INPUTS


def _tensors(
    config: ModelConfig,
    architecture: GgufArchitecture,
    tree: list[tuple[tuple, Layout]],
    params: Params,
    dtype: jnp.dtype,
) -> Iterator[np.ndarray]:
    """Every tensor, in the order of the layouts."""
    leaves = jax.tree.leaves(params, is_leaf=is_weight)
    for (path, layout), leaf in zip(tree, leaves, strict=True):
        name, kind = _name(path), dtype if _is_matrix(path) else jnp.float32
        array = np.asarray(merge_weight(leaf, kind))
        if "_norm_" in name and config.norm_weight_offset:
            array = array + np.float32(1)  # files have the factor itself
        for _, tensor in layout.tensors(array, {}):
            if architecture.turned_pairs and name in QUERIES_AND_KEYS:
                tensor = _as_neighbors(tensor, config.head_dim)
            # The library writes bytes, and knows no bfloat16.
            yield tensor.view(np.uint16) if tensor.dtype == ml_dtypes.bfloat16 else tensor


def _as_neighbors(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of heads, of which the halves turn against each other, as neighbors that do."""
    halves = tensor.reshape(-1, 2, head_dim // 2, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


def _add_sizes(writer: "GGUFWriter", model: Model, settings: Settings) -> None:
    """What `STATED` and the architecture name."""
    c = model.config
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(settings.integer("max_position_embeddings"))
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_heads)
    kinds = kinds_of_layers(c)
    if "short_conv" in kinds:
        writer.add_head_count_kv([0 if kind == "short_conv" else c.num_kv_heads for kind in kinds])
        writer.add_shortconv_l_cache(c.conv_width)
    else:
        writer.add_head_count_kv(c.num_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    if "sliding" in kinds:
        writer.add_sliding_window(c.sliding_window)
    if c.attention_softcap is not None:
        writer.add_attn_logit_softcapping(c.attention_softcap)
    if c.logit_softcap is not None:
        writer.add_final_logit_softcapping(c.logit_softcap)
    if c.experts:
        writer.add_expert_count(c.experts)
        writer.add_expert_used_count(c.experts_per_token)
        writer.add_expert_feed_forward_length(c.intermediate_size)
    _add_rope_scaling(writer, c)


def _add_rope_scaling(writer: "GGUFWriter", config: ModelConfig) -> None:
    from gguf import RopeScalingType

    scaling = config.rope_scaling
    if isinstance(scaling, LinearRope):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
    elif isinstance(scaling, YarnRope):
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_positions)


def _frequency_factors(config: ModelConfig) -> np.ndarray | None:
    if not isinstance(config.rope_scaling, Llama3Rope):
        return None
    plain = frequencies(config.rope_theta, config.head_dim, None)
    return plain / frequencies(config.rope_theta, config.head_dim, config.rope_scaling)


def _add_vocabulary(writer: "GGUFWriter", vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.adds_space)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    for role, token in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token)
    writer.add_add_bos_token(vocabulary.begins_texts)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
