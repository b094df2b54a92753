"""The model shapes that are timed, their arithmetic, and the batches that every peer gets."""

# B batch, T context, N tokens of the file

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder of GPT-2's form: hidden width 4 · width, the head tied to the embedding."""

    layers: int
    width: int
    heads: int
    context: int
    batch: int  # rows of one step
    vocab_size: int
    lr: float  # constant, so that a run of few steps learns at once

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context

    @property
    def matrix_parameters(self) -> int:
        """Those that every token is multiplied with: attention and feed-forward 12 D² a layer, and the head."""
        return 12 * self.layers * self.width**2 + self.vocab_size * self.width

    @property
    def flops_per_token(self) -> int:
        """Forward and backward, as PaLM counts them (Chowdhery et al. 2022, arXiv:2204.02311, appendix B)."""
        return 6 * self.matrix_parameters + 12 * self.layers * self.width * self.context


SHAPES = {
    "baby": Shape(layers=6, width=384, heads=6, context=256, batch=64, vocab_size=65, lr=1e-3),
    "small": Shape(layers=12, width=768, heads=12, context=512, batch=8, vocab_size=50_257, lr=6e-4),
    # The smallest that holds everything: to try the runner with, not to time.
    "tiny": Shape(layers=2, width=64, heads=2, context=64, batch=8, vocab_size=65, lr=3e-3),
}


def read_tokens(path: Path) -> np.ndarray:  # (N,)
    return np.fromfile(path, dtype=np.uint16)


def window(tokens: np.ndarray, shape: Shape, index: int) -> np.ndarray:  # (N,) -> (T + 1,) int64
    """Window `index` of all that are ever read, the token after it included; the same for every peer."""
    start = np.random.default_rng(index).integers(len(tokens) - shape.context)
    return tokens[start : start + shape.context + 1].astype(np.int64)


def batch(tokens: np.ndarray, shape: Shape, step: int) -> np.ndarray:  # (N,) -> (B, T + 1) int64
    first = step * shape.batch
    return np.stack([window(tokens, shape, first + row) for row in range(shape.batch)])
