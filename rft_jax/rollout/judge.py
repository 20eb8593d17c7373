"""A frozen model that judges inside of the jitted step: `graders.device_judge` asks it."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from rft_jax.config import RolloutConfig
from rft_jax.graders import Tokens
from rft_jax.grammars import GrammarTables
from rft_jax.models import Model, Params
from rft_jax.parallel import ROLLOUT_RULES, batch_parts, shardings
from rft_jax.rollout.generate import Prompts, rollout
from rft_jax.rollout.logit_masks import LogitMask
from rft_jax.tokenizers import Tokenizer

Result = TypeVar("Result", Array, Tokens)


@dataclass(frozen=True, eq=False)
class FrozenJudge:
    """A model with its tokenizer; implements `graders.Judge`.

    Attributes:
        mesh: That of the step in which it judges.
        load: Gives the weights, called when they are first wanted.
        tokens_at_once: The prompts' tokens on each device; bounds the memory.
    """

    model: Model
    tokenizer: Tokenizer
    mesh: Mesh
    load: Callable[[], Params]
    tokens_at_once: int = 8192

    @functools.cached_property
    def params(self) -> Params:
        """The weights, cast and placed as the rollout's copy of the policy is."""
        sharding = shardings(self.mesh, ROLLOUT_RULES, self.model.sampling_axes)
        copy = jax.jit(self.model.sampling_weights, out_shardings=sharding)
        return copy(self.load())

    def next_logprobs(self, params: Params, prompts: Tokens, ids_K: Sequence[int]) -> Array:
        """float32[N, K]: the log-probability of each of K tokens after each of N prompts.

        One prefill, of as many prompts at a time as the bound allows.
        """

        def judge(part: Tokens) -> Array:
            hidden_nD, _ = self.model.prefill(params, *part)
            logits_nV = self.model.logits(params, hidden_nD)
            chosen_nK = logits_nV[:, np.asarray(ids_K)]
            return chosen_nK - jax.nn.logsumexp(logits_nV, axis=-1, keepdims=True)

        return self._in_parts(judge, prompts, prompts.ids.shape[1])

    def write(self, params: Params, prompts: Tokens, grammar: GrammarTables, tokens: int) -> Tokens:
        """See `graders.device_judge.JudgeModel`: greedy decoding, of as many prompts at a time."""
        mask = LogitMask(self.tokenizer.forbidden_ids, None, 0, grammar, tokens)
        config = RolloutConfig(max_completion_tokens=tokens, temperature=0.0)
        ends = {"stop_ids": self.tokenizer.stop_ids, "pad_id": self.tokenizer.pad_id}

        def complete(part: Tokens) -> Tokens:
            no_noise_n1 = jax.random.split(jax.random.key(0), (len(part.ids), 1))
            found = rollout(self.model, params, Prompts(*part), no_noise_n1, mask, config, **ends)
            return Tokens(found.tokens_BGT[:, 0], found.answer_end_BG[:, 0])

        return self._in_parts(complete, prompts, prompts.ids.shape[1] + tokens)

    def _in_parts(self, ask: Callable[[Tokens], Result], prompts: Tokens, width: int) -> Result:
        """What is said to N prompts, asked as many at a time as the bound allows.

        Args:
            ask: Gives arrays of n rows for n prompts.
            width: Tokens of a prompt and of what is said.
        """
        count = len(prompts.ids)
        devices = batch_parts(self.mesh)
        parts = -(-count // (devices * max(1, self.tokens_at_once // width)))
        padding = -count % (devices * parts)
        padded = Tokens(
            jnp.pad(prompts.ids, ((0, padding), (0, 0))),
            jnp.pad(prompts.length, (0, padding), constant_values=1),
        )
        # A part takes every parts-th row, so that each device keeps its own rows.
        cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), padded)
        said = jax.lax.map(ask, cut)
        return jax.tree.map(
            lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:count],
            said,
        )
