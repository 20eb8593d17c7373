"""Gradient accumulation: into how many parts an update is split, and along which axes."""

import math
from typing import NamedTuple


class UpdateSplit(NamedTuple):
    """Into how many parts a device's prompts are split, and the samples of each prompt."""

    of_prompts: int
    of_group: int


def split_update(count: int, prompts: int) -> UpdateSplit:
    """How so many parts split so many prompts of a device, each with its samples.

    Prompts first, as far as they can be: one whose samples are split is run for each part anew.
    """
    of_prompts = math.gcd(count, prompts)
    return UpdateSplit(of_prompts, count // of_prompts)


class UpdateParts(NamedTuple):
    """Into how many parts an update's batch is split, and the setting that says so.

    Attributes:
        setting: Its name in the stage.
        count: How many parts.
        group: The samples of a prompt that may come into several; 1 where they stay together.
    """

    setting: str
    count: int
    group: int = 1

    def fit(self, prompts: int) -> bool:
        """Whether the parts of so many prompts of a device are of one size."""
        return self.group % split_update(self.count, prompts).of_group == 0
