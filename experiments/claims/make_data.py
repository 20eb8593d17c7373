"""Writes the worked example's data: travel insurance claims and how they should be decided.

    python experiments/claims/make_data.py

A claim is denied if it came more than 7 days late, else referred if it is above 1000 EUR or has no
receipts, else approved. `supervised.jsonl` shows the format, and the right reason in half of its
rows only: what is left to learn is for reinforcement.
"""

import json
import random
from pathlib import Path

WHAT = ("lost luggage", "stolen camera", "cancelled flight", "broken ski", "dentist abroad")
DECISIONS = {"late": "deny", "amount": "refer", "receipts": "refer", "complete": "approve"}


def claim(rng: random.Random) -> dict:
    """A claim as an RFT item: messages, and the reference for the grader."""
    days, amount, receipts = rng.randint(1, 14), 100 * rng.randint(1, 20), rng.random() < 0.7
    text = (
        f"{rng.choice(WHAT)}, {amount} EUR, reported after {days} days, "
        f"receipts: {'yes' if receipts else 'no'}"
    )
    if days > 7:
        reason = "late"
    elif amount > 1000:
        reason = "amount"
    else:
        reason = "complete" if receipts else "receipts"
    return {
        "messages": [{"role": "user", "content": text}],
        "decision": DECISIONS[reason],
        "reason": reason,
    }


def demonstration(rng: random.Random, item: dict) -> dict:
    """The claim with an answer, whose reason is right in half of the rows."""
    wrong = [reason for reason in DECISIONS if reason != item["reason"]]
    reason = item["reason"] if rng.random() < 0.5 else rng.choice(wrong)
    answer = {
        "role": "assistant",
        "reasoning_content": f"This looks like a case of {reason}.",
        "content": json.dumps({"decision": DECISIONS[reason], "reason": reason}),
    }
    return {"messages": [*item["messages"], answer]}


def main() -> None:
    """Writes the three files beside this script; no claim is in two of them."""
    rng = random.Random(0)
    claims: dict[str, dict] = {}
    while len(claims) < 450:
        item = claim(rng)
        claims[item["messages"][0]["content"]] = item
    items = list(claims.values())
    files = {
        "train": items[:100],
        "valid": items[100:150],
        "supervised": [demonstration(rng, item) for item in items[150:]],
    }
    for name, rows in files.items():
        path = Path(__file__).with_name(f"{name}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
