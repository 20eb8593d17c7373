"""transformers' `generate` and a plain torch training step: seconds, as one JSON line.

    python experiments/benchmarks/gpu/peer.py --model Qwen/Qwen3-0.6B --batch 64

`generate` samples with a bfloat16 copy of random weights; the step, in bfloat16 autocast with
float32 weights and fused AdamW, has the policy gradient's log-probabilities as its loss, so many
completions at a time, each with its prompt before it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

SHAPES = {
    "Qwen/Qwen3-0.6B": {"hidden_size": 1024, "intermediate_size": 3072},
    "Qwen/Qwen3-1.7B": {"hidden_size": 2048, "intermediate_size": 6144},
}
ROUNDS = 3
FEW = 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Prints both times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--completion", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    config = Qwen3Config(
        **SHAPES[options.model],
        num_hidden_layers=options.layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151_936,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config).to(DEVICE)
    length = options.prompt + options.completion
    vocabulary = model.config.vocab_size
    tokens = torch.randint(2, vocabulary, (options.batch, length), device=DEVICE)
    found = {
        "name": f"torch {torch.__version__}",
        "update_s": _update_seconds(model, tokens, options),
        "token_s": _token_seconds(model.to(torch.bfloat16), tokens, options),
    }
    print(json.dumps(found))


def _token_seconds(model: Any, tokens: torch.Tensor, options: argparse.Namespace) -> float:
    prompts = tokens[:, : options.prompt]
    model.eval()

    def seconds(count: int) -> float:
        return _seconds(
            lambda: model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                top_k=0,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=0,
            )
        )

    return (seconds(options.completion) - seconds(FEW)) / (options.completion - FEW)


def _update_seconds(model: Any, tokens: torch.Tensor, options: argparse.Namespace) -> float:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=DEVICE == "cuda")
    advantage = torch.randn(len(tokens), 1, device=DEVICE)

    def step() -> None:
        for at in range(0, len(tokens), options.micro_batch):
            part = tokens[at : at + options.micro_batch]
            with torch.autocast(DEVICE, torch.bfloat16):
                logits = model(part, logits_to_keep=options.completion + 1).logits[:, :-1]
            chosen = part[:, options.prompt :, None]
            logprob = logits.float().log_softmax(-1).gather(-1, chosen)[..., 0]
            loss = -(advantage[at : at + options.micro_batch] * logprob).sum() / tokens.numel()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _seconds(step)


def _seconds(call: Callable[[], Any]) -> float:
    def timed() -> float:
        began = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    timed()
    return statistics.median(timed() for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
