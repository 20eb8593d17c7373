"""Values and gradients that TRL and verl compute for the presets, from their own loss code.

Each library is run once, in an environment of its own; the tests read what is written:

    pip install torch 'trl>=1.16' && python tests/learn/make_reference.py trl tests/data_files/presets_trl.npz
    pip install torch verl==0.9.1 && python tests/learn/make_reference.py verl tests/data_files/presets_verl.npz

Inputs are random: 4 groups of 4 samples of up to 12 tokens; `new`, `old`, `ref` log-probabilities, of
which half the rows differ by about half a nat and half by 5e-4, so that GSPO's narrow range is
inside and outside; `mask`, `advantage`, and rewards `part0`, `part1`. Results stand under
`loss/NAME` and `grad/NAME` (with respect to `new`), and `advantage/NAME`.
"""  # noqa: E501

import collections
import importlib.metadata
import sys
from types import SimpleNamespace

import numpy as np
import torch

GROUPS, GROUP, T = 4, 4, 12


def inputs() -> dict[str, np.ndarray]:
    """The arrays that everything is computed from."""
    rng = np.random.default_rng(20260101)
    rows = GROUPS * GROUP
    new = -rng.exponential(0.8, (rows, T)) - 1e-2
    noise = rng.normal(size=(rows, T)) * np.where(np.arange(rows) % 2, 0.5, 5e-4)[:, None]
    length = rng.integers(1, T + 1, rows)
    return {
        "new": new.astype(np.float32),
        "old": np.minimum(new + noise, -1e-3).astype(np.float32),
        "ref": np.minimum(new + rng.normal(size=new.shape) * 0.5, -1e-3).astype(np.float32),
        "mask": (np.arange(T) < length[:, None]).astype(np.float32),
        "advantage": rng.normal(size=rows).astype(np.float32),
        "part0": rng.integers(0, 2, rows).astype(np.float32),
        "part1": rng.random(rows).astype(np.float32),
    }


def trl_losses(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By `GRPOTrainer._compute_loss`, with the model's log-probabilities given."""
    from trl import GRPOTrainer

    def loss(loss_type: str, low: float, high: float, level: str = "token", **args) -> torch.Tensor:
        beta = args.pop("beta", 0.0)
        trainer = SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *_, **__: (
                x["new"],
                torch.zeros_like(x["new"]),
                None,
            ),
            accelerator=SimpleNamespace(
                num_processes=1, gather=lambda value: value, reduce=lambda value, **_: value
            ),
            args=SimpleNamespace(
                **{
                    "delta": None,
                    "steps_per_generation": 1,
                    "use_bias_correction_kl": False,
                    "sapo_temperature_pos": 1.0,
                    "sapo_temperature_neg": 1.05,
                    **args,
                }
            ),
            aux_loss_enabled=False,
            beta=beta,
            current_gradient_accumulation_steps=1,
            epsilon_low=low,
            epsilon_high=high,
            importance_sampling_level=level,
            loss_type=loss_type,
            max_completion_length=T,
            model=SimpleNamespace(training=True),
            off_policy_mask_threshold=None,
            top_entropy_quantile=1.0,
            use_vllm=False,
            _entropy_bonus_enabled=False,
            _metrics={"train": collections.defaultdict(list)},
        )
        ids = torch.zeros_like(x["new"], dtype=torch.long)
        given = {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1] + 1,
            "completion_ids": ids,
            "completion_mask": x["mask"],
            "advantages": x["advantage"],
            "old_per_token_logps": x["old"],
            "ref_per_token_logps": x["ref"],
            "num_items_in_batch": x["mask"].sum(),
        }
        return GRPOTrainer._compute_loss(trainer, None, given)

    return {
        "grpo": loss("dapo", 0.2, 0.28),
        "dr_grpo": loss("dr_grpo", 0.2, 0.28),
        "dapo": loss("dapo", 0.2, 0.28),
        "gspo": loss("grpo", 3e-4, 4e-4, "sequence"),
        "cispo_token_mean": loss("cispo", 1.0, 5.0),
        "sapo": loss("sapo", 0.2, 0.28),
        "grpo_unbiased_kl": loss("dapo", 0.2, 0.28, beta=0.3, use_bias_correction_kl=True),
    }


def verl_losses(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the functions of `core_algos`'s registry."""
    from verl.trainer.ppo import core_algos
    from verl.workers.config import FSDPActorConfig

    def loss(mode: str, low: float, high: float, aggregation: str, cap: float = 1e6):
        config = FSDPActorConfig(
            strategy="fsdp",
            rollout_n=GROUP,
            ppo_micro_batch_size_per_gpu=1,
            clip_ratio=low,
            clip_ratio_low=low,
            clip_ratio_high=high,
            clip_ratio_c=cap,
            tau_pos=1.0,
            tau_neg=1.05,
        )
        found = core_algos.get_policy_loss_fn(mode)(
            old_log_prob=x["old"],
            log_prob=x["new"],
            advantages=x["advantage"][:, None].expand(-1, T),
            response_mask=x["mask"],
            loss_agg_mode=aggregation,
            config=config,
        )
        return found[0]

    def kl(kind: str) -> torch.Tensor:
        tokens = core_algos.kl_penalty(x["new"], x["ref"], kind)
        return core_algos.agg_loss(tokens, x["mask"], "token-mean")

    return {
        "grpo": loss("vanilla", 0.2, 0.28, "token-mean"),
        "dr_grpo": loss("vanilla", 0.2, 0.28, "seq-mean-token-sum-norm"),
        "dapo": loss("vanilla", 0.2, 0.28, "token-mean"),
        "gspo": loss("gspo", 3e-4, 4e-4, "seq-mean-token-mean"),
        "cispo_token_mean": loss("cispo", 1.0, 4.0, "token-mean"),
        "rloo": loss("gpg", 0.2, 0.28, "seq-mean-token-sum"),
        "reinforce_pp": loss("vanilla", 0.2, 0.28, "token-mean") + 0.001 * kl("mse"),
        "dppo": loss("dppo_tv", 0.15, 0.15, "seq-mean-token-sum-norm", 20.0),
        "dppo_kl": loss("dppo_kl", 0.05, 0.05, "seq-mean-token-sum-norm", 20.0),
        "sapo": loss("sapo", 0.2, 0.28, "seq-mean-token-mean"),
    }


def verl_advantages(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the advantage estimators of `core_algos`; of the first token, as all are the same."""
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo import core_algos

    at_end = torch.zeros_like(x["mask"])
    last = x["mask"].sum(-1).long() - 1
    index = np.arange(GROUPS * GROUP) // GROUP

    def advantage(name: str, reward: torch.Tensor, **settings) -> torch.Tensor:
        rewards = at_end.clone()
        rewards[torch.arange(len(last)), last] = reward
        estimate = core_algos.get_adv_estimator_fn(name)
        return estimate(rewards, x["mask"], index=index, **settings)[0][:, 0]

    config = AlgoConfig(gdpo_reward_keys=["part0", "part1"])
    prompts = torch.zeros((GROUPS * GROUP, 1))
    decoupled = {
        "config": config,
        "non_tensor_batch": {name: x[name].numpy() for name in ("part0", "part1")},
        "batch": {
            "prompts": prompts,
            "attention_mask": torch.cat([prompts + 1, x["mask"]], 1).long(),
        },
    }
    total = x["part0"] + x["part1"]
    return {
        "grpo": advantage("grpo", total),
        "dr_grpo": advantage("grpo", total, norm_adv_by_std_in_grpo=False),
        "rloo": advantage("rloo", total),
        "reinforce_pp": advantage("reinforce_plus_plus_baseline", total),
        "gdpo": advantage("gdpo", total, **decoupled),
    }


def main(library: str, path: str) -> None:
    """Writes the file."""
    arrays = inputs()
    x = {name: torch.tensor(value) for name, value in arrays.items()}
    x["new"].requires_grad_()
    losses = {"trl": trl_losses, "verl": verl_losses}[library](x)
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, x["new"], retain_graph=True)
        arrays[f"loss/{name}"], arrays[f"grad/{name}"] = loss.detach().numpy(), gradient.numpy()
    if library == "verl":
        found = verl_advantages(x)
        arrays |= {f"advantage/{name}": value.numpy() for name, value in found.items()}
    versions = {name: importlib.metadata.version(name) for name in (library, "torch", "numpy")}
    arrays["versions"] = np.array(" ".join(f"{n}=={v}" for n, v in versions.items()))
    arrays["command"] = np.array(f"python tests/learn/make_reference.py {library} {path}")
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
