"""Language: rows are documents, prediction {"nats": (N,)} (sum of -log p), target {"tokens": (N,), "bytes": (N,)}.

Ratios of sums over all documents, not means of the documents' ratios: a long document weighs more, as it should.
"""

# N documents

from __future__ import annotations

import numpy as np

from dougong.data.columns import Columns
from dougong.metrics.metric import Metric, ratio


class TokenLoss(Metric):
    """Nats per token. Depends on the tokenizer: compare models of one tokenizer only."""

    name = "loss"
    higher_is_better = False
    per = "tokens"

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        nats = np.asarray(prediction["nats"], dtype=np.float64)
        return np.stack([nats, np.asarray(target[self.per], dtype=np.float64)], axis=1)  # (N, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class Perplexity(TokenLoss):
    """exp(nats per token). Depends on the tokenizer: compare models of one tokenizer only."""

    name = "perplexity"

    def value(self, sums: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # above e^709 it is inf, and says so
            return np.exp(super().value(sums))


class MaskedPerplexity(Perplexity):
    """exp(nats per hidden token), of a model that sees what stands on both sides: no perplexity of a text."""

    name = "masked_perplexity"


class MaskedAccuracy(TokenLoss):
    """The share of the hidden tokens that were told right, by the likeliest token at each place."""

    name = "masked_accuracy"
    higher_is_better = True
    share = True

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        right = np.asarray(prediction["right"], dtype=np.float64)
        return np.stack([right, np.asarray(target["tokens"], dtype=np.float64)], axis=1)  # (N, 2)


class NoiseAUC(MaskedAccuracy):
    """How often a right word scores above a word of the noise (an equal score counts half): by chance 0.5."""

    name = "noise_auc"


class BitsPerByte(TokenLoss):
    """Bits per byte of UTF-8 text: comparable between tokenizers, and with compressors."""

    name = "bits_per_byte"
    per = "bytes"

    def value(self, sums: np.ndarray) -> np.ndarray:
        return super().value(sums) / np.log(2)
