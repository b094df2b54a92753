"""What the tests of backbones build with: models as they are built in earnest, and random features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dougong import backbones
from dougong.layers.features import Features, length_mask


def filled(module: nn.Module) -> nn.Module:
    """A module made on the meta device, filled with NaN, then by every reset_parameters, children first."""
    module.to_empty(device="cpu")
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else -1)

    def reset(part: nn.Module) -> None:
        for child in part.children():
            reset(child)
        if callable(fill := getattr(part, "reset_parameters", None)):
            fill()

    reset(module)
    return module


@pytest.fixture
def build() -> Callable[..., Any]:
    """build(config, positions=None, stirred=True): a backbone; stirred, so that no branch is still zero."""

    def make(
        config: Any,
        positions: int | None = None,
        *,
        causal: bool = False,
        axes: int | None = None,
        stirred: bool = True,
    ) -> Any:
        torch.manual_seed(0)
        with torch.device("meta"):
            model = backbones.load(config.kind).Backbone(config, positions=positions, causal=causal, axes=axes)
        filled(model)
        if stirred:
            for parameter in model.parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def features() -> Callable[..., Features]:
    """features(width, [length of each row], grid): random values, right-padded with values that would be noticed."""

    def make(width: int, lengths: list[int], grid: tuple[int, ...] | None = None) -> Features:
        generator = torch.Generator().manual_seed(1)
        steps = max(lengths)
        values = torch.randn(len(lengths), steps, width, generator=generator)
        mask = length_mask(torch.tensor(lengths), steps)
        return Features(values.masked_fill(~mask[..., None], 99.0), mask, grid)

    return make
