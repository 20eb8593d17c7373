"""A decoder as pure functions over a tree of weights.

The nnx module is split into its graph and its weights here, once; everything else passes the
weights, a nested dict of arrays, and calls `Model.hidden`, `Model.logits` and so on.
"""

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding

from rft_jax.config import ModelConfig
from rft_jax.models import lora, nf4
from rft_jax.models.cache import Cache, Prefix, unstack
from rft_jax.models.decoder import Decoder
from rft_jax.models.layer_kinds import stacks
from rft_jax.models.pages import Pool, empty_pages
from rft_jax.parallel import ROLLOUT_RULES, constrain, shardings
from rft_jax.utils.types import Device, PyTree

Params: TypeAlias = (
    PyTree  # nested dict of arrays, and of `lora.Adapted` where a weight has an adapter
)


@dataclass(frozen=True)
class Model:
    """The static part of a decoder; hashable, so that jitted functions may close over it."""

    config: ModelConfig
    vocab_size: int
    graph: nnx.GraphDef
    row_sharding: NamedSharding | None = None  # of the activations' leading axis
    float32_head: bool = False  # logits are products in float32, whatever the compute type

    @property
    def dtype(self) -> jnp.dtype:
        """The type of activations, and of weights as they are multiplied."""
        return jnp.dtype(self.config.compute_dtype)

    def init(self, key: Array) -> Params:
        """Random float32 weights; with adapters, the others have the type of the frozen ones."""
        params = nnx.to_pure_dict(nnx.state(_decoder(self.config, self.vocab_size, key)))
        if self.config.lora is None:
            return params
        if self.packed:
            frozen = nf4.quantize_base(params, self.frozen_dtype)
        else:
            frozen = lora.cast(params, self.frozen_dtype)
        return self.adapt(self.init_adapters(frozen, key), frozen)

    def init_adapters(self, frozen: Params, key: Array) -> Params:
        """The trainable partition of a model with adapters, which change nothing yet."""
        assert self.config.lora is not None, "the model has no adapters"
        return lora.init_adapters(frozen, self.config.lora, key)

    def adapt(self, trainable: Params, frozen: Params) -> Params:
        """The whole weights from their two partitions; without adapters, the trainable one."""
        return lora.adapt(trainable, frozen, self.config.lora)

    @property
    def axes(self) -> PyTree:
        """The tree of weights with each one's logical axis names."""
        module = jax.eval_shape(lambda: _decoder(self.config, self.vocab_size, jax.random.key(0)))
        axes = nnx.to_pure_dict(
            nnx.state(module), extract_fn=lambda variable: variable.get_metadata("axes")
        )
        if self.config.lora is None:
            return axes
        adapters = lora.adapter_axes(axes, self.config.lora)
        return self.adapt(adapters, nf4.packed_axes(axes) if self.packed else axes)

    @property
    def packed(self) -> bool:
        """Whether the matrices of a frozen base are in four bits."""
        return self.config.lora is not None and self.config.lora.base_dtype == "nf4"

    @property
    def frozen_dtype(self) -> jnp.dtype:
        """The type of a frozen base, but for what is in four bits."""
        assert self.config.lora is not None, "without adapters nothing is frozen"
        return jnp.dtype(jnp.bfloat16 if self.packed else self.config.lora.base_dtype)

    def sampling_weights(self, params: Params) -> Params:
        """The weights to sample with, in the type that they are multiplied in: adapters are merged,
        but over a base in four bits, of which numbers would take four times the memory."""
        return (lora.cast if self.packed else lora.merge)(params, self.dtype)

    @property
    def sampling_axes(self) -> PyTree:
        """The logical axis names of `sampling_weights`."""
        return self.axes if self.packed else lora.base(self.axes)

    def prefill(self, params: Params, tokens_BP: Array, length_B: Array) -> tuple[Array, Prefix]:
        """Runs the prompts, once each.

        Args:
            tokens_BP: int32, padded on the right.
            length_B: int32, at least 1.

        Returns:
            hidden_BD of each prompt's last token, and the prefix that its samples share.
        """
        mask_BP = jnp.arange(tokens_BP.shape[1]) < length_B[:, None]
        positions_BP = jnp.broadcast_to(jnp.arange(tokens_BP.shape[1]), tokens_BP.shape)
        hidden_BSPD, kept = nnx.merge(self.graph, params)(
            tokens_BP[:, None],
            positions_BP[:, None],
            mask_BP.astype(jnp.int32)[:, None],
            dtype=self.dtype,
            row_sharding=self.row_sharding,
        )
        last_B11 = (length_B - 1)[:, None, None]
        last_BD = jnp.take_along_axis(hidden_BSPD[:, 0], last_B11, axis=1)[:, 0]
        states = {
            name: stack.kind.of_prompts(kept[name]) for name, stack in stacks(self.config).items()
        }
        own_B111 = jnp.ones((len(length_B), 1, 1, 1), bool)
        return last_BD, Prefix(states, mask_BP[:, None, None], positions_BP[0], own_B111)

    def empty_prefix(self, prompts: int, tokens: int) -> Prefix:
        """What `prefill` gives of so many prompts of so many tokens, as zeros."""
        return Prefix(
            {
                name: stack.kind.empty(prompts, tokens, self.dtype)
                for name, stack in stacks(self.config).items()
            },
            jnp.zeros((prompts, 1, 1, tokens), bool),
            jnp.arange(tokens),
            jnp.zeros((prompts, 1, 1, 1), bool),
        )

    def hidden(
        self, params: Params, tokens_BT: Array, positions_BT: Array, segments_BT: Array
    ) -> Array:
        """hidden_BTD of whole, possibly packed rows."""
        hidden_BSTD, _ = nnx.merge(self.graph, params)(
            tokens_BT[:, None],
            positions_BT[:, None],
            segments_BT[:, None],
            dtype=self.dtype,
            row_sharding=self.row_sharding,
        )
        return hidden_BSTD[:, 0]

    def complete(
        self,
        params: Params,
        tokens_BST: Array,
        positions_BST: Array,
        segments_BST: Array,
        prefix: Prefix,
    ) -> Array:
        """hidden_BSTD of completions that follow their prompts; see `Decoder.__call__`."""
        return nnx.merge(self.graph, params)(
            tokens_BST,
            positions_BST,
            segments_BST,
            prefix=prefix,
            dtype=self.dtype,
            row_sharding=self.row_sharding,
        )[0]

    def prepare_decoding(
        self, params: Params, prefix: Prefix
    ) -> tuple[dict[str, tuple[Params, ...]] | None, Prefix]:
        """What `decode` takes besides `params`, to be made once before the loop over tokens."""
        if self.config.decode_layers != "unrolled":
            return None, prefix
        return self.unstack(params), prefix.unrolled()

    def unstack(self, params: Params) -> dict[str, tuple[Params, ...]]:
        """By stack, the weights of each layer by itself."""
        return {name: unstack(params[name]) for name in stacks(self.config)}

    def init_cache(
        self,
        prefix: Prefix,
        group: int,
        tokens: int,
        capacity: int | None = None,
        *,
        by_window: bool = True,
        pool: Pool | None = None,
    ) -> Cache:
        """An empty cache for `decode`: `group` completions of each of the prefix's rows.

        It is stacked or unrolled as the prefix is.

        Args:
            prefix: The rows' prompts.
            group: Completions of each row.
            tokens: Those of the longest completion.
            capacity: For the first tokens, later `with_capacity`; None: for all.
            by_window: Unrolled, sliding layers have no more room than their window.
            pool: What rows share where layers reach as far as completions do; None: each has room
                of its own.
        """
        own_BGZ = prefix.own_BXYZ[:, :, 0]
        layers = {
            name: stack.kind.init_cache(
                prefix.states[name], own_BGZ, group, tokens, capacity or tokens, by_window, pool
            )
            for name, stack in stacks(self.config).items()
        }
        rows = len(prefix.own_BXYZ)
        pages = None if pool is None else empty_pages(rows * group, tokens, pool)
        return Cache(layers, jnp.zeros((), jnp.int32), jnp.zeros((rows, group), jnp.int32), pages)

    def decode(
        self,
        params: Params,
        layers: dict[str, tuple[Params, ...]] | None,
        tokens_BG: Array,
        positions_BG: Array,
        prefix: Prefix,
        cache: Cache,
    ) -> tuple[Array, Cache]:
        """hidden_BGD of one new token per sample, and the cache with it.

        Args:
            params: All weights; of the layers, those of `layers` are used if there are any.
            layers: As `prefix`, from `prepare_decoding`.
            tokens_BG: int32.
            positions_BG: int32.
            prefix: The prompts.
            cache: The tokens before.
        """
        hidden_BG1D, cache = nnx.merge(self.graph, params).decode(
            tokens_BG[..., None],
            positions_BG[..., None],
            prefix,
            cache,
            layers=layers,
            dtype=self.dtype,
            row_sharding=self.row_sharding,
        )
        return hidden_BG1D[:, :, 0], cache

    @property
    def head(self) -> str:
        """The name of the weights of `logits`."""
        return "embed_VD" if self.config.tie_embeddings else "head_VD"

    def gather_head(self, params: Params) -> Params:
        """The weights with those of `logits` whole along D, for a loop over it.

        They are gathered, and their gradient is scattered, once and not in every trip.
        """
        if self.row_sharding is None:
            return params
        sharding = shardings(self.row_sharding.mesh, ROLLOUT_RULES, ("vocab", "embed"))
        return {**params, self.head: constrain(params[self.head], sharding)}

    def logits(self, params: Params, hidden_xD: Array) -> Array:
        """float32 logits [..., V]."""
        decoder = nnx.merge(self.graph, params)
        if not self.float32_head:
            return decoder.logits(hidden_xD)
        # TPUs and GPUs would round factors in float32 to fewer bits.
        with jax.default_matmul_precision("highest"):
            return decoder.logits(hidden_xD.astype(jnp.float32))


def build_model(
    config: ModelConfig,
    vocab_size: int,
    row_sharding: NamedSharding | None = None,
    platform: str | None = None,
) -> Model:
    """The model of a configuration, without weights.

    Args:
        row_sharding: From `parallel.batch_sharding`; needed on several devices.
        platform: `cpu`, `gpu` or `tpu`, where the model will run; None: this machine's.
    """
    config = for_platform(config, platform)
    graph, _ = nnx.split(nnx.eval_shape(lambda: _decoder(config, vocab_size, jax.random.key(0))))
    return Model(config, vocab_size, graph, row_sharding)


_ATTENTION = {"tpu": "pallas", "cpu": "blockwise"}


def for_platform(config: ModelConfig, platform: str | None = None) -> ModelConfig:
    """The configuration with what is left to the platform decided.

    Args:
        platform: `cpu`, `gpu` or `tpu`; None: this one.
    """
    ampere = since_ampere(jax.local_devices()[0]) if platform is None else platform == "gpu"
    platform = platform or jax.default_backend()
    if not ampere:
        for name, kernel in {"attention": "cudnn", "decode_attention": "triton"}.items():
            if getattr(config, name) == kernel:
                config = dataclasses.replace(config, **{name: "xla"})
    choices = {
        "compute_dtype": "float32" if platform == "cpu" else "bfloat16",
        "attention": "cudnn" if ampere else _ATTENTION.get(platform, "xla"),
        "decode_attention": "triton" if ampere else "xla",
        # XLA for CPUs and GPUs would copy weights and cache out of the stack, that for TPUs the
        # weights of experts.
        "decode_layers": "unrolled" if platform != "tpu" or config.experts else "scanned",
    }
    open_choices = {name: choices[name] for name in choices if getattr(config, name) == "auto"}
    return dataclasses.replace(config, **open_choices)


def since_ampere(device: Device) -> bool:
    """Whether the device is an NVIDIA GPU of Ampere's generation or later, as the kernels need."""
    major, dot, _ = getattr(device, "compute_capability", "").partition(".")
    return bool(dot) and int(major) >= 8


def _decoder(config: ModelConfig, vocab_size: int, key: Array) -> Decoder:
    return Decoder(config, vocab_size, rngs=nnx.Rngs(params=key))
