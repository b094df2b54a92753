"""The head of a text with `objective: ctc`: spelled along the positions of what goes in, all at once, none after another.

The token that closes every text, and stands within none, serves as the blank.
"""

# B batch, T positions, D width, V vocabulary, L tokens of a text

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dougong.core.errors import bad_field
from dougong.layers.ctc import beam_search, ctc_loss_sum, greedy
from dougong.layers.features import Features, length_mask
from dougong.layers.losses import Loss
from dougong.layers.positions import real_first


class Head(nn.Module):
    """Features -> for each position a token, or the blank; the text that they say together."""

    AUTOREGRESSIVE: ClassVar[bool] = False
    ALIGNED: ClassVar[bool] = True
    LOSSES: ClassVar[tuple[str, ...]] = ("auto",)

    def __init__(self, config: Any, codec: Any, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, "auto for a text with objective: ctc", "remove it")
        self.blank, self.beams = codec.end, config.beams
        self.projection = nn.Linear(width, codec.vocab_size)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.projection.weight)  # the first prediction is uniform
        nn.init.zeros_(self.projection.bias)

    def spelled(self, batch: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
        """Targets (B, L) and how many tokens of each row are its text, (B,): the last closes it."""
        return batch[f"{name}.tokens"], batch[f"{name}.tokens.length"] - 1

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return self.spelled(batch, name)[1].clamp(min=1).sum()  # that nothing is said is told, too

    def scores(self, features: Features) -> tuple[Tensor, Tensor]:
        """(B, T, V), and how many positions of each row are real, (B,): these come first."""
        packed, _ = real_first(features)
        return self.projection(packed.values), packed.mask.sum(1)

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        """The sum of nats that the right texts cost; see `assembly.without_path` for those that have no path."""
        scores, positions = self.scores(features)
        targets, lengths = self.spelled(batch, name)
        return ctc_loss_sum(scores, positions, targets, lengths, self.blank)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"tokens" (B, L) padded, "tokens.length" (B,)}."""
        scores, positions = self.scores(features)
        rows = scores.detach().float().log_softmax(-1).cpu().numpy()
        texts = [self.read(row[:length]) for row, length in zip(rows, positions.tolist(), strict=True)]
        lengths = torch.tensor([len(text) for text in texts])
        tokens = torch.zeros((len(texts), max([1, *map(len, texts)])), dtype=torch.int64)
        tokens[length_mask(lengths, tokens.shape[1])] = torch.tensor(
            [token for text in texts for token in text], dtype=torch.int64
        )
        return {"tokens": tokens, "tokens.length": lengths}

    def read(self, row: np.ndarray) -> list[int]:  # (T, V) -> tokens
        return greedy(row, self.blank) if self.beams == 1 else beam_search(row, self.blank, self.beams)
