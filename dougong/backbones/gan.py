"""GAN: an output made from noise in one pass, by a generator that learns from a critic, which learns to tell made from real.

Goodfellow et al. 2014 (arXiv:1406.2661), with the loss of the generator that does not saturate. The critic is kept smooth by the
penalty R1 (Mescheder et al. 2018, arXiv:1801.04406) or by spectral normalization (Miyato et al. 2018, arXiv:1802.05957), and
told the inputs by projection (Miyato & Koyama 2018, arXiv:1802.05637). Where inputs are told, a generator soon makes one picture of
each, whatever the noise: Mao et al. 2019 (arXiv:1903.05628) keep it from that.
"""

# B batch, C channels, H height, W width of a picture, Z numbers of noise, D width

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dougong.backbones import BackboneConfig, Layers, Width
from dougong.core.config import Count, NonNegative, Positive, config
from dougong.core.errors import Problem, bad_field
from dougong.layers.denoisers import GROUPS, Block, Said, Told, fill, normed, places, shuffled, unshuffled
from dougong.layers.features import Features
from dougong.layers.feedforward import Linear
from dougong.layers.noise import Draws

SAME = 0.01  # values nearer than this count as the same
LEAK = 0.2  # slope of the critic's activation below zero
PENALIZED = (
    4  # one row of so many of each step is, that much harder: its gradient costs as much as all else of the critic
)


@config
class Config(BackboneConfig):
    """A generator and a critic of `grids` resolutions each, of the same widths."""

    kind: Literal["gan"] = "gan"
    width: Width = 128  # D: channels of the smallest grid; those before have half as many each
    layers: Layers = 1  # residual blocks at each grid
    patch: Count = 2  # side of the square of pixels that is one place of the largest grid
    grids: Annotated[Count, Field(le=8)] = 2  # each has half the side of the one before
    noise: Count = 64  # Z
    regularization: Literal["r1", "spectral"] = "r1"
    penalty: Positive | None = None  # of r1: gamma; None: 1
    variety: NonNegative = 0.1  # weight of what keeps other noise from giving the same picture; 0: nothing does

    def __post_init__(self) -> None:
        if self.penalty is not None and self.regularization != "r1":
            raise bad_field("model.penalty", self.penalty, "none beside regularization: spectral", "remove it")


def check(key: str, config: Config, whole: Any) -> Iterator[Problem]:
    """Nothing that waits for a loss to fall: two losses work against each other, and neither tells how good the pictures are."""
    train = whole.train
    if train is None:
        return
    if train.early_stop is not None:
        yield Problem("train.early_stop", train.early_stop, "none for a gan, which has no loss that falls", "remove it")
    if train.schedule.kind == "plateau":
        expected = "another for a gan, which has no loss that falls"
        yield Problem("train.schedule.kind", "plateau", expected, "write schedule: cosine, or constant")
    if train.compile is True:
        expected = "auto or false for a gan: the gradient of its penalty goes through another, which is not compiled"
        yield Problem("train.compile", True, expected, "remove it")


class Backbone(nn.Module):
    """Noise (B, Z), and features of the inputs (B, T, D) -> values (B, C, H, W) of -1 to 1."""

    CAUSAL: ClassVar[bool] = False
    PLACES: ClassVar[bool] = False
    PATCH: ClassVar[int] = 4
    MAKES: ClassVar[bool] = True
    COMPARES: ClassVar[bool] = False
    ADVERSARIAL: ClassVar[bool] = True
    AT_MAKING: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config, *, positions: int | None, shape: tuple[int, int, int]):
        super().__init__()
        self.config, self.out_width, self.noise_shape = config, config.width, (config.noise,)
        told = 0 if positions == 0 else 1  # their mean says what many positions say
        self.generator, self.critic = Generator(config, shape, told), Critic(config, shape, told)

    def make(self, condition: Features, noise: Tensor, config: Config | None = None) -> Tensor:
        return self.generator(noise, condition)

    def losses(self, values: Tensor, condition: Features, draws: Draws) -> Tensor:
        """(B,): both losses of each row together, which say how even the game is, and not how good the pictures are."""
        critic, generator = self.game(values, condition, draws)
        return critic + generator

    def game(self, values: Tensor, condition: Features, draws: Draws) -> tuple[Tensor, Tensor]:
        """(B,) each: what the critic has to make small, and the generator. Each by its own parameters only."""
        made = self.generator(draws.noise, detached(condition))
        both = Features(condition.values.repeat(2, 1, 1), condition.mask.repeat(2, 1))
        real, false = self.critic(torch.cat([values, made.to(values.dtype)]), both).chunk(2)
        fooling = F.softplus(-false)
        if self.config.variety:
            fooling = fooling + self.config.variety * self.sameness(made, condition, draws.noise)
        return F.softplus(-real) + F.softplus(false), fooling

    def sameness(self, made: Tensor, condition: Features, noise: Tensor) -> Tensor:
        """(B,): how far other noise lies away over how far what is made of it does (Mao et al. 2019, arXiv:1903.05628)."""
        other = noise.roll(1, dims=1)
        again = self.generator(other, detached(condition))
        apart = (made - again).float().abs().flatten(1).mean(1)
        return (noise - other).abs().mean(1) / (apart + SAME)

    def penalty(
        self, values: Tensor, condition: Features
    ) -> Tensor | None:  # (B,), of a part of the rows, 0 of the others
        """R1: gamma / 2 times the squared gradient of the critic at real values. None where the critic is smooth by itself."""
        if self.config.regularization != "r1":
            return None
        gamma = 1.0 if self.config.penalty is None else self.config.penalty
        some = math.ceil(len(values) / PENALIZED)
        part = Features(condition.values[:some].float(), condition.mask[:some])
        with torch.autocast(values.device.type, enabled=False):  # a gradient's gradient in bf16 is noise
            squares = squared_gradient(self.critic, values[:some].float(), part)  # (some,)
        return F.pad(squares * (gamma / 2 * len(values) / some), (0, len(values) - some))


def squared_gradient(critic: nn.Module, values: Tensor, condition: Features) -> Tensor:
    """(B,): of each row's score by its values, itself open to gradients."""
    values = values.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(values, condition).sum(), values, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def detached(x: Features) -> Features:
    return Features(x.values.detach(), x.mask)


def widths(config: Config) -> list[int]:
    """Channels of each grid, the largest grid first."""
    return [math.ceil(config.width / 2**above / GROUPS) * GROUPS for above in range(config.grids)][::-1]


class Generator(nn.Module):
    """Noise and inputs set the norms of residual blocks, from the smallest grid up to the picture."""

    def __init__(self, config: Config, shape: tuple[int, int, int], told: int):
        super().__init__()
        self.size, self.side = shape[1:], config.patch
        steps = 2 ** (config.grids - 1)
        self.grid = tuple(places(length, config.patch, steps) // steps for length in self.size)
        self.told = Told(config.width, told)
        self.noise = Linear(config.noise, config.width)
        self.mixed = Linear(config.width, config.width)
        self.enter = Linear(config.width, config.width * math.prod(self.grid))
        blocks: list[Block] = []
        before = config.width
        for grid, width in enumerate(reversed(widths(config))):
            for layer in range(config.layers):
                blocks.append(Block(config, before, width, doubles=bool(grid and not layer)))
                before = width
        self.blocks = nn.ModuleList(blocks)
        self.set = Linear(config.width, 2 * before, gain=0.0)
        self.leave = nn.Conv2d(before, shape[0] * self.side**2, 3, padding=1)

    def reset_parameters(self) -> None:
        fill(self.leave)

    def forward(self, noise: Tensor, condition: Features) -> Tensor:  # (B, Z) -> (B, C, H, W)
        said = self.told(condition)
        moment = F.silu(self.noise(noise) + said.vector)  # (B, D)
        moment = F.silu(self.mixed(moment))
        x = self.enter(moment).unflatten(1, (-1, *self.grid)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            if block.doubles:
                x = F.interpolate(x, scale_factor=2.0)
            x = block(x, moment, Said(moment))
        x = self.leave(F.silu(normed(x, self.set(moment))))
        return shuffled(x, self.side, self.size).tanh()


class Critic(nn.Module):
    """A picture, and what the inputs say -> a score, high for what it takes for real. It has no norms: R1 is of each row."""

    def __init__(self, config: Config, shape: tuple[int, int, int], told: int):
        super().__init__()
        smooth, self.side = config.regularization == "spectral", config.patch
        steps = 2 ** (config.grids - 1)
        self.grid = (places(shape[1], self.side, steps), places(shape[2], self.side, steps))
        channels = widths(config)
        self.told = Told(config.width, told)
        self.enter = conv(shape[0] * self.side**2, channels[0], 3, smooth)
        blocks: list[nn.Module] = []
        before = channels[0]
        for grid, width in enumerate(channels):
            for layer in range(config.layers):
                blocks.append(CriticBlock(before, width, smooth, halves=bool(grid and not layer)))
                before = width
        self.blocks = nn.ModuleList(blocks)
        self.score = Linear(before, 1)
        self.fits = Linear(before, config.width, bias=False)

    def forward(self, values: Tensor, condition: Features) -> Tensor:  # (B, C, H, W) -> (B,)
        x = self.enter(unshuffled(values, self.side, self.grid).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        h = F.leaky_relu(x, LEAK).mean((2, 3))  # (B, D)
        fit = (self.fits(h) * self.told(condition).vector).sum(1) * self.fits.out_features**-0.5
        return (self.score(h)[:, 0] + fit).float()


class CriticBlock(nn.Module):
    """Activation and convolution, twice, added to what came in; then means of 2 × 2 where the grid is halved."""

    def __init__(self, before: int, after: int, smooth: bool, *, halves: bool):
        super().__init__()
        self.halves = halves
        self.conv1 = conv(before, after, 3, smooth)
        self.conv2 = conv(after, after, 3, smooth)
        self.shortcut = conv(before, after, 1, smooth) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            x = F.avg_pool2d(x, 2)
        h = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, LEAK)), LEAK))
        return (h + (x if self.shortcut is None else self.shortcut(x))) * 0.5**0.5


def conv(before: int, after: int, kernel: int, smooth: bool) -> nn.Conv2d:
    kind = SmoothConv if smooth else CriticConv
    return kind(before, after, kernel, padding=kernel // 2)


class CriticConv(nn.Conv2d):
    """A convolution of weights with variance 1 / inputs."""

    def reset_parameters(self) -> None:
        fill(self)


class SmoothConv(nn.Conv2d):
    """A convolution whose weights are divided by their largest singular value, as one step of power iteration a pass tells it."""

    direction: Tensor

    def __init__(self, before: int, after: int, kernel: int, padding: int):
        super().__init__(before, after, kernel, padding=padding)
        self.register_buffer("direction", torch.empty(after))

    def reset_parameters(self) -> None:
        fill(self)
        if hasattr(self, "direction"):  # torch asks for it once before there is one
            nn.init.normal_(self.direction)
            self.direction.div_(self.direction.norm())

    def forward(self, input: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)  # (out, in · k · k)
        with torch.no_grad(), torch.autocast(input.device.type, enabled=False):
            right = F.normalize(matrix.T @ self.direction, dim=0)
            left = F.normalize(matrix @ right, dim=0)
            if self.training:
                self.direction.copy_(left)
        size = (matrix * torch.outer(left, right)).sum()  # products of matrices would be taken to bf16
        return self._conv_forward(input, self.weight / size, self.bias)


PRESETS = {
    "tiny": Config(width=16, noise=8),
    "small": Config(),
}
