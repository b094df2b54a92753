"""Diffusion: its paths, samplers and guidance, against closed forms and the formulas of the papers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong.backbones import diffusion
from dougong.backbones.diffusion import Config
from dougong.core.errors import DougongError
from dougong.fields import Whole
from dougong.layers.features import Features
from dougong.layers.noise import Draws, drawn, repeated
from tests.backbones.test_makers import asked, built, seeds

MEAN, SPREAD = 0.4, 0.3  # of the values that a perfect network knows
OBJECTIVES = ("flow", "velocity", "noise")


class Perfect(nn.Module):
    """What a network tells that knows its values to be normal, with MEAN and SPREAD: the expectation in closed form."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config

    def forward(self, x: Tensor, time: Tensor, said: Any) -> Tensor:
        a, s = (each[:, None, None, None] for each in diffusion.PATHS[self.config.objective](time))
        gain = a * SPREAD**2 / (a**2 * SPREAD**2 + s**2)
        picture = MEAN + gain * (x - a * MEAN)
        noise = (x - a * picture) / s.clamp(min=1e-6)
        if self.config.objective == "flow":
            return noise - picture
        return noise if self.config.objective == "noise" else a * noise - s * picture


def perfect(**settings: Any) -> Any:
    config = Config(width=16, heads=2, **settings)
    with torch.device("meta"):
        model = diffusion.Backbone(config, positions=0, shape=(1, 1, 1))
    model.network, model.told = Perfect(config), nn.Identity()
    return model


def nothing(rows: int) -> Features:
    return Features(torch.zeros(rows, 0, 16), torch.zeros(rows, 0, dtype=torch.bool))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", diffusion.SAMPLERS)
def test_with_a_perfect_network_making_reaches_the_distribution_that_it_knows(objective: str, sampler: str) -> None:
    model = perfect(objective=objective, sampler=sampler, sampling_steps=100)
    made = model.make(nothing(8_000), repeated([0], (8_000, 1, 1, 1), torch.device("cpu")).noise[0])
    assert abs(float(made.mean()) - MEAN) < 0.02
    assert abs(float(made.std()) - SPREAD) < 0.02
    values = ((made.flatten() - MEAN) / SPREAD).sort().values
    normal = torch.special.ndtri((torch.arange(8_000) + 0.5) / 8_000).float()
    assert (values - normal)[200:-200].abs().max() < 0.15


def test_more_steps_come_nearer() -> None:
    normal = torch.special.ndtri((torch.arange(4000) + 0.5) / 4000).float()
    noise = normal[torch.randperm(4000, generator=torch.Generator().manual_seed(0))][:, None, None, None]
    far = []
    for steps in (3, 12, 100):
        made = perfect(objective="velocity", sampling_steps=steps).make(nothing(4000), noise)
        far.append(float((made.flatten().sort().values - (MEAN + SPREAD * normal)).abs().mean()))
    assert far[0] > far[1] > far[2]


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_ends_that_are_told_are_those_that_the_place_lies_between(objective: str, t: float) -> None:
    config = Config(objective=objective)
    picture, noise = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    a, s = (float(each) for each in diffusion.PATHS[objective](torch.tensor(t)))
    told = {"flow": noise - picture, "velocity": a * noise - s * picture, "noise": noise}[objective]
    found = diffusion.ends(config, a * picture + s * noise, told, t)
    torch.testing.assert_close(found, (picture, noise), rtol=1e-4, atol=1e-4)


def test_ddim_is_the_update_of_the_paper() -> None:
    """Formula 12 of Song et al. 2021 with sigma 0, in the paper's own terms: alphas that are squares."""
    config, x, told = Config(objective="noise"), torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    t, later = 0.8, 0.6
    bar, bar_later = math.cos(t * math.pi / 2) ** 2, math.cos(later * math.pi / 2) ** 2
    picture = (x - math.sqrt(1 - bar) * told) / math.sqrt(bar)
    expected = math.sqrt(bar_later) * picture + math.sqrt(1 - bar_later) * told
    torch.testing.assert_close(diffusion.ddim(config, x, told, t, later), expected)


def test_on_straight_paths_both_samplers_are_the_same() -> None:
    x, told = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    first, second = (sampler(Config(), x, told, 0.7, 0.4) for sampler in diffusion.SAMPLERS.values())
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, x + (0.4 - 0.7) * told)


def test_guidance_1_asks_for_no_more_than_the_inputs_and_0_for_nothing() -> None:
    model, condition = built(Config(width=16, layers=1, heads=2), 1), asked(1)
    x = torch.randn(4, 3, 7, 10)
    told = [model.guided(x, 0.5, condition, replace(model.config, guidance=g)) for g in (0.0, 1.0, 2.0, 3.0)]
    plain = model.network(x, torch.full((4,), 0.5), model.told(condition))
    unasked = model.network(x, torch.full((4,), 0.5), model.told(replace(condition, mask=condition.mask & False)))
    torch.testing.assert_close(told[1], plain)
    torch.testing.assert_close(told[0], unasked, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(told[3] - told[2], plain - unasked, rtol=1e-3, atol=1e-4)
    made = [model.make(condition, seeds(model).noise, replace(model.config, guidance=g)) for g in (1.0, 3.0)]
    assert (made[0] - made[1]).abs().max() > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_the_mean_squared_error_of_what_is_told(objective: str) -> None:
    config = Config(width=16, layers=1, heads=2, objective=objective, times="uniform")
    model, condition = built(config, 1), asked(1)
    values = torch.rand(4, 3, 7, 10) * 2 - 1
    draws = Draws(torch.randn(4, 3, 7, 10), torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0.05, 0.5, 0.5, 0.5]))
    losses = model.losses(values, condition, draws)
    for row in range(4):
        t = float(draws.time[row]) * (0.99 if objective == "noise" else 1)
        a, s = (1 - t, t) if objective == "flow" else (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2))
        x, noise = values[row : row + 1], draws.noise[row : row + 1]
        target = {"flow": noise - x, "noise": noise, "velocity": a * noise - s * x}[objective]
        told = Features(condition.values[row : row + 1], condition.mask[row : row + 1] & bool(row))  # row 0 is dropped
        found = model.network(a * x + s * noise, torch.tensor([t]), model.told(told))
        torch.testing.assert_close(losses[row], (found - target).square().mean(), rtol=1e-4, atol=1e-5)


def test_times_in_the_middle_are_more_frequent_and_every_time_is_legal() -> None:
    chance = torch.rand(10_000)
    middle = diffusion.times(Config(), chance)
    assert ((middle > 0) & (middle < 1)).all()
    assert 0.6 < float(((middle > 0.25) & (middle < 0.75)).float().mean()) < 0.8
    assert torch.equal(diffusion.times(Config(times="uniform"), chance), chance)
    assert diffusion.times(Config(objective="noise"), torch.ones(1) - 1e-7).max() < 0.99


def test_a_tiny_network_learns_two_kinds_of_picture_and_makes_the_one_that_is_asked_for() -> None:
    torch.manual_seed(0)
    config = Config(width=16, layers=1, heads=2, patch=1, grids=1, sampling_steps=15, guidance=1.0)
    model = built(config, 1, stirred=False).train()
    model.network = type(model.network)(config, (1, 4, 4), sequence=False)
    for module in model.network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.network.reset_parameters()
    model.noise_shape = (1, 4, 4)
    kind = torch.arange(64) % 2
    condition = Features(torch.eye(2, 16)[kind][:, None] * 4, torch.ones(64, 1, dtype=torch.bool))
    values = torch.where(kind == 0, -0.6, 0.6)[:, None, None, None].expand(64, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    for _ in range(160):
        model.losses(values, condition, drawn(64, (1, 4, 4), torch.device("cpu"))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        made = model.eval().make(condition, torch.randn(64, 1, 4, 4)).mean((1, 2, 3))
    assert (made[kind == 0] < -0.3).all()
    assert (made[kind == 1] > 0.3).all()


@pytest.mark.parametrize(
    ("settings", "inputs", "key"),
    [
        ({"guidance": 2.0}, {}, "model.guidance"),
        ({"drop_condition": 0.2}, {}, "model.drop_condition"),
        ({"drop_condition": 0.0, "guidance": 2.0}, {"label": None}, "model.guidance"),
    ],
)
def test_what_has_no_effect_is_refused(settings: dict[str, Any], inputs: dict[str, Any], key: str) -> None:
    found = list(diffusion.check("model", Config(**settings), Whole(inputs, {}, {}, None, None)))
    assert [problem.key for problem in found] == [key]
    assert list(diffusion.check("model", Config(), Whole(inputs, {}, {}, None, None))) == []


def test_sizes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(DougongError, match=r"model\.width = 30: expected a multiple of heads \(4\)"):
        Config(width=30)
    with pytest.raises(DougongError, match=r"model\.grids = 3: .*network: dit"):
        Config(network="dit", grids=3)
