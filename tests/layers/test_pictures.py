"""What is done to pictures in a batch is what PIL does to one of them, and where it moved is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from dougong.core.config import read
from dougong.layers import pictures
from dougong.layers.pictures import COLOURS, OPERATIONS, Augment, Policy, changed, mixed


def batch(rows: int = 4, height: int = 12, width: int = 9, channels: int = 3) -> Tensor:
    """Smooth pictures with a bright corner, so that no operation leaves them as they are."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(20, 200, (rows, height, width, channels), dtype=np.uint8)
    pixels[:, :3, :3] //= 2
    return torch.from_numpy(pixels)


def one(name: str, level: float, pixels: Tensor) -> np.ndarray:
    return COLOURS[name](pixels.float(), torch.full((len(pixels), 1, 1, 1), level)).round().clamp(0, 255).numpy()


PIL: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda picture, level: ImageOps.autocontrast(picture),
    "equalize": lambda picture, level: ImageOps.equalize(picture),
    "solarize": lambda picture, level: ImageOps.solarize(picture, 256 * (1 - abs(level))),
    "posterize": lambda picture, level: ImageOps.posterize(picture, 8 - round(4 * abs(level))),
    "brightness": lambda picture, level: ImageEnhance.Brightness(picture).enhance(1 + 0.9 * level),
    "contrast": lambda picture, level: ImageEnhance.Contrast(picture).enhance(1 + 0.9 * level),
    "colour": lambda picture, level: ImageEnhance.Color(picture).enhance(1 + 0.9 * level),
    "sharpness": lambda picture, level: ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * level),
}


@pytest.mark.parametrize("level", [-0.5, 0.25, 1.0])
@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_changed_as_PIL_does_it(name: str, level: float) -> None:
    pixels = batch()
    theirs = np.stack([np.asarray(PIL[name](Image.fromarray(each.numpy()), level)) for each in pixels])
    off = np.abs(one(name, level, pixels) - theirs)
    assert off.max() <= 2, off.max()  # of 255: PIL rounds at each step


@pytest.mark.parametrize("name", COLOURS)
def test_a_grey_picture_or_one_of_a_single_pixel_goes_through(name: str) -> None:
    for shape in ((1, 12, 9, 1), (2, 1, 1, 3), (1, 1, 5, 1)):
        assert np.isfinite(one(name, 0.7, batch(*shape))).all()


EVERY = [
    Augment(flip=True), Augment(crop=3), Augment(zoom=0.5), Augment(policy=Policy()),
    Augment(policy=Policy(operations=5, magnitude=1.0)), Augment(flip=True, crop=2, zoom=0.5, policy=Policy(), erase=0.5),
]  # fmt: skip


@pytest.mark.parametrize("setting", EVERY)
def test_a_seed_repeats_and_no_row_looks_at_another(setting: Augment) -> None:
    pixels = batch(8)

    def at(seed: int, pixels: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return changed(pixels, setting)[0]

    assert at(0, pixels).dtype == torch.uint8
    assert torch.equal(at(0, pixels), at(0, pixels))
    assert not torch.equal(at(0, pixels), at(1, pixels))
    other = pixels.clone()
    other[1:] = 7
    assert torch.equal(at(0, pixels)[0], at(0, other)[0])


@pytest.mark.parametrize(
    "setting", [Augment(flip=True, crop=2), Augment(zoom=0.4), Augment(policy=Policy(operations=3, magnitude=0.9))]
)
def test_where_what_is_seen_came_from_is_told(setting: Augment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose colours are its own places: each pixel then says where it came from."""
    monkeypatch.setattr(pictures, "_recoloured", lambda pixels, drawn, level: pixels)
    height, width = 60, 80
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y, torch.zeros_like(x)], dim=2).to(torch.uint8).expand(16, -1, -1, -1)
    torch.manual_seed(2)
    seen, affine = changed(pixels, setting)
    ways = torch.cat([affine, torch.tensor([[[0.0, 0.0, 1.0]]]).expand(16, 1, 3)], dim=1).inverse()  # back, in shares
    middles = torch.stack([(x + 0.5) / width, (y + 0.5) / height, torch.ones_like(x)], dim=2).float()  # (H, W, 3)
    shares = torch.einsum("bij,hwj->bhwi", ways, middles)[..., :2]  # (B, H, W, 2)
    source = shares * torch.tensor([width, height]) - 0.5
    inside = ((source >= 0) & (source <= torch.tensor([width - 1.0, height - 1.0]))).all(3)
    assert inside.float().mean() > 0.5
    assert ((seen[..., :2].float() - source).abs().amax(3)[inside] <= 0.51).all()


def test_the_policy_draws_every_operation_and_its_strength_is_the_magnitude() -> None:
    torch.manual_seed(0)
    drawn = torch.randint(len(OPERATIONS), (2, 400))
    assert drawn.unique().tolist() == list(range(14))
    assert pictures._levels(drawn, Policy(magnitude=0.3)).unique().tolist() == pytest.approx([-0.3, 0.3])
    still, affine = changed(batch(), Augment(policy=Policy(magnitude=0.0)))
    torch.testing.assert_close(affine, torch.eye(3)[:2].expand(4, 2, 3))
    assert still.shape == batch().shape


def test_what_turns_by_thirty_degrees_turns_as_PIL_does_it() -> None:
    y, x = np.mgrid[:40, :40]
    smooth = (128 + 60 * np.sin(x / 6) + 60 * np.cos(y / 5)).astype(np.uint8)[None, :, :, None].repeat(3, 3)
    moves = torch.eye(3)[None].clone()
    middle = torch.tensor([[1.0, 0, 20], [0, 1, 20], [0, 0, 1]])
    turn = pictures._one_move(torch.tensor([OPERATIONS.index("rotate")]), torch.tensor([1.0]), 40, 40)
    ours = pictures._sampled(torch.from_numpy(smooth), moves @ middle @ turn @ middle.inverse())[0].numpy().astype(int)
    theirs = np.asarray(Image.fromarray(smooth[0]).rotate(-30, Image.Resampling.BILINEAR)).astype(int)
    other = np.asarray(Image.fromarray(smooth[0]).rotate(30, Image.Resampling.BILINEAR)).astype(int)
    off = min(np.abs(ours - each)[10:30, 10:30].max() for each in (theirs, other))
    assert off <= 3


def test_cutmix_takes_a_rectangle_from_another_row_and_tells_its_share() -> None:
    pixels = torch.arange(1, 9, dtype=torch.uint8)[:, None, None, None].expand(8, 20, 30, 1)
    shares = []
    for seed in range(40):
        torch.manual_seed(seed)
        new, partner, share = mixed(pixels, Augment(cutmix=1.0))
        own = (new == pixels).float().mean((1, 2, 3))
        away = partner != torch.arange(8)
        assert torch.allclose(own[away], torch.tensor(share), atol=1e-6)
        assert torch.where(new == pixels, pixels, pixels[partner]).equal(new)
        shares.append(share)
    assert 0.0 <= min(shares) < 0.5
    assert max(shares) > 0.9


def test_with_mixup_and_cutmix_each_has_its_turn() -> None:
    pixels = torch.arange(0, 240, 30, dtype=torch.uint8)[:, None, None, None].expand(8, 6, 6, 1)
    blended = []
    for seed in range(20):
        torch.manual_seed(seed)
        new, partner, _ = mixed(pixels, Augment(mixup=1.0, cutmix=1.0))
        blended.append(not bool(((new == pixels) | (new == pixels[partner])).all()))
    assert 4 < sum(blended) < 16


@pytest.mark.parametrize(
    "wrong",
    [{"zoom": -0.1}, {"zoom": 1.0}, {"cutmix": -1}, {"policy": {"operations": 0}}, {"policy": {"magnitude": 2}}],
)
def test_wrong_augmentations_are_refused(wrong: dict[str, Any]) -> None:
    assert len(read(Augment, wrong, "inputs.x.augment")[1]) == 1
