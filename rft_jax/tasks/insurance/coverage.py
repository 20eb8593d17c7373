"""Whether a policy covers a claim, as people read it: 138 pairs of clause and claim.

The data are `data/1_falseconsensus/fineTuneDataSet.csv` of
https://github.com/madiganbrodsky/vague_contracts: what 18 to 47 readers said of each pair. The
label of LegalBench (https://arxiv.org/abs/2308.11462; CC BY 4.0) is kept beside: yes or no where
the lower end of the share's 95 % interval is at least a half, else unclear.

Each clause has three versions of one claim: they stay on one side of the split. The share of
readers who say what the answer says is partial credit.
"""

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft_jax.tasks.release import ReleaseData, messages, read_csv, worked
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

FILE = "data/1_falseconsensus/fineTuneDataSet.csv"
VERDICTS = {"yes": "nYes", "no": "nNo", "unclear": "nCantDecide"}
INSTRUCTIONS = (
    "You are given an insurance policy and a claim. Say whether the policy covers the claim as "
    "most people would read it, and the share of a hundred readers who would say that it does. "
    'Answer with one JSON object and nothing else: {"covered": "yes", "no" or "unclear", '
    '"share_yes": a number from 0 to 1}.'
)
# The chi-square of one degree of freedom at 1 - 0.05 / 3, as Goodman's intervals of three shares
# have it (Technometrics 7, 1965).
CHI_SQUARE = 5.730721


@dataclass(frozen=True)
class CoverageData(ReleaseData):
    """The pairs as items; their keys are named in `items`.

    Attributes:
        instructions: Open with a developer message, which a general model needs.
        valid_titles: So many of the 46 clauses for `valid`.
        data_seed: The seed of the split.
    """

    instructions: bool = True
    valid_titles: int = 15
    data_seed: int = 0

    def rows(
        self, release: Path, directory: Path | None = None
    ) -> Mapping[str, Sequence[JsonObject]]:
        """See `ReleaseData.rows`."""
        del directory
        every = self.items(release)
        titles = sorted({item["title"] for item in every})
        if not 0 < self.valid_titles < len(titles):
            raise InputError(f"data.valid_titles: must be from 1 to {len(titles) - 1}")
        held_out = set(
            random.Random(f"coverage {self.data_seed}").sample(titles, self.valid_titles)
        )
        train = [item for item in every if item["title"] not in held_out]
        return {
            "train": train,
            "valid": [item for item in every if item["title"] in held_out],
            "answers": [worked(item, right_answer(item)) for item in train],
        }

    def items(self, release: Path) -> list[JsonObject]:
        """All pairs, with the readers' shares `p_yes`, `p_no`, `p_unclear` and their maximum."""
        columns = ("title", "version", *VERDICTS.values(), "header", "continuation")
        instructions = INSTRUCTIONS if self.instructions else ""
        items: list[JsonObject] = []
        for row in read_csv(release / FILE, columns):
            counts = {verdict: int(row[column]) for verdict, column in VERDICTS.items()}
            total = sum(counts.values())
            share = {f"p_{verdict}": round(n / total, 4) for verdict, n in counts.items()}
            policy, claim = (" ".join(re.sub(r"<[^>]*>", "", row[c]).split()) for c in columns[-2:])
            items.append(
                {
                    "messages": messages(f"Policy: {policy}\nClaim: {claim}", instructions),
                    "title": row["title"],
                    "version": row["version"],
                    **share,
                    "p_best": max(share.values()),
                    "legalbench": legalbench_label(counts),
                }
            )
        return items


def legalbench_label(counts: Mapping[str, int]) -> str:
    """`yes` or `no` where the lower end of Goodman's 95 % interval is at least 0.5, else `unclear`.

    Args:
        counts: Readers by verdict.
    """
    total = sum(counts.values())
    for verdict in ("yes", "no"):
        n = counts[verdict]
        spread = math.sqrt(CHI_SQUARE * (CHI_SQUARE + 4 * n * (total - n) / total))
        if (CHI_SQUARE + 2 * n - spread) / (2 * (total + CHI_SQUARE)) >= 0.5:
            return verdict
    return "unclear"


def right_answer(item: JsonObject) -> str:
    """What most readers say, and their share."""
    best = max(VERDICTS, key=lambda verdict: item[f"p_{verdict}"])
    return json.dumps({"covered": best, "share_yes": item["p_yes"]})


def grader() -> JsonObject:
    """0.7 for the verdict, as the share of readers who agree, and 0.3 for the estimated share."""
    covered = "{{sample.output_json.covered}}"
    verdicts = {
        verdict: {"type": "string_check", "name": verdict, "operation": "eq"}
        | {"input": covered, "reference": verdict}
        for verdict in VERDICTS
    }
    agree = " + ".join(f"{verdict} * {{{{item.p_{verdict}}}}}" for verdict in VERDICTS)
    share = {"type": "number", "name": "share", "input": "{{sample.output_json.share_yes}}"}
    share |= {"reference": "{{item.p_yes}}", "absolute": 0.02, "partial_absolute": 0.4}
    return {
        "type": "multi",
        "name": "coverage",
        "calculate_output": f"0.7 * ({agree}) / {{{{item.p_best}}}} + 0.3 * share",
        "graders": verdicts | {"share": share},
    }


def official_grader() -> JsonObject:
    """LegalBench's accuracy, for `audit_grader`."""
    check = {"type": "string_check", "name": "legalbench", "operation": "eq"}
    given = "{{sample.output_json.covered}}"
    return check | {"input": given, "reference": "{{item.legalbench}}"}
