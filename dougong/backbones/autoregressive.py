"""Autoregressive: a picture as a sequence of codes, written one after the other by a transformer that has read the inputs.

Ramesh et al. 2021 (arXiv:2102.12092), after van den Oord et al. 2017 (arXiv:1711.00937); the codes by levels (see
layers/quantizing.py), learnt beside the transformer and not before it: their gradients have nothing in common. Guidance without a
classifier, of the scores of a code: Gafni et al. 2022 (arXiv:2203.13131).
"""

# B batch, C channels, H height, W width of a picture in pixels, S positions of the inputs, T codes of a picture, V codes, D width

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dougong.backbones import BackboneConfig, Layers, Width, check_guidance, transformer
from dougong.core.config import Count, Fraction, NonNegative, Positive, config
from dougong.core.errors import bad_field
from dougong.layers.features import Features
from dougong.layers.feedforward import Linear
from dougong.layers.guidance import beyond, sometimes_told, strength, told_and_not
from dougong.layers.noise import Draws
from dougong.layers.quantizing import PictureCodes

CODES = 1 << 16  # at most: each has a vector, and a score at each place


@config
class Config(BackboneConfig):
    """A transformer that writes codes, and the networks between codes and pixels."""

    kind: Literal["autoregressive"] = "autoregressive"
    width: Width = 192  # D of the transformer
    layers: Layers = 6
    heads: Count = 6
    dropout: Fraction = 0.0
    patch: Count = 4  # side of the square of pixels that one code stands for
    channels: Width = 96  # of the networks between codes and pixels
    levels: tuple[Annotated[int, Field(ge=2, le=256)], ...] = (8, 8, 8)  # of each number of a code
    drop_condition: Fraction | None = None  # share of training rows whose inputs are not told; None: 0.1 of them
    guidance: NonNegative | None = None  # how far codes go beyond what the inputs ask for; None: 2
    temperature: Positive = 1.0  # below 1: likelier codes more often
    top_k: Count | None = None  # choose among so many likeliest codes; None: among all

    def __post_init__(self) -> None:
        transformer.Config(width=self.width, heads=self.heads)  # the same rules
        if not self.levels or math.prod(self.levels) > CODES:
            expected = f"numbers whose product, the count of codes, is at most {CODES:,}"
            raise bad_field("model.levels", list(self.levels), expected, "use levels: [8, 8, 8]")


check = check_guidance


class Backbone(nn.Module):
    """Noise (B, T), and features of the inputs (B, S, D) -> values (B, C, H, W) of about -1 to 1."""

    CAUSAL: ClassVar[bool] = False
    PLACES: ClassVar[bool] = False
    PATCH: ClassVar[int] = 4
    MAKES: ClassVar[bool] = True
    COMPARES: ClassVar[bool] = True
    AT_MAKING: ClassVar[tuple[str, ...]] = ("guidance", "temperature", "top_k")

    def __init__(self, config: Config, *, positions: int | None, shape: tuple[int, int, int]):
        super().__init__()
        self.config, self.out_width = config, config.width
        self.codes = PictureCodes(shape, config.patch, config.channels, config.levels)
        self.count = self.codes.rounding.count
        self.noise_shape = (math.prod(self.codes.grid),)  # (T,)
        self.told = Linear(config.width, config.width) if positions != 0 else None
        self.embedding = nn.Embedding(self.count + 1, config.width)  # the last one stands before the first code
        self.places = nn.Embedding(math.prod(self.codes.grid), config.width)
        sequence = transformer.Config(
            width=config.width, layers=config.layers, heads=config.heads, dropout=config.dropout
        )
        self.sequence = transformer.Backbone(sequence, positions=None, causal=True)
        self.scores = Linear(config.width, self.count, gain=0.0)  # at first all codes are alike

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight)
        nn.init.normal_(self.places.weight)

    def losses(self, values: Tensor, condition: Features, draws: Draws) -> Tensor:
        """(B,): the squared error of the picture that the codes stand for, and what a code costs, 1 where all are alike."""
        condition = sometimes_told(condition, draws.told, self.config.drop_condition)
        pictures, codes = self.codes(values)
        error = (pictures - values.float()).square().flatten(1).mean(1)  # (B,)
        start = codes.new_full((len(codes), 1), self.count)
        x = self.after(condition, self.written(torch.cat([start, codes[:, :-1]], dim=1)))
        scores = self.scores(self.sequence(x, causal=True).values[:, -codes.shape[1] :]).float()  # (B, T, V)
        nats = F.cross_entropy(scores.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)
        return error + nats.mean(1) / math.log(self.count)

    def make(self, condition: Features, noise: Tensor, config: Config | None = None) -> Tensor:
        """Values from noise (B, T), which settles each choice; `config`: another way to."""
        config, rows = config or self.config, len(noise)
        guidance = strength(condition, config.guidance)
        guided = guidance != 1
        condition = told_and_not(condition) if guided else condition
        chances = torch.special.ndtr(noise.float())  # (B, T)
        weights, start = self.embedding.weight, torch.full((rows, 1), self.count, device=noise.device)
        capacity = condition.mask.shape[1] + noise.shape[1]
        cache = self.sequence.new_cache(len(condition.mask), capacity, noise.device, weights.dtype)
        codes = [start]
        for place, chance in enumerate(chances.unbind(1)):
            newest = codes[-1].repeat(2, 1) if guided else codes[-1]
            x = self.written(newest, place)
            x = x if place else self.after(condition, x)
            scores = self.scores(self.sequence(x, causal=True, cache=cache).values[:, -1]).float()  # (B, V)
            scores = beyond(scores, guidance) if guided else scores
            codes.append(chosen(scores / config.temperature, config.top_k, chance))
        return self.codes.pictures(torch.cat(codes[1:], dim=1))

    def written(self, codes: Tensor, place: int = 0) -> Features:
        """Codes (B, T') and the places of those that come after them, from `place` on: (B, T', D)."""
        values = self.embedding(codes) + self.places.weight[place : place + codes.shape[1]]
        return Features(values, torch.ones_like(codes, dtype=torch.bool))

    def after(self, condition: Features, written: Features) -> Features:
        """What is written behind what the inputs say."""
        if self.told is None:
            return replace(written, values=written.values.to(condition.values.dtype))
        told = self.told(condition.values)
        values = torch.cat([told, written.values.to(told.dtype)], dim=1)
        return Features(values, torch.cat([condition.mask, written.mask], dim=1))


def chosen(scores: Tensor, top_k: int | None, chance: Tensor) -> Tensor:
    """Of scores (B, V) a code each, (B, 1): the one at which the shares of all before it come up to `chance` (B,), 0 to 1."""
    if top_k is not None and top_k < scores.shape[1]:
        least = scores.topk(top_k).values[:, -1:]
        scores = scores.masked_fill(scores < least, -math.inf)
    below = scores.softmax(-1).cumsum(-1)  # (B, V)
    return torch.searchsorted(below, chance.clamp(min=1e-30)[:, None] * below[:, -1:]).clamp(max=scores.shape[1] - 1)


PRESETS = {"tiny": Config(width=16, layers=1, heads=2, channels=16), "small": Config()}
