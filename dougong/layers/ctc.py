"""Connectionist temporal classification: a text is read off positions that nobody aligned with it (Graves et al. 2006, ICML).

Each position says a token or a blank; a path says the text that is left when repetitions are made one and blanks are removed.
The loss is over all paths that say the right text. Decoding: greedily, or by prefix beam search after Hannun et al. 2014
(arXiv:1408.2873), which adds up the paths that say the same.
"""

# B batch, T positions, V tokens with the blank, L targets

from __future__ import annotations

import math

import numpy as np
from torch import Tensor
from torch.nn import functional

NEGLIGIBLE = math.log(1e-6)  # of the likeliest token of a position: what is less likely begins no prefix
NEVER = -math.inf
Paths = tuple[float, float]  # log-probability of those that end in a blank, and of those that end in their last token


def ctc_loss_sum(scores: Tensor, positions: Tensor, targets: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """The sum over rows of the nats that their texts cost.

    scores (B, T, V) before the softmax, positions (B,) how many are real, targets (B, L) padded, lengths (B,). A row that no path
    fits (see `needed`) adds nothing and teaches nothing: whoever calls this has to tell of such rows.
    """
    return functional.ctc_loss(
        scores.float().log_softmax(-1).transpose(0, 1),  # (T, B, V)
        targets,
        positions,
        lengths,
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )


def needed(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Positions that each text takes, (N,): one a token, and one for the blank between two alike. Ragged texts."""
    alike = np.zeros(len(tokens) + 1, dtype=np.int64)  # up to each token, those that equal the one before
    if len(tokens):
        same = tokens[1:] == tokens[:-1]
        borders = offsets[1:-1]
        same[borders[(borders > 0) & (borders < len(tokens))] - 1] = False  # of different texts
        alike[2:] = np.cumsum(same)
    return np.diff(offsets) + alike[offsets[1:]] - alike[offsets[:-1]]


def greedy(scores: np.ndarray, blank: int) -> list[int]:
    """What the likeliest path says: (T, V) -> tokens."""
    best = scores.argmax(-1)
    if not len(best):
        return []
    changes = np.concatenate([[True], best[1:] != best[:-1]])
    return [int(token) for token in best[changes] if token != blank]


def beam_search(log_probabilities: np.ndarray, blank: int, beams: int) -> list[int]:
    """The likeliest text, all its paths added up: (T, V) -> tokens. `beams` prefixes are gone on with at each position."""
    found: dict[tuple[int, ...], Paths] = {(): (0.0, NEVER)}
    for row in log_probabilities:
        likely = np.flatnonzero(row >= row.max() + NEGLIGIBLE)
        tokens = [(int(token), float(row[token])) for token in likely if token != blank]
        grown: dict[tuple[int, ...], Paths] = {}

        def add(prefix: tuple[int, ...], in_blank: float, in_token: float, grown: dict = grown) -> None:
            before = grown.get(prefix, (NEVER, NEVER))
            grown[prefix] = _sum(before[0], in_blank), _sum(before[1], in_token)

        for prefix, (in_blank, in_token) in found.items():
            either = _sum(in_blank, in_token)
            add(prefix, either + float(row[blank]), in_token + float(row[prefix[-1]]) if prefix else NEVER)
            for token, cost in tokens:
                repeated = bool(prefix) and token == prefix[-1]  # a second one only after a blank
                add((*prefix, token), NEVER, (in_blank if repeated else either) + cost)
        best = sorted(grown, key=lambda prefix: (-_sum(*grown[prefix]), prefix))[:beams]
        found = {prefix: grown[prefix] for prefix in best}
    return list(next(iter(found)))


def _sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))
