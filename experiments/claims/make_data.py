"""Writes the worked example's data: travel insurance claims and how they should be decided.

    python experiments/claims/make_data.py

A claim is denied if it came more than 7 days late, else referred if it is above 1000 EUR or has no
receipts, else approved. `train.jsonl` and `valid.jsonl` have the same shares of the four reasons,
such that no constant answer earns more than 0.36. `supervised.jsonl` are a trainee's answers: they
have the form and check the claim correctly, but leave two thirds of the claims open, and a quarter
of the decisions that they make is wrong. What is left to learn is for reinforcement.
"""

import itertools
import json
import random
from pathlib import Path
from typing import NamedTuple

WHAT = (
    "lost luggage",
    "stolen camera",
    "cancelled flight",
    "broken ski",
    "dentist abroad",
    "missed train",
    "rental car",
    "lost passport",
    "hotel fire",
    "sprained ankle",
)
DECISIONS = {"late": "deny", "amount": "refer", "receipts": "refer", "complete": "approve"}
OPEN = {"decision": "wait", "reason": "unclear"}  # the grader pays nothing for it
SHARES = {"late": 0.3, "amount": 0.2, "receipts": 0.2, "complete": 0.3}
SIZES = {"valid": 100, "train": 1000, "supervised": 1500}


class Claim(NamedTuple):
    """What a customer reports."""

    what: str
    amount: int  # EUR
    days: int
    receipts: bool

    @property
    def text(self) -> str:
        """The prompt."""
        receipts = "yes" if self.receipts else "no"
        return (
            f"{self.what}, {self.amount} EUR, reported after {self.days} days, receipts: {receipts}"
        )

    @property
    def reason(self) -> str:
        """Why the claim is decided as it is."""
        if self.days > 7:
            return "late"
        if self.amount > 1000:
            return "amount"
        return "complete" if self.receipts else "receipts"


# The documentation shows these two; `valid.jsonl` has them, so that nothing is trained on them.
SHOWN = (
    Claim("stolen camera", 1500, 9, receipts=False),
    Claim("broken ski", 300, 9, receipts=True),
)


def answer(reason: str) -> dict[str, str]:
    """The decision for a reason, as the grader's item or the model's answer has it."""
    return {"decision": DECISIONS[reason], "reason": reason} if reason in DECISIONS else OPEN


def user(claim: Claim) -> dict[str, str]:
    """The claim as a message."""
    return {"role": "user", "content": claim.text}


def demonstration(rng: random.Random, claim: Claim) -> dict:
    """The claim and the trainee's answer: open in 8 of 12 cases, right in 3 and wrong in 1."""
    wrong = [reason for reason in DECISIONS if reason != claim.reason]
    reason = rng.choices(["unclear", claim.reason, rng.choice(wrong)], (8, 3, 1))[0]
    days = "over" if claim.days > 7 else "fine"
    amount = "over" if claim.amount > 1000 else "fine"
    receipts = "fine" if claim.receipts else "missing"
    assistant = {
        "role": "assistant",
        "reasoning_content": (
            f"{claim.days} days {days}, {claim.amount} EUR {amount}, receipts {receipts}: {reason}."
        ),
        "content": json.dumps(answer(reason)),
    }
    return {"messages": [user(claim), assistant]}


def draw(rng: random.Random) -> dict[str, list[Claim]]:
    """The claims of each file in random order; no claim is in two of them."""
    every = list(itertools.starmap(Claim, itertools.product(
        WHAT, range(50, 2001, 50), range(1, 15), (True, False)
    )))  # fmt: skip
    rng.shuffle(every)
    every = [*SHOWN, *(claim for claim in every if claim not in SHOWN)]
    pools = {reason: [c for c in every if c.reason == reason] for reason in SHARES}
    files = {}
    for name, size in SIZES.items():
        claims = []
        for reason, share in SHARES.items():
            count = round(share * size)
            claims += pools[reason][:count]
            del pools[reason][:count]
        rng.shuffle(claims)
        files[name] = claims
    return files


def main() -> None:
    """Writes the three files beside this script."""
    rng = random.Random(0)
    files = draw(rng)
    for name, claims in files.items():
        if name == "supervised":
            rows = [demonstration(rng, claim) for claim in claims]
        else:
            rows = [{"messages": [user(c)], **answer(c.reason)} for c in claims]
        path = Path(__file__).with_name(f"{name}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
