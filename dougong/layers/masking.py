"""Masking: which tokens a masked language model has to tell, and what it sees in their place.

After Devlin et al. 2019 (arXiv:1810.04805): most are replaced by a mask token, some by a random token, and some stay, so
that a model which is later given whole texts has learnt from such positions, too.
"""

# B batch, T time

from __future__ import annotations

import torch
from torch import Tensor

MASKED, RANDOM = 0.8, 0.1  # shares of what is to be told; the rest stays as it is


def hide(
    tokens: Tensor,  # (B, T) int64
    free: Tensor,  # (B, T) bool: what may be asked for
    draws: Tensor,  # (2, B, T) uniform in [0, 1)
    *,
    share: float,
    mask: int,
    vocabulary: int,
) -> tuple[Tensor, Tensor]:  # (B, T) int64, (B, T) bool
    """The tokens as the model sees them, and which of them it has to tell."""
    hidden = free & (draws[0] < share)
    how = draws[0] / share  # among the hidden uniform again
    covered = hidden & (how < MASKED)
    swapped = hidden & (how >= MASKED) & (how < MASKED + RANDOM)
    other = (draws[1] * vocabulary).long()
    return torch.where(covered, mask, torch.where(swapped, other, tokens)), hidden
