"""What a kind of layer is: how a token reaches others, and what it keeps of them.

A layer norms its input, mixes tokens, and ends in an MLP that knows nothing of other tokens. The
middle is the kind's: its weights, its forward over whole rows and over one token more, and what it
keeps of prompts and completions. Prefix sharing, packing, slots and the planner ask it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding

from rft_jax.models.cache import Cache, LayerCache, Prefix, PromptState
from rft_jax.models.linear import Weight
from rft_jax.models.pages import Pool
from rft_jax.utils.types import PyTree

INNER_STD = 0.02  # GPT-2's initialization, output projections scaled by depth


class MakeWeight(Protocol):
    """Makes a weight, of layers one for each of a stack."""

    def __call__(
        self, axes: tuple[str, ...], shape: tuple[int, ...], std: float, mean: float = 0.0
    ) -> nnx.Param:
        """Takes the axes' logical names, their sizes, and how values are drawn."""
        ...


class LayerWeights(Protocol):
    """The weights of one layer."""

    def weight(self, name: str) -> Weight:
        """One that is multiplied by."""
        ...

    def vector(self, name: str) -> Array:
        """A bias or a scale."""
        ...


class Source(NamedTuple):
    """The layer whose keys and values those of another stack read."""

    index: int  # its place among the layers of its own stack
    kept: PyTree  # what it keeps of the rows; of one token more, that is in the cache
    prompts: PyTree  # what it keeps of the prompts; None without any


class Rows(NamedTuple):
    """Whole rows of tokens, or one more token of each, as layers see them."""

    positions_BST: Array  # int32, counted from the prompt's first token
    segments_BST: Array  # int32; a token reaches those of its own segment in its row
    prefix: Prefix | None
    dtype: jnp.dtype  # of activations
    sharding: NamedSharding | None  # of their leading axis, if the mesh divides it
    whole: bool  # no mesh, or one that divides the rows: then kernels can be used
    source: Source | None = None  # of layers that share


# Mixes the tokens of rows: takes the layer's weights, its normed input h_BSTD, its place among the
# stack's layers and what it keeps of the prompts; gives mixed_BSTD, and what it keeps of the rows.
MixRows: TypeAlias = Callable[[LayerWeights, Array, Array | int, PyTree], tuple[Array, PyTree]]
# The same over one token more, h_BS1D, from what the stack, or that of its source, keeps of the
# completions, which it gives back with the token in it.
MixToken: TypeAlias = Callable[
    [LayerWeights, Array, Array | int, PyTree, LayerCache], tuple[Array, LayerCache]
]


class LayerKind(Protocol):
    """The layers of a stack."""

    @property
    def keys(self) -> int:
        """Keys and values that each layer keeps of a token, in numbers; 0 for a state."""
        ...

    @property
    def queries(self) -> int:
        """Queries of a token in each layer, in numbers; 0 without attention."""
        ...

    @property
    def products(self) -> int:
        """Weights of a layer that a token is multiplied by."""
        ...

    @property
    def adaptable(self) -> tuple[str, ...]:
        """Weights that adapters can be for."""
        ...

    def weights(self, make: MakeWeight, outer_std: float) -> Mapping[str, nnx.Param]:
        """New weights by name, of projections to the residual stream with their own deviation."""
        ...

    def over_rows(self, rows: Rows) -> MixRows:
        """Mixes whole rows: prompts, completions, packed ones."""
        ...

    def over_token(self, rows: Rows, cache: Cache) -> MixToken:
        """Mixes one token more of each row."""
        ...

    def of_prompts(self, kept: PyTree) -> PromptState:
        """What `over_rows` gave of prompts, one row each, stacked over the layers."""
        ...

    def empty(self, prompts: int, tokens: int, dtype: jnp.dtype) -> PromptState:
        """The same as zeros, for so many prompts of so many tokens."""
        ...

    def init_cache(
        self,
        prompts: PromptState,
        own_BGZ: Array,
        group: int,
        tokens: int,
        capacity: int,
        by_window: bool,
        pool: Pool | None,
    ) -> LayerCache:
        """For `group` completions of up to `tokens` tokens at a time per prompt.

        It is stacked or unrolled as what is kept of the prompts.

        Args:
            prompts: What the layers keep of the prompts.
            own_BGZ: bool, which of the row's prompts a completion follows; G may be 1.
            group: Completions of each row.
            tokens: Those of the longest completion.
            capacity: For the first tokens, later `with_capacity`.
            by_window: Unrolled, sliding layers have no more room than their window.
            pool: What completions share in layers that reach as far as they are long.
        """
        ...
