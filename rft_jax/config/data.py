"""Settings of the data and of the tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class TfdsConfig:
    """How an example of TensorFlow Datasets becomes an item; its features are the item's keys.

    Each text is a Jinja template over the features, such as "{{ question }}".
    """

    prompt: str = ""  # the user's message; empty: the data set has `messages`
    system: str = ""  # a system message before it; empty: none
    answer: str = ""  # the assistant's message, for `supervised` and `answers`
    reference: str = ""  # a key `reference` for the grader; empty: none
    data_dir: str = ""  # where TFDS keeps data sets; empty: its default


@dataclass(frozen=True)
class DataConfig:
    """Where the items come from: JSON lines, or `tfds:NAME[/CONFIG]:SPLIT`.

    A task subclasses this and overrides `materialize`.
    """

    train: str = ""  # RFT items: messages, and any other keys for the grader
    valid: str = ""  # RFT items, none of them in `train`
    supervised: str = ""  # items that end with an assistant message
    answers: str = ""  # likewise: the right answers to `train`, for supervised fine-tuning
    symbols: str = ""  # a text a line, such as a name, that a tokenizer trained here keeps whole
    tfds: TfdsConfig = TfdsConfig()

    def materialize(self, directory: Path) -> "DataConfig":
        """Returns the files to read, after writing them below `directory` if they are made."""
        del directory
        return self


@dataclass(frozen=True)
class TokenizerConfig:
    """A SentencePiece model: read from `path`, or trained on the run's own data."""

    path: str = ""
    vocab_size: int = 8192
    thinking: bool | None = None  # of a source whose template leaves the choice
    # plain: "User: ..." and "Assistant: ..." for a source that has no chat template, such as a base
    # model, or instead of its own.
    chat_template: Literal["source", "plain"] = "source"
    training_texts: int = 20_000  # a sample of the data's texts; training takes seconds
