"""Next-token prediction: a sequence of tokens, and the one token that follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fltk.objectives.cross_entropy import CrossEntropy
from fltk.objectives.measures import ACCURACY, PERPLEXITY, Measure

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NextToken(CrossEntropy):
    """Samples are token numbers (n, T), targets (n,) the next tokens, outputs (n, V) logits over the vocabulary.

    Accuracy is that of a token; perplexity is exp(mean cross-entropy) over the tokens of a client. The next token is
    one class per sample, so that options which need class labels hold for it as well.
    """

    name: str = "next token"
    tokens: bool = True

    @property
    def measures(self) -> Mapping[str, Measure]:
        return {ACCURACY.key: ACCURACY, PERPLEXITY.key: PERPLEXITY}

    def score(self, out: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        return {ACCURACY.key: out.argmax(1) == y, PERPLEXITY.key: self.loss(out, y)}
