"""GRPO with Tunix and its own `vanilla` rollout engine: one JSON line with its throughput.

pip install google-tunix==0.1.7 jax==0.10.2
python tunix_grpo.py CHECKPOINT --prompt 64 --completion 64 --prompts 8 --group 8 --steps 8
"""

import json
import time
from pathlib import Path

import common
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from transformers import PreTrainedTokenizerFast
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

NEVER = 1 << 30  # a stop token that is never sampled: every completion has its full length


class Tokenizer:
    """The few methods that Tunix calls, without padding or special tokens."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def encode(self, text, **_):
        """Token ids."""
        return self._tokenizer.encode(str(text), add_special_tokens=False)

    def decode(self, ids, **_):
        """Text."""
        return self._tokenizer.decode([int(i) for i in ids])

    def bos_id(self):
        """As in the checkpoint."""
        return 1

    def eos_id(self):
        """As in the checkpoint."""
        return 2

    def pad_id(self):
        """As in the checkpoint."""
        return 0


def main() -> None:
    """Trains for the given steps."""
    args = common.parse_args(__doc__.split("\n")[0])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.checkpoint)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    prompts = common.make_prompts(tokenizer, args.prompt)
    with mesh:
        model = qwen2_params.create_model_from_safe_tensors(
            args.checkpoint, _model_config(Path(args.checkpoint)), mesh, dtype=jnp.float32
        )
    cluster = rl_cluster.RLCluster(
        actor=model,
        reference=None,
        tokenizer=Tokenizer(tokenizer),
        cluster_config=_cluster_config(args, mesh),
    )
    learner = grpo_learner.GRPOLearner(
        rl_cluster=cluster,
        reward_fns=common.vowel_share,
        algo_config=grpo_learner.GRPOConfig(
            num_generations=args.group, num_iterations=1, beta=0.0, epsilon=0.2
        ),
    )
    seconds, last = [], [time.perf_counter()]
    update_actor = cluster.update_actor

    def timed_update(*positional, **keywords):
        result = update_actor(*positional, **keywords)
        now = time.perf_counter()
        seconds.append(now - last[0])
        last[0] = now
        return result

    cluster.update_actor = timed_update
    batches = grain.MapDataset.source(prompts).batch(args.prompts)
    with mesh:
        learner.train(batches.map(lambda batch: {"prompts": np.array([str(x) for x in batch])}))
    common.report("tunix", args, seconds)


def _model_config(checkpoint: Path) -> qwen2.ModelConfig:
    c = json.loads((checkpoint / "config.json").read_text())
    return qwen2.ModelConfig(
        num_layers=c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"],
        hidden_dim=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        head_dim=c["hidden_size"] // c["num_attention_heads"],
        num_kv_heads=c["num_key_value_heads"],
        rope_theta=10000,
        norm_eps=c["rms_norm_eps"],
        use_tied_embedding=c["tie_word_embeddings"],
    )


def _cluster_config(args, mesh) -> rl_cluster.ClusterConfig:
    longest = args.prompt + 32  # text re-encodes to a few tokens more or less
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    return rl_cluster.ClusterConfig(
        role_to_mesh={role: mesh for role in roles},
        rollout_engine="vanilla",
        offload_to_cpu=False,
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optax.adamw(1e-4), eval_every_n_steps=NEVER, max_steps=args.steps
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=args.completion,
            max_prompt_length=longest,
            kv_cache_size=2 * longest + args.completion + 8,
            temperature=1.0,
            top_p=1.0,
            return_logprobs=True,
            eos_tokens=[NEVER],
        ),
    )


if __name__ == "__main__":
    main()
