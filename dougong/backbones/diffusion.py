"""Diffusion: an output made from noise in steps, each of which takes a little of the noise away.

A picture x and noise e lie at the two ends of a path, a(t) x + s(t) e; a network sees a place on it, the time and what the
inputs say, and tells the ends. Straight paths: flow matching, Lipman et al. 2023 (arXiv:2210.02747), rectified flow, Liu
et al. 2023 (arXiv:2209.03003), their times as in Esser et al. 2024 (arXiv:2403.03206). Round ones: diffusion, Ho et al. 2020
(arXiv:2006.11239), cosine times after Nichol & Dhariwal 2021 (arXiv:2102.09672), velocity after Salimans & Ho 2022
(arXiv:2202.00512). DDIM: Song et al. 2021 (arXiv:2010.02502). Guidance without a classifier: Ho & Salimans 2022
(arXiv:2207.12598).
"""

# B batch, C channels, H height, W width of a picture in pixels, D width

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.backbones import BackboneConfig, Layers, Width, check_guidance
from dougong.core.config import Count, Fraction, NonNegative, config
from dougong.core.errors import bad_field
from dougong.layers.denoisers import DiT, Told, UNet
from dougong.layers.features import Features
from dougong.layers.guidance import beyond, sometimes_told, strength, told_and_not
from dougong.layers.noise import Draws

LATEST = 0.99  # of `objective: noise`: at time 1 the noise says nothing of the picture


@config
class Config(BackboneConfig):
    """A network that takes noise away: how it is built, what it learns to tell, and how pictures are made with it."""

    kind: Literal["diffusion"] = "diffusion"
    network: Literal["unet", "dit"] = "unet"
    width: Width = 128  # D of a DiT; channels of a U-Net's smallest grid, those before have half as many each
    layers: Layers = 2  # of a DiT; residual blocks at each grid of a U-Net, on either way
    heads: Count = 4
    patch: Count = 2  # side of the square of pixels that is one place of the largest grid
    grids: Annotated[Count, Field(le=8)] = 2  # of a U-Net: each has half the side of the one before
    objective: Literal["flow", "velocity", "noise"] = "flow"  # straight paths, or diffusion; what the network tells
    times: Literal["uniform", "middle"] = "middle"  # of training: all alike, or those halfway more often
    drop_condition: Fraction | None = None  # share of training rows whose inputs are not told; None: 0.1 of them
    guidance: NonNegative | None = None  # how far pictures go beyond what the inputs ask for; None: 2
    sampler: Literal["euler", "ddim"] = "euler"
    sampling_steps: Annotated[Count, Field(le=1000)] = 25

    def __post_init__(self) -> None:
        if self.width % self.heads:
            near = math.ceil(self.width / self.heads) * self.heads
            raise bad_field("model.width", self.width, f"a multiple of heads ({self.heads})", f"use width: {near}")
        if self.network == "dit" and self.grids != 2:
            raise bad_field("model.grids", self.grids, "nothing beside network: dit, which has one grid", "remove it")


check = check_guidance


class Backbone(nn.Module):
    """Noise, and features of the inputs (B, T, D) -> values (B, C, H, W) of about -1 to 1."""

    CAUSAL: ClassVar[bool] = False
    PLACES: ClassVar[bool] = False
    PATCH: ClassVar[int] = 4
    MAKES: ClassVar[bool] = True
    COMPARES: ClassVar[bool] = True
    AT_MAKING: ClassVar[tuple[str, ...]] = ("guidance", "sampler", "sampling_steps")

    def __init__(self, config: Config, *, positions: int | None, shape: tuple[int, int, int]):
        super().__init__()
        self.config, self.out_width, self.noise_shape = config, config.width, shape  # (C, H, W)
        self.told = Told(config.width, positions)
        kind: Any = UNet if config.network == "unet" else DiT
        self.network: nn.Module = kind(config, shape, sequence=self.told.sequence)

    def losses(self, values: Tensor, condition: Features, draws: Draws) -> Tensor:
        """(B,): of each row the mean squared error at its time, the inputs of some rows not told."""
        config = self.config
        condition = sometimes_told(condition, draws.told, config.drop_condition)
        t = times(config, draws.time)  # (B,)
        a, s = (each[:, None, None, None] for each in PATHS[config.objective](t))
        noisy = a * values + s * draws.noise
        if config.objective == "flow":
            target = draws.noise - values
        else:
            target = draws.noise if config.objective == "noise" else a * draws.noise - s * values
        error = self.network(noisy, t, self.told(condition)).float() - target.float()
        return error.square().flatten(1).mean(1)

    def make(self, condition: Features, noise: Tensor, config: Config | None = None) -> Tensor:
        """Values from noise (B, C, H, W), in `sampling_steps` steps from time 1 to 0; `config`: another way to."""
        config = config or self.config
        moments = torch.linspace(latest(config), 0.0, config.sampling_steps + 1).tolist()
        x = noise.float()
        for t, later in pairwise(moments):
            x = SAMPLERS[config.sampler](config, x, self.guided(x, t, condition, config), t, later)
        return x

    def guided(self, x: Tensor, t: float, condition: Features, config: Config) -> Tensor:
        """What the network tells at time t; with guidance g: (1 - g) · without the inputs + g · with them."""
        guidance, moment = strength(condition, config.guidance), x.new_full((len(x),), t)
        if guidance == 1:
            return self.network(x, moment, self.told(condition)).float()
        both = self.told(told_and_not(condition))
        return beyond(self.network(x.repeat(2, 1, 1, 1), moment.repeat(2), both).float(), guidance)


# --------------------------------------------------------------------------------------------------------------- paths


def straight(t: Tensor) -> tuple[Tensor, Tensor]:
    """a(t) and s(t), how much of the picture and of the noise there is at time t."""
    return 1 - t, t


def round_(t: Tensor) -> tuple[Tensor, Tensor]:
    return (t * (math.pi / 2)).cos(), (t * (math.pi / 2)).sin()


PATHS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"flow": straight, "velocity": round_, "noise": round_}


def latest(config: Config) -> float:
    """The time that making begins at."""
    return LATEST if config.objective == "noise" else 1.0


def times(config: Config, chance: Tensor) -> Tensor:
    """Numbers in [0, 1) -> times of training; `middle`: the logistic function of a normal number (Esser et al. 2024)."""
    if config.times == "middle":
        chance = torch.special.ndtri(chance.clamp(1e-6, 1 - 1e-6)).sigmoid()
    return chance * latest(config)


def ends(config: Config, x: Tensor, told: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """The picture and the noise that x at time t lies between, by what the network tells."""
    a, s = (float(each) for each in PATHS[config.objective](torch.tensor(t)))
    if config.objective == "flow":
        return x - t * told, x + (1 - t) * told
    if config.objective == "velocity":
        return a * x - s * told, s * x + a * told
    return (x - s * told) / a, told


def euler(config: Config, x: Tensor, told: Tensor, t: float, later: float) -> Tensor:
    """A step along the path's direction, a'(t) picture + s'(t) noise."""
    picture, noise = ends(config, x, told, t)
    if config.objective == "flow":
        return x + (later - t) * (noise - picture)
    a, s = (float(each) for each in round_(torch.tensor(t)))
    return x + (later - t) * (math.pi / 2) * (a * noise - s * picture)


def ddim(config: Config, x: Tensor, told: Tensor, t: float, later: float) -> Tensor:
    """The place at the later time between the two ends that are told now. On straight paths the same as euler."""
    picture, noise = ends(config, x, told, t)
    a, s = (float(each) for each in PATHS[config.objective](torch.tensor(later)))
    return a * picture + s * noise


SAMPLERS: dict[str, Callable[[Config, Tensor, Tensor, float, float], Tensor]] = {"euler": euler, "ddim": ddim}


PRESETS = {
    "tiny": Config(width=16, layers=1, heads=2),
    "small": Config(),
    "dit": Config(network="dit", width=192, layers=6, heads=6, patch=4),
}
