"""What layers keep of a prompt, shared by its group, and of the completions while they grow.

Layers whose weights have the same shapes make a stack, and what they keep lies together as well: in
one array for all layers, for a scan over them, or unrolled, in an array for each. What it is, keys
and values or a state, only the kind of layer knows (`layer_kinds`); here they are trees by stack.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.pages import Pages
from rft_jax.utils.types import PyTree

Tree = TypeVar("Tree")


class PromptState(Protocol):
    """What the layers of a stack keep of B prompts."""

    def of_rows(self, prompt_RZ: Array) -> Self:
        """What R packed rows have of up to Z prompts each; -1 for none. Of stacked layers."""
        ...

    def in_int8(self) -> Self:
        """The same in eight bits, as far as the kind can."""
        ...

    def unrolled(self) -> Self:
        """The same with the layers apart."""
        ...

    def layer(self, index: int) -> Self:
        """That of one layer; of a state, unrolled."""
        ...

    def room(self, lanes: int, prompts: int) -> Self:
        """Zeros, for so many prompts in each of so many lanes."""
        ...

    def place(self, lane: Array, index: Array, queue: Self, prompt: Array) -> Self:
        """The lanes with a prompt of a queue as the lane's prompt `index`."""
        ...


class LayerCache(Protocol):
    """What the layers of a stack keep of completions; a loop carry that is updated in place."""

    def with_capacity(self, capacity: int) -> Self:
        """The same with room for so many tokens, while none has been overwritten."""
        ...

    def begin(self, begins_BG: Array, prompts: PyTree, own_BGZ: Array) -> Self:
        """The same where new completions begin, each after one of its row's Z prompts, of which
        the layers keep `prompts`."""
        ...


class Prefix(NamedTuple):
    """What the samples of a group share: what every layer keeps of their prompt.

    X and Y are 1, or the rows and their tokens where it depends on them.
    """

    states: Mapping[str, PromptState]  # by stack
    mask_BXYP: Array  # bool: the prompts' tokens that a token sees; not padding
    position_P: Array  # int32, positions of the prompts' tokens
    own_BXYZ: Array  # bool: which of a row's Z prompts, side by side in P, a token follows

    def of_rows(self, prompt_RZ: Array, prompt_RT: Array) -> "Prefix":
        """The prefix of R packed rows, each with up to Z prompts.

        Args:
            prompt_RZ: int32, the prompts of each row, all different; -1 for none.
            prompt_RT: int32, each token's prompt; -1 follows none.
        """
        own_RTZ = self.own(prompt_RZ, prompt_RT)
        return Prefix(
            {name: state.of_rows(prompt_RZ) for name, state in self.states.items()},
            self.seen(prompt_RZ, own_RTZ)[:, None],
            jnp.tile(self.position_P, prompt_RZ.shape[1]),
            own_RTZ[:, None],
        )

    def own(self, prompt_RZ: Array, prompt_RT: Array) -> Array:
        """bool[R, T, Z]: which of its row's prompts a token follows.

        Args:
            As for `of_rows`.
        """
        return (prompt_RT[:, :, None] == prompt_RZ[:, None]) & (prompt_RT >= 0)[:, :, None]

    def seen(self, prompt_RZ: Array, own_RTZ: Array) -> Array:
        """bool[R, T, Z x P]: the tokens of a row's prompts, side by side, that a token sees.

        Args:
            prompt_RZ: As for `of_rows`.
            own_RTZ: From `own`.
        """
        mask_RZP = self.mask_BXYP[jnp.maximum(prompt_RZ, 0), 0, 0]
        return join_axes(own_RTZ[..., None] & mask_RZP[:, None], 2)

    def room(self, lanes: int, prompts: int) -> "Prefix":
        """Empty lanes, for so many prompts each side by side; no token follows any."""
        return Prefix(
            {name: state.room(lanes, prompts) for name, state in self.states.items()},
            jnp.zeros((lanes, 1, 1, prompts * self.position_P.size), bool),
            jnp.tile(self.position_P, prompts),
            jnp.zeros((lanes, 1, 1, prompts), bool),
        )

    def in_int8(self) -> "Prefix":
        """The same in eight bits; so is then the cache that is made for it."""
        return self._replace(states={name: x.in_int8() for name, x in self.states.items()})

    def unrolled(self) -> "Prefix":
        """The same with the layers apart."""
        return self._replace(states={name: x.unrolled() for name, x in self.states.items()})


class Cache(NamedTuple):
    """What layers keep of the completions; a loop carry that is updated in place.

    A row may begin a new completion at any time, after `begin`.
    """

    stacks: Mapping[str, LayerCache]
    written: Array  # int32, tokens of each row since the loop began
    length_BG: Array  # int32, those of the row's present completion
    pages: Pages | None = None  # of layers that keep them in a pool; None: rows have room each

    def with_capacity(self, capacity: int) -> "Cache":
        """The same with room for so many tokens, while none has been overwritten."""
        stacks = {name: layers.with_capacity(capacity) for name, layers in self.stacks.items()}
        return self._replace(stacks=stacks)

    def allot(self, begins_BG: Array, running_BG: Array) -> tuple["Cache", Array]:
        """Room for one token more of the rows that run or begin, and which of them have it.

        The others lose what they have, and must begin anew; see `Pages.allot`.
        """
        fits_BG = begins_BG | running_BG
        if self.pages is None:
            return self, fits_BG
        length_BG = jnp.where(begins_BG, 0, self.length_BG)
        pages, fits_R = self.pages.allot(length_BG.reshape(-1), fits_BG.reshape(-1))
        return self._replace(pages=pages), fits_R.reshape(fits_BG.shape)

    def begin(self, begins_BG: Array, prefix: Prefix) -> "Cache":
        """The cache before the first token of new completions, in the rows that begin one.

        Args:
            begins_BG: Those rows.
            prefix: The rows'; which prompt a row follows is the same for its tokens.
        """
        own_BGZ = prefix.own_BXYZ[:, :, 0]
        stacks = {
            name: layers.begin(begins_BG, prefix.states[name], own_BGZ)
            for name, layers in self.stacks.items()
        }
        return self._replace(stacks=stacks, length_BG=jnp.where(begins_BG, 0, self.length_BG))


def for_each(chosen_X: Array, move: Callable[[Array, Tree], Tree], target: Tree) -> Tree:
    """The target after `move(index, target)` for every chosen index, in place."""

    def one(carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
        left_X, target = carry
        index = jnp.argmax(left_X)
        return left_X.at[index].set(False), move(index, target)

    return jax.lax.while_loop(lambda carry: carry[0].any(), one, (chosen_X, target))[1]


def unstack(tree: PyTree) -> tuple[PyTree, ...]:
    """The layers of a tree of stacked arrays, each by itself."""
    leaves, structure = jax.tree.flatten(tree)
    return tuple(structure.unflatten(layer) for layer in zip(*leaves, strict=True))


def join_axes(x: Array, axis: int) -> Array:
    """The array with `axis` and the next one as one."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
