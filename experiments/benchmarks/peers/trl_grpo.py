"""GRPO with TRL: one JSON line with its throughput.

pip install torch==2.13.0 trl==1.16.0 transformers accelerate datasets
python trl_grpo.py CHECKPOINT --prompt 64 --completion 64 --prompts 8 --group 8 --steps 8
"""

import tempfile
import time

import common
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class StepClock(TrainerCallback):
    """Seconds from one step's end to the next one's."""

    def __init__(self):
        self.last, self.seconds = time.perf_counter(), []

    def on_step_end(self, *args, **kwargs):
        """Called by the trainer."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


def main() -> None:
    """Trains for the given steps."""
    args = common.parse_args(__doc__.split("\n")[0])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.checkpoint)
    prompts = common.make_prompts(tokenizer, args.prompt)
    clock = StepClock()
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=args.prompts * args.group,
        num_generations=args.group,
        max_completion_length=args.completion,
        max_steps=args.steps,
        learning_rate=1e-4,
        beta=0.0,
        temperature=1.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        generation_kwargs={"min_new_tokens": args.completion},
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32),
        reward_funcs=common.vowel_share,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    common.report("trl", args, clock.seconds)


if __name__ == "__main__":
    main()
