"""Identity: nothing at all. What the inputs' encoders give is what the heads read: vectors of words, linear models."""

# B batch, T positions, D width

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from dougong.backbones import BackboneConfig
from dougong.core.config import config
from dougong.core.errors import bad_field
from dougong.layers.attention import refuse_memory
from dougong.layers.features import Features


@config
class Config(BackboneConfig):
    """No layers: `width` is that of the features, and of what an output learns of them."""

    kind: Literal["identity"] = "identity"


class Backbone(nn.Module):
    """Features (B, T, D) -> the same features."""

    CAUSAL: ClassVar[bool] = False  # no position knows of those before it: there is nothing to write on from
    PLACES: ClassVar[bool] = True
    PATCH: ClassVar[int] = 4

    def __init__(self, config: Config, *, positions: int | None, causal: bool = False, axes: int | None = None):
        super().__init__()
        if causal:
            raise _knows_nothing()
        self.out_width = config.width

    def forward(
        self, x: Features, *, causal: bool = False, memory: Features | None = None, cache: object | None = None
    ) -> Features:
        refuse_memory("identity", memory)
        if causal or cache is not None:
            raise _knows_nothing()
        return x


def _knows_nothing() -> ValueError:
    fix = "use kind: transformer, recurrent or convnet"
    return bad_field("model.kind", "identity", "a backbone that can look back only", fix)


PRESETS = {
    "tiny": Config(width=16),
    "small": Config(width=128),
}
