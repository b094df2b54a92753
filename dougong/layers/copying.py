"""Copying: the next token is either written from the vocabulary or taken from a text that was read, where it stands.

Pointer-generator networks, See et al. 2017 (arXiv:1704.04368): p(w) = (1 − g) p_written(w) + g Σ attention on the places
where w stands. There the attention is the decoder's own and g looks at its context and input as well; here the attention
has queries and keys of its own, and g looks at the decoder's features, in which layers of attention have put both.
"""

# B rows, T places written, S places read, D width, V vocabulary, R rows that write, several of which may read one text

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from dougong.layers.attention import UNSEEN, Readers
from dougong.layers.features import Features
from dougong.layers.feedforward import Linear

LEAST = 1e-12  # the share of what stands nowhere: its logarithm has a gradient, and that of 0 has none


@dataclass(frozen=True)
class Source:
    """A text that is copied from."""

    keys: Tensor  # (B, S, D)
    mask: Tensor  # (B, S) bool
    tokens: Tensor  # (B, S) int64

    def __getitem__(self, rows: Tensor) -> Source:
        return Source(self.keys[rows], self.mask[rows], self.tokens[rows])


class Copier(nn.Module):
    """Where to copy from, and whether to."""

    HIDDEN: ClassVar[bool] = True  # its matrices stand between features and features: Muon takes them as a backbone's

    def __init__(self, width: int):
        super().__init__()
        self.query = Linear(width, width, bias=False)
        self.key = Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.empty(width))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gate)  # as often as not

    def source(self, read: Features, tokens: Tensor) -> Source:
        """Of the features of a text (B, S, D) and its tokens (B, S)."""
        return Source(self.key(read.values), read.mask, tokens)

    def forward(self, values: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> shares of the places that are read (B, T, S), and the gate's logit (B, T); both float32.

        Of a text of which nothing is real nothing is copied.
        """
        scores = (self.query(values) @ source.keys.mT).float() * values.shape[-1] ** -0.5  # (B, T, S)
        shares = scores.masked_fill(~source.mask[:, None], UNSEEN).softmax(-1) * source.mask[:, None]
        return shares, (values @ self.gate.to(values.dtype)).float()

    def log_probabilities(self, values: Tensor, logits: Tensor, source: Source, readers: Readers | None) -> Tensor:
        """(R, D), (R, V) -> (R, V): the logarithm of the whole mixture."""
        asked = values[:, None]  # (R, 1, D)
        shares, gate = self(asked if readers is None else readers.together(asked), source)
        if readers is not None:
            shares, gate = readers.apart(shares), readers.apart(gate[..., None])[..., 0]
        tokens = source.tokens if readers is None else source.tokens[readers.texts]  # (R, S)
        copied = logits.new_zeros(logits.shape).scatter_add_(1, tokens, shares[:, 0].to(logits.dtype))  # (R, V)
        return mixed(logits.log_softmax(-1), copied, gate)


def copied_shares(shares: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
    """The share of the places where each target stands: (B, T, S), (B, S), (B, T) -> (B, T)."""
    return (shares * (tokens[:, None] == targets[..., None])).sum(-1)


def mixed(written: Tensor, copied: Tensor, gate: Tensor) -> Tensor:
    """The logarithm of a mixture: of what is written, as a logarithm, and of what is copied; `gate` is the logit of the latter."""
    return torch.logaddexp(logsigmoid(-gate) + written, logsigmoid(gate) + copied.clamp(min=LEAST).log())
