"""Recurrent: stacked RNN, LSTM or GRU layers, in both directions where they may look ahead.

LSTM after Hochreiter and Schmidhuber 1997, GRU after Cho et al. 2014 (arXiv:1406.1078). The two directions are summed,
as in Amodei et al. 2015 (arXiv:1512.02595), so that the width is the same with and without the second. As a decoder it
attends to the encoder's features after each layer, much as in Luong et al. 2015 (arXiv:1508.04025).
"""

# B batch, T positions, D width, F hidden

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dougong.backbones import BackboneConfig, Layers, Layout, check_layout
from dougong.core.config import Count, Fraction, config
from dougong.core.errors import bad_field
from dougong.layers.attention import Attention, Readers, check_memory, still_read
from dougong.layers.dropout import Dropout
from dougong.layers.features import Features
from dougong.layers.feedforward import Linear
from dougong.layers.norms import Norm, make_norm
from dougong.layers.positions import in_order, real_first

CELLS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
State = tuple[Tensor, ...]  # (1, B, F) each: one tensor, for an LSTM two


@config
class Config(BackboneConfig):
    """A recurrent network of `layers` layers."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    hidden: Count | None = None  # width of the state; None: `width`
    layers: Layers = 2
    bidirectional: Literal["auto"] | bool = "auto"  # auto: except where the output is written step by step
    residual: bool = True  # add each layer to what came in
    norm: Norm | Literal["none"] = "layer"  # before each layer and after the last
    dropout: Fraction = 0.0  # of what each layer adds
    layout: Layout = (
        "decoder"  # of what is written from inputs: after them in one sequence, or from an encoder's features
    )
    encoder_layers: Layers | None = None  # encoder-decoder: of the encoder; None: as many as `layers`
    cross: bool = False  # attend to an encoder's features as well; what `layout` sets

    def __post_init__(self) -> None:
        check_layout(self)


class Backbone(nn.Module):
    """Features (B, T, D) -> features (B, T, F). Padding may stand anywhere; no state ever runs through it."""

    CAUSAL: ClassVar[bool] = True
    PLACES: ClassVar[bool] = True
    PATCH: ClassVar[int] = 4

    def __init__(self, config: Config, *, positions: int | None, causal: bool = False, axes: int | None = None):
        super().__init__()
        self.config = config
        self.out_width = hidden = config.hidden or config.width
        both = not causal if config.bidirectional == "auto" else config.bidirectional
        self.enter = nn.Identity() if hidden == config.width else Linear(config.width, hidden)
        self.layers = nn.ModuleList(Layer(config, hidden, both) for _ in range(config.layers))
        self.cross = nn.ModuleList(Cross(config, hidden) for _ in range(config.layers if config.cross else 0))
        self.norm = _norm(config, hidden)

    def forward(
        self, x: Features, *, causal: bool = False, memory: Features | None = None, cache: Cache | None = None
    ) -> Features:
        check_memory(self.config.cross, memory)
        assert causal or cache is None
        if causal and self.config.bidirectional is True:
            expected = "auto or false where the output is written step by step"
            raise bad_field("model.bidirectional", True, expected, "use bidirectional: auto")
        packed, order = real_first(x)
        values = self.enter(packed.values)  # (B, T, F)
        turned = None if causal else _turned(packed.mask)
        lengths = None if cache is None else packed.mask.sum(1)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            if cache is None or lengths is None:
                values = layer(values, turned)
            else:
                values, cache.states[index] = layer.step(values, lengths, cache.states[index])
            if memory is not None:
                values = self.cross[index](values, memory, cache)
        if cache is not None:
            cache.memory = memory
        return replace(x, values=in_order(self.norm(values), order))

    def new_cache(self, batch_size: int, capacity: int, device: torch.device, dtype: torch.dtype) -> Cache:
        return Cache(self.config, batch_size, device, dtype)


class Layer(nn.Module):
    """Norm and recurrence, added to what came in."""

    def __init__(self, config: Config, hidden: int, both: bool):
        super().__init__()
        self.residual = config.residual
        self.norm = _norm(config, hidden)
        self.ahead = CELLS[config.cell](hidden, hidden, batch_first=True)
        self.back = CELLS[config.cell](hidden, hidden, batch_first=True) if both else None
        self.dropout = Dropout(config.dropout)

    def reset_parameters(self) -> None:
        for cell in (self.ahead, self.back):
            if isinstance(cell, nn.LSTM):  # forgetting little at first helps (Jozefowicz et al. 2015)
                gates = cell.get_parameter("bias_hh_l0").view(4, -1)  # input, forget, cell, output
                nn.init.ones_(gates[1])

    def forward(self, x: Tensor, turned: Tensor | None) -> Tensor:
        """(B, T, F) -> (B, T, F). turned: (B, T) the order from right to left; None: only look back."""
        h = self.norm(x)
        y, _ = self.ahead(h)
        if self.back is not None and turned is not None:
            index = turned[..., None].expand_as(h)
            reverse, _ = self.back(h.gather(1, index))
            y = y + reverse.gather(1, index)  # turned twice, everything is back in its place
        return self.add(x, y)

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Go on from a state through the first `length` positions of each row; return the states after them."""
        packed = pack_padded_sequence(self.norm(x), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        before = state if isinstance(self.ahead, nn.LSTM) else state[0]
        y, after = self.ahead(packed, before)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
        after = after if isinstance(after, tuple) else (after,)
        moved = (lengths > 0)[None, :, None]  # a row may have nothing new
        return self.add(x, y), tuple(torch.where(moved, new, old) for new, old in zip(after, state, strict=True))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.dropout(y) if self.residual else self.dropout(y)


class Cross(nn.Module):
    """Attention to an encoder's features, mixed with what looks for them, added to what came in."""

    def __init__(self, config: Config, hidden: int):
        super().__init__()
        self.norm = _norm(config, hidden)
        self.attention = Attention(hidden, 1, 1)
        self.mix = Linear(2 * hidden, hidden)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Features, cache: Cache | None) -> Tensor:  # (B, T, F), (B, S, F) -> (B, T, F)
        h, readers = self.norm(x), cache.readers if cache is not None else None
        keys, values = self.attention.keys_values(memory.values) if cache is None else cache.keys_values(self, memory)
        asked = h if readers is None else readers.together(h)
        found = self.attention(asked, keys, values, seen=memory.mask[:, None, None, :])
        found = found if readers is None else readers.apart(found)
        return x + self.dropout(self.mix(torch.cat((h, found), dim=-1)).tanh())


class Cache:
    """What a recurrent network remembers between steps: each layer's state, however long it has run."""

    def __init__(self, config: Config, batch_size: int, device: torch.device, dtype: torch.dtype):
        shape = (1, batch_size, config.hidden or config.width)
        count = 2 if config.cell == "lstm" else 1
        self.memory: Features | None = None  # the encoder's features, where there is an encoder: of each text once
        self.readers: Readers | None = None  # which of them each row reads; None: its own
        self.heard: dict[Cross, tuple[Tensor, Tensor]] = {}  # what each layer makes of them: the same at every step
        self.states: list[State] = [
            tuple(torch.zeros(shape, device=device, dtype=dtype) for _ in range(count)) for _ in range(config.layers)
        ]

    def keys_values(self, layer: Cross, memory: Features) -> tuple[Tensor, Tensor]:
        if layer not in self.heard:
            self.heard[layer] = layer.attention.keys_values(memory.values)
        return self.heard[layer]

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows (B',), which may repeat."""
        self.memory, self.readers, texts = still_read(self.memory, self.readers, rows)
        if texts is not None:
            self.heard = {layer: (keys[texts], values[texts]) for layer, (keys, values) in self.heard.items()}
        self.states = [tuple(part[:, rows] for part in state) for state in self.states]


def _turned(mask: Tensor) -> Tensor:
    """The order that turns the real positions of each row around and leaves the padding after them: (B, T)."""
    place = torch.arange(mask.shape[1], device=mask.device)[None]  # (1, T)
    last = mask.sum(1, keepdim=True) - 1  # (B, 1)
    return torch.where(place <= last, last - place, place)


def _norm(config: Config, hidden: int) -> nn.Module:
    return nn.Identity() if config.norm == "none" else make_norm(config.norm, hidden)


PRESETS = {
    "tiny": Config(width=16, layers=1),
    "small": Config(width=128),
    "base": Config(width=512, layers=4),
}
