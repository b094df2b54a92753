"""Backbones: one file an architecture, found by its file name. Between fields and backbones flows `Features`.

Each file offers `Config`, `PRESETS` (with "tiny" and "small", which read everything; others may read images alone) and
`Backbone(nn.Module)`:

    Backbone(config, *, positions, causal=False, axes=None)
        positions: the number of feature positions if the inputs fix it, else None; causal: it will only ever look back;
        axes: how many the grid has that the positions unroll, 2 for an image, 3 for a clip, None where there is no grid
    .CAUSAL, .PATCH, .out_width         can it look back only; the image patch it likes; the width (D) of what comes out
    .PLACES                             whether each position of a sequence that comes in comes out, too, and a grid as one
    .finer_widths                       the widths of the `finer` features that come with a grid's; () where there are none
    .forward(x, *, causal=False, memory=None, cache=None) -> Features
    .new_cache(batch_size, capacity, device, dtype)     where CAUSAL: the state of step-by-step generation, with
        .memory, the encoder's features (of each text once, however many rows read them) or None, and .choose(rows),
        which goes on with some rows, as beams do
Its Config's `enters(axes)` is the width of what comes in on a grid of so many axes, where no other input stands beside it.
A Config with `layout`, `encoder_layers` and `cross` can be the decoder of an encoder-decoder, and its encoder.

    .SEGMENTS           optional: true where it keeps apart what Features.segments says
    .pure of a block    optional: whether it draws no random numbers in training; parts of it may then be computed twice
    .refuse_lost_grid()     optional: raises if it cannot do without the grid of an image that other inputs stand beside

One that makes an output from noise (`MAKES` is true) has its place behind the inputs; `positions` are theirs, 0 without any:

    Backbone(config, *, positions, shape)               shape: of the values of a row, (C, H, W), of about -1 to 1
    .noise_shape, .AT_MAKING                            of the noise of a row; the keys of Config that making can change
    .COMPARES                                           whether a lower loss is a better model, at another moment, too
    .losses(values, condition, draws) -> (B,)           of each row; condition: the Features of the inputs, of no positions
    .make(condition, noise, config=None) -> values      the same noise gives the same values

    check       key, config, whole -> the Problems that it finds in the other sections, as fields have it    (optional)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from dougong.core.config import Count, config
from dougong.core.errors import Problem, bad_field
from dougong.core.registry import Registry

registry = Registry("dougong.backbones", __file__, "model.kind")
names, load = registry.names, registry.load


def makes(kind: str) -> bool:
    """Whether a kind of backbone makes its output from noise."""
    return bool(getattr(load(kind).Backbone, "MAKES", False))


# No real model comes near these bounds: beyond them stand typing errors, which would take forever to refuse otherwise.
Width = Annotated[Count, Field(le=1 << 20)]
Layers = Annotated[Count, Field(le=10_000)]


Layout = Literal["decoder", "encoder-decoder"]


@config
class BackboneConfig:
    """What every backbone's Config has. Each adds `kind: Literal["its file name"]`."""

    width: Width = 256  # D, of what comes in
    init: str | None = None  # of the whole model: a run whose weights it begins with, where names and shapes agree

    def enters(self, axes: int | None) -> int:
        """The width of what comes in where it stands by itself, on a grid of so many axes."""
        return self.width


def keeps_places(config: Any) -> bool:
    """Whether each position that comes in comes out, as the words of a text must that an output names."""
    return load(config.kind).Backbone.PLACES and getattr(config, "readout", "all") == "all"


def check_layout(config: Any) -> None:
    if config.encoder_layers is not None and config.layout != "encoder-decoder":
        fix = "write layout: encoder-decoder, or remove it"
        raise bad_field("model.encoder_layers", config.encoder_layers, "none beside layout: decoder", fix)


def check_guidance(key: str, config: Any, whole: Any) -> Iterator[Problem]:
    """What guidance needs: inputs that some training rows are not told."""
    for name in ("guidance", "drop_condition"):
        if (value := getattr(config, name)) is not None and not whole.inputs:
            yield Problem(f"{key}.{name}", value, "nothing where no input is told", "remove it, or add inputs")
    if config.drop_condition == 0 and config.guidance not in (None, 1.0):
        expected = "1 beside drop_condition: 0, where the model never learns to do without its inputs"
        yield Problem(f"{key}.guidance", config.guidance, expected, "remove drop_condition, or write guidance: 1")
