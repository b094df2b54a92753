"""Codes of pictures: levels there and back, and networks that learn to draw what they stand for."""

from __future__ import annotations

import torch

from dougong.layers.quantizing import Levels, PictureCodes
from tests.backbones.conftest import filled


def levels(*counts: int) -> Levels:
    return filled(Levels(counts))  # type: ignore[return-value]


def test_every_code_has_numbers_of_its_own_and_they_are_levels() -> None:
    rounding = levels(3, 2, 5)
    codes = torch.arange(30).view(1, 5, 6)
    numbers = rounding.numbers(codes)  # (1, 3, 5, 6)
    assert torch.equal(rounding.codes(numbers), codes)
    assert numbers[:, 0].unique().tolist() == [-1.0, 0.0, 1.0]
    assert numbers[:, 1].unique().tolist() == [-1.0, 1.0]
    torch.testing.assert_close(numbers[:, 2].unique(), torch.tensor([-1, -0.5, 0, 0.5, 1]))


def test_numbers_of_any_size_go_to_the_nearest_level_and_the_gradient_goes_through() -> None:
    rounding = levels(3, 5)
    x = torch.tensor([-9.0, -0.6, 0.1, 0.7, 9.0]).view(1, 1, 1, 5).repeat(1, 2, 1, 1).requires_grad_()
    rounded = rounding(x)
    torch.testing.assert_close(rounded[0, 0, 0], torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]))  # of tanh: -0.54, 0.1, 0.6
    torch.testing.assert_close(rounded[0, 1, 0], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    rounded.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 1 - x.detach().tanh().square())


def test_a_picture_is_drawn_from_its_codes_alone_and_better_with_every_step() -> None:
    torch.manual_seed(0)
    model = filled(PictureCodes((3, 10, 7), 4, 24, (8, 8, 8)))
    corners = torch.rand(32, 3, 2, 2) * 2 - 1
    values = torch.nn.functional.interpolate(corners, (10, 7), mode="bilinear")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(150):
        pictures, codes = model(values)
        error = (pictures - values).square().mean()
        errors.append(error.item())
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        pictures, codes = model(values)
        assert codes.shape == (32, 3 * 2)
        assert len(codes.unique()) > 20
        torch.testing.assert_close(model.pictures(codes), pictures, rtol=1e-4, atol=1e-4)
    assert errors[-1] < 0.15 * errors[0]
