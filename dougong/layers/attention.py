"""Attention of queries over keys, with shared key-value heads, normed queries and keys, and a cache for generation.

Grouped queries after Ainslie et al. 2023 (arXiv:2305.13245); norm of queries and keys after Henry et al. 2020
(arXiv:2010.04245); sliding windows after Beltagy et al. 2020 (arXiv:2004.05150).
"""

# B batch, T queries, S keys, D width, H heads, G key-value heads, K head_dim

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.core.errors import bad_field
from dougong.layers.dropout import dropout
from dougong.layers.features import Features, chosen
from dougong.layers.feedforward import Linear
from dougong.layers.norms import RMSNorm
from dougong.layers.positions import Rotary, rotate

Route = Literal["auto", "products", "fused"]


class Attention(nn.Module):
    """Multi-head attention: `attention(x, *attention.keys_values(x))`. Between the two calls a cache can stand."""

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        *,
        bias: bool = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        gain: float = 1.0,  # of the output map at birth
    ):
        super().__init__()
        self.head_dim, self.dropout, self.grouped = width // heads, dropout, kv_heads != heads
        self.route: Route = "auto"
        self.tell: Callable[[Tensor], None] | None = None  # hears each pass's weights: what `attention_weights` sets
        self.query = Linear(width, width, bias=bias)
        self.key = Linear(width, kv_heads * self.head_dim, bias=bias)
        self.value = Linear(width, kv_heads * self.head_dim, bias=bias)
        self.out = Linear(width, width, bias=bias, gain=gain)
        self.query_norm = RMSNorm(self.head_dim, norm_eps) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.head_dim, norm_eps) if qk_norm else nn.Identity()

    def keys_values(self, source: Tensor, tables: Rotary | None = None) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> keys and values, each (B, G, S, K)."""
        keys, values = self.key_norm(self.split(self.key(source))), self.split(self.value(source))
        return (keys if tables is None else rotate(keys, tables)), values

    def forward(
        self,
        x: Tensor,  # (B, T, D)
        keys: Tensor,
        values: Tensor,
        *,
        seen: Tensor | None = None,  # spreads to (B, H, T, S). bool: which keys a query sees; numbers: see `weighed`
        causal: bool = False,  # without `seen`, and with T = S: each query sees its own place and those before it
        tables: Rotary | None = None,
    ) -> Tensor:  # (B, T, D)
        queries = self.query_norm(self.split(self.query(x)))  # (B, H, T, K)
        if tables is not None:
            queries = rotate(queries, tables)
        hidden = self.dropout if self.training else 0.0  # of a query's shares
        keys, values = keys.to(queries.dtype), values.to(queries.dtype)
        if seen is not None and seen.is_floating_point():
            seen = seen.to(queries.dtype)
        by_products = self.route == "products" or (self.route == "auto" and products_are_faster(queries, keys, causal))
        if by_products or self.tell is not None:  # the fused kernel has the weights nowhere whole
            mixed = products(queries, keys, values, seen, causal, hidden, self.tell)  # (B, H, T, K)
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, seen, hidden, causal, enable_gqa=self.grouped)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:  # (B, T, heads * K) -> (B, heads, T, K)
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def products_are_faster(queries: Tensor, keys: Tensor, causal: bool) -> bool:
    """Whether to train by `products`: in bf16 on the CPU, where torch 2.13's fused kernel goes back slowly.

    Forward and backward, causal, compiled, two threads with avx512_bf16, medians: (32, 4, 128, 32) 6 ms for the fused kernel's 24;
    (16, 6, 256, 64) 23 for 52; (4, 12, 512, 64) 34 for 87; (2, 12, 1024, 64) 57 for 99; (1, 12, 2048, 64) 109 for 157, which is
    not worth the memory of the shares: 5/8 · H · T numbers a token. In float32 the fused kernel is faster. Tried: the fused
    kernel's way there and products' way back, which keeps no shares: at T = 512 a quarter slower than whole products.
    """
    small = queries.shape[2] * keys.shape[2] <= PRODUCTS_UP_TO[causal] ** 2
    return small and queries.dtype == torch.bfloat16 and queries.device.type == "cpu" and torch.is_grad_enabled()


PRODUCTS_UP_TO = {False: 512, True: 1024}  # positions, and whether causal
STRIP = 128  # the fewest queries in a strip of causal attention


def products(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor | None,
    causal: bool,
    hidden: float = 0.0,
    tell: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Attention as matrix products: (B, H, T, K). What sees no key gets the mean of all, and is read by nobody.

    `tell` hears the weights, (B, H, T, S) in float32, before any are hidden.
    """
    repeats = queries.shape[1] // keys.shape[1]
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)  # (B, H, S, K)
    queries = queries * queries.shape[-1] ** -0.5
    if not causal:
        return _mixed(queries, keys, values, seen, hidden, tell)
    length = queries.shape[2]
    count = 1 if tell is not None else strips(length)
    ends = [length * place // count for place in range(1, count + 1)]
    triangle = torch.ones(length, length, dtype=torch.bool, device=queries.device).tril()
    parts = []  # a strip of queries needs the keys up to its end: of the triangle's upper half only corners are computed
    for start, end in pairwise([0, *ends]):
        some, sees = queries[:, :, start:end], triangle[start:end, :end]
        parts.append(_mixed(some, keys[:, :, :end], values[:, :, :end], sees, hidden, tell))
    return parts[0] if count == 1 else torch.cat(parts, dim=2)


def strips(length: int) -> int:
    """How many strips of queries are fast. (4, 12, 512, 64): whole 44 ms, in two 36, in four 34.

    Comparisons alone: a number computed from the length would compile the blocks anew for each length.
    """
    if length < 2 * STRIP:
        return 1
    return 2 if length < 4 * STRIP else 4


def _mixed(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor | None,
    hidden: float,
    tell: Callable[[Tensor], None] | None,
) -> Tensor:
    scores = queries @ keys.mT  # (B, H, T, S)
    if seen is not None:
        scores += weighed(seen).to(scores.dtype)
    shares = scores.softmax(-1)  # computed in float32 inside, whatever comes in
    if tell is not None:
        tell(scores.detach().softmax(-1, dtype=torch.float32))  # rounded to bf16 they would not sum to 1
    return (dropout(shares, hidden) if hidden else shares) @ values


@contextmanager
def attention_weights(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The weights of each attention layer, (B, H, T, S) in float32 by the layer's name, of the latest pass within.

        with attention_weights(model) as weights:
            model(batch)

    Takes the memory of all of them; `products` then stand for the fused kernel, which agrees with them to rounding.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    before = {name: layer.tell for name, layer in layers.items()}
    collected: dict[str, Tensor] = {}
    try:
        for name, layer in layers.items():
            layer.tell = partial(collected.__setitem__, name)
        yield collected
    finally:
        for name, layer in layers.items():
            layer.tell = before[name]


def weighed(seen: Tensor, scores: Tensor | float = 0.0) -> Tensor:
    """Which keys each query sees, as numbers to be added to the scores: those given, or so little that no share is left."""
    if seen.is_floating_point():
        return seen
    return torch.where(seen, scores, UNSEEN)


UNSEEN = -1e30  # not -inf: a row of nothing else would be NaN


def visible(
    queries: Tensor, keys: Tensor, real: Tensor, *, causal: bool, window: int | None, segments: Tensor | None = None
) -> Tensor:
    """Which keys each query sees, as bool (B, 1, T, S): the real ones, not ahead where causal, nearer than `window`.

    queries (1 or B, T) and keys (1 or B, S) are numbers of places; real is (B, S). segments (B, T), where T = S: the same
    number for what may see one another.
    """
    ahead = keys[:, None, :] - queries[:, :, None]  # (1 or B, T, S)
    seen = real[:, None, :].expand(-1, queries.shape[1], -1)
    if causal:
        seen = seen & (ahead <= 0)
    if window is not None:
        seen = seen & (ahead.abs() < window)
    if segments is not None:
        seen = seen & (segments[:, :, None] == segments[:, None, :])
    return seen[:, None]


class KeyValues:
    """What one attention layer remembers: keys and values (B, G, capacity, K), filled from the front, in place.

    What it reads of an encoder, `memory`, is held once for each text, however many rows are written from it: see `Readers`.
    """

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype):
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0
        self.memory: tuple[Tensor, Tensor] | None = None  # of cross-attention: the same at every step

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Remember the new ones; return all so far, each (B, G, length, K)."""
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def choose(self, rows: Tensor, texts: Tensor | None = None) -> None:
        """Go on with these rows (B',), which may repeat; `texts`: those that are still read, None: all."""
        self.keys, self.values = (reordered(each, rows, self.length) for each in (self.keys, self.values))
        if self.memory is not None and texts is not None:
            self.memory = self.memory[0][texts], self.memory[1][texts]


def reordered(held: Tensor, rows: Tensor, length: int) -> Tensor:
    """(B, G, capacity, K) -> (B', G, capacity, K) of these rows: only the `length` places that are written are copied."""
    written = held[:, :, :length][rows]
    room = held[: len(rows)] if len(rows) <= len(held) else held.new_empty(len(rows), *held.shape[1:])
    room[:, :, :length] = written
    return room


class Readers:
    """Which text each row reads. Rows that are written from one text (beams) ask it side by side, and it is held once."""

    def __init__(self, texts: Tensor, count: int):  # (R,) in any order, of `count` texts
        self.texts, self.count = texts, count
        order = texts.argsort(stable=True)
        each = torch.bincount(texts, minlength=count)  # (B,) rows of a text
        self.most = int(each.max()) if len(texts) else 0
        nth = torch.empty_like(texts)  # (R,) the how-maniest of its text a row is
        nth[order] = torch.arange(len(texts), device=texts.device) - (each.cumsum(0) - each)[texts[order]]
        self.place = texts * self.most + nth  # (R,)

    @classmethod
    def one_each(cls, rows: int, device: torch.device) -> Readers:
        return cls(torch.arange(rows, device=device), rows)

    def choose(self, rows: Tensor) -> tuple[Readers, Tensor | None]:
        """The readers of these rows, and the texts that are still read; None: all."""
        kept, texts = self.texts[rows].unique(return_inverse=True)
        return Readers(texts, len(kept)), None if len(kept) == self.count else kept

    def together(self, x: Tensor) -> Tensor:
        """(R, T, D) -> (B, most · T, D): what the rows of each text ask, side by side, and zeros where it has fewer."""
        asked = x.new_zeros(self.count * self.most, *x.shape[1:])
        asked[self.place] = x
        return asked.view(self.count, -1, x.shape[-1])

    def apart(self, found: Tensor) -> Tensor:
        """(B, most · T, D) -> (R, T, D): the way back."""
        return found.reshape(self.count * self.most, -1, found.shape[-1])[self.place]


def still_read(
    memory: Features | None, readers: Readers | None, rows: Tensor
) -> tuple[Features | None, Readers | None, Tensor | None]:
    """An encoder's features, who reads them, and which texts those are (None: all), when these rows go on."""
    if memory is None:
        return None, None, None
    readers, texts = (readers or Readers.one_each(len(memory.mask), memory.mask.device)).choose(rows)
    return (memory if texts is None else chosen(memory, texts)), readers, texts


def refuse_memory(kind: str, memory: Features | None) -> None:
    """A backbone without cross-attention cannot look at an encoder's features, and must not drop them in silence."""
    if memory is not None:
        expected, fix = (
            "a backbone that can attend to an encoder",
            "use kind: transformer or recurrent, with cross: true",
        )
        raise bad_field("model.kind", kind, expected, fix)


def check_memory(cross: bool, memory: Features | None) -> None:
    """A backbone that attends to an encoder needs its features; any other must not be given some."""
    if cross and memory is None:
        raise bad_field("model.cross", True, "an encoder's features to attend to", "use cross: false")
    if memory is not None and not cross:
        raise bad_field("model.cross", False, "true where an encoder's features are given", "use cross: true")
