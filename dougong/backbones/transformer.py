"""Transformer: a causal decoder or a bidirectional encoder, from the original of 2017 to the form that is common now.

The default is pre-norm RMSNorm, rotary positions, normed queries and keys, squared ReLU and no biases, with residual
branches that begin at zero: small models learn fastest so (Xiong et al. 2020, arXiv:2002.04745; So et al. 2021,
arXiv:2109.08668; Henry et al. 2020, arXiv:2010.04245; Zhang et al. 2019, arXiv:1901.09321).
Of a clip all blocks see all others, or (divided) in each layer first those of their place over time, then those of their frame
(Bertasius et al. 2021, arXiv:2102.05095).
"""

# B batch, T positions, F frames, P places of a frame, S keys, D width, G key-value heads, K head_dim

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dougong.backbones import BackboneConfig, Layers, Layout, check_layout
from dougong.core.config import Count, Fraction, NonNegative, Positive, config
from dougong.core.errors import bad_field
from dougong.layers.attention import Attention, KeyValues, Readers, check_memory, still_read, visible, weighed
from dougong.layers.dropout import Dropout
from dougong.layers.experts import Experts
from dougong.layers.features import Features
from dougong.layers.feedforward import Activation, FeedForward, hidden_width
from dougong.layers.norms import Norm, make_norm
from dougong.layers.positions import (
    LearnedPositions,
    RelativeBuckets,
    Rotary,
    RotaryScaling,
    grid_places,
    in_order,
    places_within,
    real_first,
    rotary,
    sinusoidal,
)


@config
class Config(BackboneConfig):
    """A transformer: `layers` blocks of attention and feed-forward."""

    kind: Literal["transformer"] = "transformer"
    layers: Layers = 4
    heads: Count = 4
    kv_heads: Count | None = None  # fewer than heads: grouped queries, a smaller cache; None: as many as heads
    feedforward: Count | None = None  # hidden width; None: 4 · width (swiglu, geglu: as many parameters as that)
    activation: Activation = "relu2"
    norm: Norm = "rms"
    norm_eps: Positive = 1e-6
    norm_first: bool = True  # False: after each residual sum, as in 2017
    input_norm: bool = False  # a norm after the positions are added, as in BERT
    final_norm: bool = True
    qk_norm: bool = True
    bias: bool = False
    positions: Literal["rotary", "learned", "sinusoidal", "relative_buckets", "none"] = "rotary"  # none: a set
    readout: Literal["all", "token"] = "all"  # what comes out: every position, or one more that looks at them all
    rotary_base: Positive = 10_000.0
    rotary_scaling: RotaryScaling | None = None  # read longer sequences than it was trained on
    max_length: Count | None = None  # longest sequence; None: 1024 for learned positions, no limit for the others
    window: Count | None = None  # a position sees those nearer than this; None: all
    divided: bool = (
        False  # clips: attention over time at each place, then within each frame, in place of over all at once
    )
    dropout: Fraction = 0.0
    layout: Layout = (
        "decoder"  # of what is written from inputs: after them in one sequence, or from an encoder's features
    )
    encoder_layers: Layers | None = None  # encoder-decoder: of the encoder; None: as many as `layers`
    cross: bool = False  # attend to an encoder's features as well; what `layout` sets
    experts: int = 0  # feed-forward layers to choose from; 0: one for all
    experts_per_token: Count = 2
    balance: NonNegative = 0.01  # weight of the loss that keeps the experts evenly used

    def __post_init__(self) -> None:
        if self.width % self.heads:
            near = math.ceil(self.width / self.heads) * self.heads
            raise bad_field("model.width", self.width, f"a multiple of heads ({self.heads})", f"use width: {near}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            near = max(n for n in range(1, min(self.kv_heads, self.heads) + 1) if self.heads % n == 0)
            expected = f"a divisor of heads ({self.heads})"
            raise bad_field("model.kv_heads", self.kv_heads, expected, f"use kv_heads: {near}")
        if self.positions == "rotary" and self.width // self.heads % 2:
            expected = f"an even number for each of the {self.heads} heads, which rotary positions turn in pairs"
            raise bad_field("model.width", self.width, expected, f"use width: {self.width + self.heads}")
        if self.positions == "sinusoidal" and self.width % 2:
            expected = "an even number for sinusoidal positions"
            raise bad_field("model.width", self.width, expected, f"use width: {self.width + self.heads}")
        check_layout(self)
        if self.readout == "token" and self.divided:
            raise bad_field("model.readout", self.readout, "all beside divided: true", "remove it")
        if self.readout == "token" and self.layout != "decoder":
            expected = f"all beside layout: {self.layout}, whose decoder attends to each position"
            raise bad_field("model.readout", self.readout, expected, "remove it")
        if self.rotary_scaling is not None:
            self.check_scaling(self.rotary_scaling)
        for key, value in (("window", self.window), ("positions", self.positions)) if self.divided else ():
            if value is not None and value not in ("rotary", "learned", "sinusoidal"):
                expected = "none that counts places of a sequence beside divided: true"
                raise bad_field(f"model.{key}", value, expected, "remove it")
        if self.experts < 0:
            raise bad_field("model.experts", self.experts, "0 or more", "use experts: 0 for a plain transformer")
        if self.experts and self.experts_per_token > self.experts:
            expected = f"at most experts ({self.experts})"
            fix = f"use experts_per_token: {self.experts}"
            raise bad_field("model.experts_per_token", self.experts_per_token, expected, fix)

    def check_scaling(self, scaling: RotaryScaling) -> None:
        if self.positions != "rotary":
            expected = f"none beside positions: {self.positions}"
            raise bad_field("model.rotary_scaling", scaling.kind, expected, "use positions: rotary, or remove it")
        if scaling.kind == "ntk" and self.width // self.heads == 2:
            expected = "linear or yarn where a head has two numbers: ntk leaves the first pair as it is"
            raise bad_field("model.rotary_scaling.kind", "ntk", expected, "use kind: linear, or fewer heads")
        if self.max_length is not None:
            scaling.check("model", self.max_length)


class Backbone(nn.Module):
    """Features (B, T, D) -> features (B, T, D). Padding may stand anywhere; real positions never see it."""

    CAUSAL: ClassVar[bool] = True
    PLACES: ClassVar[bool] = True
    SEGMENTS: ClassVar[bool] = True
    PATCH: ClassVar[int] = 4

    def __init__(self, config: Config, *, positions: int | None, causal: bool = False, axes: int | None = None):
        super().__init__()
        if causal and config.readout == "token":
            raise bad_field("model.readout", "token", "all, where text is written step by step", "remove it")
        self.config, self.positions, self.out_width = config, positions, config.width
        self.divided = config.divided and axes == 3
        if (
            config.divided and not self.divided and not config.cross
        ):  # the decoder that reads a clip's features reads no clip
            expected = "false where there is no clip that is read by itself"
            raise bad_field("model.divided", True, expected, "remove it, or give the clip this backbone as its encoder")
        self.max_length = config.max_length or (config.rotary_scaling.reach if config.rotary_scaling else None)
        self.table: LearnedPositions | None = None
        if config.positions == "learned":
            self.max_length = config.max_length or positions or 1024
            self.table = LearnedPositions(self.max_length + (config.readout == "token"), config.width)
        self.distances = RelativeBuckets(config.heads) if config.positions == "relative_buckets" else None
        self.token = ReadoutToken(config.width) if config.readout == "token" else None
        self.input_norm = _norm(config) if config.input_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, self.divided) for _ in range(config.layers))
        self.final_norm = _norm(config) if config.final_norm else nn.Identity()

    def forward(
        self, x: Features, *, causal: bool = False, memory: Features | None = None, cache: Cache | None = None
    ) -> Features:
        self.check(x, causal, memory, cache)
        if self.token is not None:
            x = self.token(x)
        given, order = x, None
        if x.mask.shape[1] > 1 and (causal or (self.positions is None and x.grid is None)):
            x, order = real_first(x)  # in tables and images the place itself says what stands there
        sight = self.look_divided(x) if self.divided else self.look(x, causal, memory, cache)
        values = self.dropout(self.input_norm(self.place(x.values, sight.places)))  # (B, T, D)
        if cache is not None:
            cache.memory = memory
        balance = x.auxiliary
        for index, block in enumerate(self.blocks):
            values, lost = block(values, x.mask, sight, memory, cache.layers[index] if cache else None)
            if lost is not None and self.training:  # a measured loss is of the task alone
                balance = self.config.balance * lost + (0.0 if balance is None else balance)
        if self.token is not None:
            return Features(self.final_norm(values[:, :1]), x.mask[:, :1], None, balance)
        values = self.final_norm(values)
        return replace(given, values=values if order is None else in_order(values, order), auxiliary=balance)

    def new_cache(self, batch_size: int, capacity: int, device: torch.device, dtype: torch.dtype) -> Cache:
        return Cache(self.config, batch_size, capacity, device, dtype)

    def look(self, x: Features, causal: bool, memory: Features | None, cache: Cache | None) -> Sight:
        """Where the positions stand and what they see: computed once, shared by all layers."""
        c, steps, device = self.config, x.mask.shape[1], x.mask.device
        places = torch.arange(steps, device=device)[None]  # (1, T)
        keys, real, start = places, x.mask, 0
        if cache is not None:
            start = cache.length
            cache.mask[:, start : start + steps] = x.mask
            real = cache.mask[:, : start + steps]  # (B, S)
            if start:  # rows may be of different length by now
                keys = real.cumsum(1) - 1  # (B, S)
                places = places + real[:, :start].sum(1, keepdim=True)  # (B, T)
        window = c.window if c.window is not None and c.window < start + steps else None
        # From the start on, padding comes last and so is never seen by a real position: no mask, the fastest kernel.
        plain = causal and start == 0 and window is None and x.segments is None
        seen = None
        if not causal and window is None and x.segments is None:
            seen = real[:, None, None, :]  # (B, 1, 1, S): the same for every query
        elif not plain:
            seen = visible(places, keys, real, causal=causal, window=window, segments=x.segments)  # (B, 1, T, S)
        if self.distances is not None:
            own = keys[:, None, :] - places[..., None]  # (1 or B, T, S)
            if seen is None:
                seen = visible(places, keys, real, causal=causal, window=window)
            seen, plain = weighed(seen, self.distances(own, causal=causal)), False  # (B, H, T, S)
        if x.segments is not None:
            assert cache is None  # what is written step by step is one sequence
            places = places_within(x.segments)  # (B, T)
        tables = None
        if c.positions == "rotary":
            on_grid = x.grid is not None and not causal  # what is written step by step is a sequence
            at = grid_places(x.grid or (), device)[None] if on_grid else places[..., None]  # (1 or B, T, A)
            if at.shape[1] < steps:  # the token before a grid stands in its first corner
                at = torch.cat((torch.zeros_like(at[:, :1]), at), dim=1)
            tables = rotary(at, c.width // c.heads, c.rotary_base, c.rotary_scaling)
        heard = None if memory is None else memory.mask[:, None, None, :]
        return Sight(places, seen, plain, tables, heard, readers=cache.readers if cache is not None else None)

    def look_divided(self, x: Features) -> Sight:
        """Of a clip: what is seen within a frame, and beside it what along time."""
        c, device = self.config, x.mask.device
        assert x.grid is not None
        frames, *frame = x.grid
        tables = [
            rotary(grid_places(tuple(grid), device)[None], c.width // c.heads, c.rotary_base, c.rotary_scaling)
            if c.positions == "rotary"
            else None
            for grid in (frame, [frames])
        ]
        real = x.mask.unflatten(1, (frames, -1))  # (B, F, P)
        within, along = real.flatten(0, 1), real.transpose(1, 2).flatten(0, 1)  # (B · F, P), (B · P, F)
        places = torch.arange(x.mask.shape[1], device=device)[None]
        over_time = Sight(places, along[:, None, None, :], False, tables[1], None)
        return Sight(places, within[:, None, None, :], False, tables[0], None, over_time, frames)

    def place(self, values: Tensor, places: Tensor) -> Tensor:
        """Add what marks the places, unless rotary positions do it inside attention."""
        if self.table is not None:
            return values + self.table(places).to(values.dtype)
        if self.config.positions == "sinusoidal":
            return values + sinusoidal(places, self.config.width).to(values.dtype)
        return values

    def check(self, x: Features, causal: bool, memory: Features | None, cache: Cache | None) -> None:
        length = x.mask.shape[1] + (cache.length if cache else 0)
        if self.config.rotary_scaling is not None:
            self.config.rotary_scaling.check("model", length)
        if self.max_length is not None and length > self.max_length:
            expected = f"at least the sequence's length ({length})"
            fix = f"cut the sequences, or use max_length: {length}"
            raise bad_field("model.max_length", self.max_length, expected, fix)
        assert cache is None or (causal and length <= cache.capacity)
        check_memory(self.config.cross, memory)


class ReadoutToken(nn.Module):
    """A learned position before all others, which gathers what they say (Devlin et al. 2019, arXiv:1810.04805)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1.0)

    def forward(self, x: Features) -> Features:  # (B, T, D) -> (B, T + 1, D)
        token = self.weight.to(x.values.dtype).expand(len(x.values), 1, -1)
        real = torch.ones_like(x.mask[:, :1])
        return replace(x, values=torch.cat((token, x.values), dim=1), mask=torch.cat((real, x.mask), dim=1))


@dataclass(frozen=True)
class Sight:
    """What a forward pass works out once for all its layers."""

    places: Tensor  # (1 or B, T)
    seen: (
        Tensor | None
    )  # (B, 1 or H, 1 or T, S): which keys each query sees, or what is added; None: all, or the triangle
    causal: bool  # the triangle: each query sees its own place and those before it
    tables: Rotary | None
    memory: Tensor | None  # (B, 1, 1, S) bool: the real positions of the encoder's features
    over_time: Sight | None = (
        None  # of a clip that is divided; the other fields are then of its frames, each by itself …
    )
    frames: int = 1  # … of which there are so many
    readers: Readers | None = None  # which of those each row reads, where several may read the same; None: its own


class Block(nn.Module):
    """Attention, perhaps cross-attention, and feed-forward, each added to what came in."""

    def __init__(self, config: Config, divided: bool = False):
        super().__init__()
        c = config
        # Post-norm rescales each sum, so a branch of zero gains nothing there: it begins small, by the number of sums.
        gain = 0.0 if c.norm_first else (2 * c.layers) ** -0.5
        self.norm_first = c.norm_first
        self.pure = not c.dropout
        self.time_norm = _norm(c) if divided else None
        self.time = _attention(c, gain) if divided else None
        self.attention_norm, self.attention = _norm(c), _attention(c, gain)
        self.cross_norm = _norm(c) if c.cross else None
        self.cross = _attention(c, gain) if c.cross else None
        self.feedforward_norm = _norm(c)
        hidden = c.feedforward or hidden_width(c.width, c.activation)
        self.feedforward: FeedForward | Experts
        if c.experts:
            number, chosen = c.experts, c.experts_per_token
            self.feedforward = Experts(c.width, hidden, number, chosen, c.activation, bias=c.bias, gain=gain)
        else:
            self.feedforward = FeedForward(c.width, hidden, c.activation, bias=c.bias, gain=gain)
        self.dropout = Dropout(c.dropout)

    def forward(
        self, x: Tensor, mask: Tensor, sight: Sight, memory: Features | None, store: KeyValues | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D), and the experts' balance loss if there are experts."""
        if self.time is not None and self.time_norm is not None and sight.over_time is not None:
            x = self.after(
                self.time_norm, x, self.along_time(self.before(self.time_norm, x), sight.over_time, sight.frames)
            )
        h = self.before(self.attention_norm, x).unflatten(1, (sight.frames, -1)).flatten(0, 1)  # (B · F, P, D)
        keys, values = self.attention.keys_values(h, sight.tables)
        if store is not None:
            keys, values = store.append(keys, values)
        h = self.attention(h, keys, values, seen=sight.seen, causal=sight.causal, tables=sight.tables)
        x = self.after(self.attention_norm, x, h.unflatten(0, (-1, sight.frames)).flatten(1, 2))
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            known = store.memory if store is not None else None
            keys, values = known or self.cross.keys_values(memory.values)
            if store is not None:
                store.memory = keys, values
            h = self.before(self.cross_norm, x)
            if sight.readers is None:
                h = self.cross(h, keys, values, seen=sight.memory)
            else:
                h = sight.readers.apart(self.cross(sight.readers.together(h), keys, values, seen=sight.memory))
            x = self.after(self.cross_norm, x, h)
        h = self.before(self.feedforward_norm, x)
        h, lost = self.feedforward(h, mask) if isinstance(self.feedforward, Experts) else (self.feedforward(h), None)
        return self.after(self.feedforward_norm, x, h), lost

    def along_time(self, x: Tensor, sight: Sight, frames: int) -> Tensor:
        """Each place sees itself in all frames: (B, F · P, D) -> the same."""
        assert self.time is not None
        h = x.unflatten(1, (frames, -1)).transpose(1, 2)  # (B, P, F, D)
        rows = h.flatten(0, 1)  # (B · P, F, D)
        keys, values = self.time.keys_values(rows, sight.tables)
        seen = self.time(rows, keys, values, seen=sight.seen, tables=sight.tables)
        return seen.unflatten(0, h.shape[:2]).transpose(1, 2).flatten(1, 2)

    def before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.norm_first else x

    def after(self, norm: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
        x = x + self.dropout(branch)
        return x if self.norm_first else norm(x)


class Cache:
    """What a causal transformer remembers between steps. Rows may be of different lengths: `mask` says what is real."""

    def __init__(self, config: Config, batch_size: int, capacity: int, device: torch.device, dtype: torch.dtype):
        self.capacity = capacity
        self.mask = torch.zeros(batch_size, capacity, dtype=torch.bool, device=device)
        self.memory: Features | None = None  # the encoder's features, where there is an encoder: of each text once
        self.readers: Readers | None = None  # which of them each row reads; None: its own
        shape = (batch_size, config.kv_heads or config.heads, capacity, config.width // config.heads)
        self.layers = [KeyValues(shape, device, dtype) for _ in range(config.layers)]

    @property
    def length(self) -> int:
        """Positions in use, padding included."""
        return self.layers[0].length

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows (B',), which may repeat."""
        self.mask = self.mask[rows]
        self.memory, self.readers, texts = still_read(self.memory, self.readers, rows)
        for layer in self.layers:
            layer.choose(rows, texts)


def _norm(c: Config) -> nn.Module:
    return make_norm(c.norm, c.width, eps=c.norm_eps, bias=c.bias)


def _attention(c: Config, gain: float) -> Attention:
    return Attention(
        c.width,
        c.heads,
        c.kv_heads or c.heads,
        bias=c.bias,
        qk_norm=c.qk_norm,
        norm_eps=c.norm_eps,
        dropout=c.dropout,
        gain=gain,
    )


_CLASSIC = Config(norm="layer", qk_norm=False, bias=True, dropout=0.1)  # what the models of 2017 to 2019 have in common

_BERT = replace(  # Devlin et al. 2019 (arXiv:1810.04805), base
    _CLASSIC,
    width=768,
    layers=12,
    heads=12,
    activation="gelu",
    norm_first=False,
    input_norm=True,
    final_norm=False,
    positions="learned",
    max_length=512,
    norm_eps=1e-12,
)

PRESETS = {
    "tiny": Config(width=32, layers=2, heads=2),
    "small": Config(width=384, layers=6, heads=6),
    "base": Config(width=768, layers=12, heads=12),
    # FT-Transformer (Gorishniy et al. 2021, arXiv:2106.11959), smaller: a table's columns are a set, read by a token.
    "table": Config(
        width=96,
        layers=3,
        heads=6,
        activation="geglu",
        norm="layer",
        qk_norm=False,
        bias=True,
        positions="none",
        readout="token",
        dropout=0.1,
    ),
    # Vaswani et al. 2017 (arXiv:1706.03762); the encoder's shape, its decoder adds cross: true.
    "original": replace(
        _CLASSIC,
        width=512,
        layers=6,
        heads=8,
        activation="relu",
        norm_first=False,
        final_norm=False,
        positions="sinusoidal",
        norm_eps=1e-5,
    ),
    # Radford et al. 2019, the smallest of four.
    "gpt2": replace(
        _CLASSIC,
        width=768,
        layers=12,
        heads=12,
        activation="gelu_tanh",
        positions="learned",
        max_length=1024,
        norm_eps=1e-5,
    ),
    "bert": _BERT,
    # Dosovitskiy et al. 2021 (arXiv:2010.11929), base, with patch: 16; the mean of all patches in place of a class token, which
    # does as well (Zhai et al. 2022, arXiv:2106.04560).
    "vit": replace(
        _CLASSIC, width=768, layers=12, heads=12, activation="gelu", positions="learned", norm_eps=1e-12, dropout=0.0
    ),
    # Lewis et al. 2020 (arXiv:1910.13461), base.
    "bart": replace(_BERT, layers=6, max_length=1024, norm_eps=1e-5),
    # Raffel et al. 2020 (arXiv:1910.10683), small.
    "t5": Config(
        width=512, layers=6, heads=8, activation="relu", qk_norm=False, positions="relative_buckets", dropout=0.1
    ),
}
