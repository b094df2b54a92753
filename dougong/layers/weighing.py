"""How several losses are weighed: by what each of them leaves uncertain, which is learnt."""

# L losses

from __future__ import annotations

import torch
from torch import Tensor, nn


class Uncertainty(nn.Module):
    """exp(-s) · loss + s / 2 for each loss, s learnt (Kendall et al. 2018, arXiv:1705.07115, its form for classes).

    s is the logarithm of a variance. A loss that stays high gets a low weight; the second term keeps all from getting none.
    """

    def __init__(self, losses: int):
        super().__init__()
        self.log_variances = nn.Parameter(torch.empty(losses))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.log_variances)  # begins as the plain sum

    def forward(self, losses: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """(L,) -> (L,); `share`: of the step's rows that are in these losses, by which the second term counts."""
        return torch.exp(-self.log_variances) * losses + share * self.log_variances / 2

    @property
    def weights(self) -> list[float]:
        return torch.exp(-self.log_variances.detach()).tolist()
