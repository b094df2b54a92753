"""The conformer: beginnings, what its convolution sees, and what it refuses. The rest stands in test_contract.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dougong.backbones.conformer import PRESETS, Config
from dougong.layers.features import Features

Build = Callable[..., Any]
Make = Callable[..., Features]


def test_it_begins_as_a_norm_of_what_comes_in(build: Build, features: Make) -> None:
    """All branches begin at zero: the signal reaches every depth."""
    x = features(16, [5, 3])
    y = build(PRESETS["tiny"], stirred=False)(x)
    plain = torch.nn.functional.layer_norm(x.values, (16,), eps=1e-6)
    torch.testing.assert_close(y.values[x.mask], plain[x.mask], rtol=1e-3, atol=1e-3)


def test_order_counts(build: Build, features: Make) -> None:
    x = features(16, [6])
    model = build(PRESETS["tiny"])
    y, turned = model(x).values, model(replace(x, values=x.values.flip(1))).values.flip(1)
    assert not torch.allclose(y, turned, atol=1e-3)


def test_every_position_sees_every_other(build: Build, features: Make) -> None:
    x = features(16, [9])
    values = x.values.clone()
    values[:, 8] = 2 * values[:, 8].flip(-1)
    model = build(PRESETS["tiny"])
    changed = (model(x).values - model(replace(x, values=values)).values).abs().amax((0, 2))
    assert (changed > 1e-5).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 100, "heads": 8}, r"a multiple of twice the heads \(16\).*use width: 112"),
        ({"kernel": 4}, r"model.kernel = 4: expected an odd number. Fix: use kernel: 5"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Config(**settings)  # type: ignore[arg-type]


def test_the_medium_preset_is_as_large_as_the_paper_says() -> None:
    """Table 1: 30.7 million, of which the decoder has some 4.4."""
    with torch.device("meta"):
        from dougong.backbones.conformer import Backbone

        model = Backbone(PRESETS["medium"], positions=None)
    assert 24e6 < sum(parameter.numel() for parameter in model.parameters()) < 31e6
