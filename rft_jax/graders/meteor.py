"""The metric `meteor` of `text_similarity`, which runs on the host: nltk and its WordNet.

nltk's `meteor_score` with its defaults, of words as `str.split` has them: exact matches after
lower case, then matches of Porter stems, then of WordNet's synonyms (Banerjee and Lavie, ACL 2005
workshop). A text without words, or without matches, earns 0.
"""

import contextlib
from dataclasses import dataclass

from rft_jax.config import HostOptions
from rft_jax.graders.placement import OneByOne
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_host
from rft_jax.graders.types import HostScore, HostView, Items


@dataclass(frozen=True)
class Meteor:
    """A validated `text_similarity` with the metric `meteor`."""

    name: str
    input: Template
    reference: Template

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Meteor":
        """See `HostGraderType.parse`."""
        try:
            from nltk.corpus import wordnet

            wordnet.ensure_loaded()
        except ImportError:
            raise fields.error(
                "evaluation_metric", "meteor needs nltk and its WordNet; pip install nltk"
            ) from None
        except LookupError:
            raise fields.error(
                "evaluation_metric", "meteor needs WordNet; run python -m nltk.downloader wordnet"
            ) from None
        return cls(name, fields.template("input"), fields.template("reference"))

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        self.input.encode(items)
        self.reference.encode(items)

    def open(self, options: HostOptions) -> contextlib.AbstractContextManager[OneByOne]:
        """See `HostGraderType.open`."""
        del options
        return contextlib.nullcontext(OneByOne(self))

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`."""
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import single_meteor_score

        texts, errors = render_on_host(view, (self.input, self.reference), items, n)
        if errors:
            return HostScore(0.0, errors)
        text, reference = texts
        return HostScore(single_meteor_score(reference.split(), text.split(), wordnet=wordnet))
