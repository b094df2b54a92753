"""GAN: its penalty, its normalization and its game, against gradients taken by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dougong.backbones import gan
from dougong.backbones.gan import Config, SmoothConv
from dougong.core.errors import DougongError
from dougong.fields import Whole
from dougong.layers.features import Features
from dougong.training.loop import Config as Train
from dougong.training.schedules import Plateau
from tests.backbones.test_makers import asked, built, pictures, seeds

TINY = Config(width=16, noise=8, penalty=3.0, variety=0.0)


def test_r1_is_half_gamma_times_the_squared_gradient_at_real_values() -> None:
    model, condition, values = built(TINY, 1), asked(1, rows=8), pictures(8)
    penalty = model.penalty(values, condition)
    some = 8 // gan.PENALIZED
    for row in range(some):

        def score(picture: torch.Tensor, row: int = row) -> torch.Tensor:
            return model.critic(
                picture[None], Features(condition.values[row : row + 1], condition.mask[row : row + 1])
            )[0]

        slope = torch.autograd.functional.jacobian(score, values[row])
        torch.testing.assert_close(penalty[row], 3.0 / 2 * slope.square().sum() * gan.PENALIZED)
    assert not penalty[some:].any()


def test_the_gradient_of_the_penalty_is_that_of_finite_differences() -> None:
    model, condition, values = built(TINY, 1).double(), asked(1), pictures()[:1].double()
    one = Features(condition.values[:1].double(), condition.mask[:1])
    weight = model.critic.score.weight
    (gradient,) = torch.autograd.grad(gan.squared_gradient(model.critic, values, one).sum(), weight)
    with torch.no_grad():
        for place in (0, 5):
            found = []
            for step in (1e-5, -2e-5):
                weight[0, place] += step
                found.append(slope(model, values, one))
            weight[0, place] += 1e-5
            torch.testing.assert_close((found[0] - found[1]) / 2e-5, gradient[0, place], rtol=1e-4, atol=1e-8)


@torch.enable_grad()
def slope(model: Any, values: torch.Tensor, condition: Features) -> torch.Tensor:
    return gan.squared_gradient(model.critic, values, condition).sum().detach()


def test_a_smooth_convolution_has_a_largest_singular_value_of_one() -> None:
    torch.manual_seed(0)
    conv = SmoothConv(6, 10, 3, padding=1)
    conv.reset_parameters()
    x = torch.randn(2, 6, 5, 5)
    for _ in range(600):
        conv(x)
    kept = conv.direction.clone()
    largest = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight / largest, conv.bias, padding=1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(conv.direction, kept, rtol=1e-3, atol=1e-3)
    kept = conv.direction.clone()
    conv.eval()(x)
    assert torch.equal(conv.direction, kept)  # measuring changes nothing


def test_the_game_is_the_loss_that_does_not_saturate() -> None:
    model, condition, values = built(TINY, 1), asked(1), pictures()
    draws = seeds(model)
    against, fooling = model.game(values, condition, draws)
    made = model.make(condition, draws.noise)
    real, false = model.critic(values, condition), model.critic(made, condition)
    torch.testing.assert_close(against, -F.logsigmoid(real) - F.logsigmoid(-false), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fooling, -F.logsigmoid(false), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.losses(values, condition, draws), against + fooling)


def test_a_generator_that_does_not_listen_to_its_noise_pays_for_it() -> None:
    model, condition, noise = built(Config(width=16, noise=8), 1), asked(1), torch.randn(4, 8)
    other = noise.roll(1, dims=1)
    first, second = (model.make(condition, each) for each in (noise, other))
    far = (first - second).abs().mean((1, 2, 3))
    expected = (noise - other).abs().mean(1) / (far + gan.SAME)
    torch.testing.assert_close(model.sameness(first, condition, noise), expected)
    model.generator.noise.weight.data.zero_()
    made = model.make(condition, noise)
    assert (model.sameness(made, condition, noise) > 10 * expected.max()).all()


@pytest.mark.parametrize(
    ("train", "key"),
    [
        (Train(steps=1, early_stop=3), "train.early_stop"),
        (Train(steps=1, schedule=Plateau()), "train.schedule.kind"),
        (Train(steps=1, compile=True), "train.compile"),
    ],
)
def test_what_waits_for_a_loss_to_fall_is_refused(train: Train, key: str) -> None:
    assert [problem.key for problem in gan.check("model", TINY, Whole({}, {}, {}, None, train))] == [key]


def test_a_penalty_beside_spectral_normalization_is_refused() -> None:
    with pytest.raises(DougongError, match=r"model\.penalty = 1\.0: expected none beside regularization: spectral"):
        Config(regularization="spectral", penalty=1.0)
