from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dougong.backbones.convnet import PRESETS, ClipConv, Config, Conv
from dougong.core.errors import FieldError
from dougong.layers.features import Features

Build = Callable[..., Any]  # see conftest.py
Make = Callable[..., Features]

TINY = PRESETS["tiny"]


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize(
    ("grid", "smaller"), [((8, 6), (2, 2)), ((7, 5), (2, 2)), ((1, 1), (1, 1)), ((28, 28), (7, 7))]
)
def test_each_stage_halves_an_image(
    norm: Any,
    grid: tuple[int, int],
    smaller: tuple[int, int],
    build: Build,
    features: Make,
) -> None:
    positions = grid[0] * grid[1]
    model = build(Config(width=12, layers=3, norm=norm), positions).train()
    y = model(features(12, [positions], grid=grid))
    assert y.grid == smaller
    assert y.values.shape == (1, smaller[0] * smaller[1], 12)
    assert y.values.isfinite().all()


def test_earlier_stages_come_along_with_their_grids(build: Build, features: Make) -> None:
    model = build(Config(width=12, layers=3), 7 * 5)
    y = model(features(12, [35, 35], grid=(7, 5)))
    assert [each.grid for each in y.finer] == [(7, 5), (4, 3)]
    assert [each.values.shape for each in y.finer] == [(2, 35, 3), (2, 12, 6)]
    assert model.finer_widths == (3, 6)
    assert build(Config(width=12, layers=3), 5)(features(12, [5])).finer == ()  # a table has no grid
    assert build(Config(width=12, layers=3), None).finer_widths == ()


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("grid", [(8, 6), (7, 5), (1, 9), (1, 1), None])
def test_every_kernel_gives_the_same_grid(
    kernel: int, grid: tuple[int, int] | None, build: Build, features: Make
) -> None:
    positions = 9 if grid is None else grid[0] * grid[1]
    model = build(Config(width=8, layers=3, kernel=kernel), positions).train()
    y = model(features(8, [positions], grid=grid))
    height, width = grid or (1, 9)
    assert y.values.shape[1] == y.mask.shape[1] == -(-height // 4) * -(-width // 4)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_padding_of_an_image_changes_nothing_real(norm: Any, kernel: int, build: Build) -> None:
    model = build(Config(width=12, layers=3, norm=norm, kernel=kernel), 1)
    image = torch.randn(2, 5, 3, 12)
    wide, real = torch.full((2, 8, 8, 12), 40.0), torch.zeros(2, 8, 8, dtype=torch.bool)
    wide[:, :5, :3], real[:, :5, :3] = image, True
    y = model(Features(image.flatten(1, 2), torch.ones(2, 15, dtype=torch.bool), (5, 3)))
    padded = model(Features(wide.flatten(1, 2), real.flatten(1), (8, 8)))
    assert (y.grid, padded.grid) == ((2, 1), (2, 2))
    assert padded.mask.tolist() == [[True, False, True, False]] * 2
    torch.testing.assert_close(padded.values[padded.mask], y.values[y.mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", ["basic", "bottleneck", "convnext"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_every_form_of_block_halves_ignores_padding_and_begins_as_its_shortcut(
    block: Any, kernel: int, build: Build, features: Make
) -> None:
    config = Config(width=16, layers=(1, 2), block=block, kernel=kernel, norm="layer")
    model = build(config, 1)
    image = torch.randn(2, 5, 3, 16)
    wide, real = torch.full((2, 8, 8, 16), 40.0), torch.zeros(2, 8, 8, dtype=torch.bool)
    wide[:, :5, :3], real[:, :5, :3] = image, True
    y = model(Features(image.flatten(1, 2), torch.ones(2, 15, dtype=torch.bool), (5, 3)))
    padded = model(Features(wide.flatten(1, 2), real.flatten(1), (8, 8)))
    assert (y.grid, padded.grid) == ((3, 2), (4, 4))
    torch.testing.assert_close(padded.values[padded.mask], y.values[y.mask], rtol=1e-5, atol=1e-5)
    fresh = build(config, 1, stirred=False)
    same = fresh.net.blocks[2]  # neither halves nor widens
    h = torch.randn(2, 16, 3, 2).relu()
    torch.testing.assert_close(same(h, None)[0], h, rtol=1e-4, atol=1e-4)


def test_blocks_are_spread_over_stages_and_the_last_get_what_is_left_over(build: Build) -> None:
    def shape(config: Config) -> list[tuple[int, int]]:
        return [(block.conv1.out_channels, block.stride) for block in build(config, 9).net.blocks]

    assert shape(Config(width=32)) == [(8, 1), (16, 2), (32, 2)]
    assert shape(Config(width=32, layers=5)) == [(8, 1), (16, 2), (16, 1), (32, 2), (32, 1)]
    assert shape(Config(width=32, layers=2)) == [(16, 1), (32, 2)]
    assert shape(Config(width=32, layers=2, stages=1)) == [(32, 1), (32, 1)]


def test_batch_statistics_are_saved_and_reset(build: Build, features: Make) -> None:
    model = build(TINY, 16, stirred=False).train()
    model(features(16, [16, 16], grid=(4, 4)))
    buffers = {key: value for key, value in model.state_dict().items() if "running" in key}
    assert buffers
    assert any(value.abs().sum() > 0 for key, value in buffers.items() if "mean" in key)


def test_a_sequence_is_seen_in_growing_reach(build: Build, features: Make) -> None:
    model = build(Config(width=8, layers=3, kernel=3))
    assert [block.reach for block in model.net.blocks] == [2, 4, 8]
    x = features(8, [20])
    x = replace(x, values=x.values.clone().requires_grad_())
    (gradient,) = torch.autograd.grad(model(x, causal=True).values[0, 19].sum(), x.values)
    assert (gradient[0].abs().amax(1) > 0).tolist() == [False] * 5 + [True] * 15


@pytest.mark.parametrize("kernel", [1, 2, 4, 5])
def test_step_by_step_equals_all_at_once_for_every_kernel(kernel: int, build: Build, features: Make) -> None:
    model, x = build(replace(TINY, kernel=kernel, dilation=3)), features(16, [8])
    cache = model.new_cache(1, 8, torch.device("cpu"), torch.float32)
    parts = [
        model(Features(v, m), causal=True, cache=cache).values
        for v, m in zip(x.values.split(2, 1), x.mask.split(2, 1), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), model(x, causal=True).values, rtol=1e-5, atol=1e-5)
    assert model(x).values.shape == x.values.shape


def test_what_does_not_fit_is_named(build: Build, features: Make) -> None:
    with pytest.raises(FieldError, match=r"model\.stages = 4: expected at most layers \(3\)\. Fix: use layers: 4"):
        Config(layers=3, stages=4)
    with pytest.raises(FieldError, match=r"model\.stages = 2: expected as many as layers has numbers \(3\)"):
        Config(layers=(1, 1, 1), stages=2)
    with pytest.raises(FieldError, match=r"model\.layers = \[\]: expected a count, or one for each stage"):
        Config(layers=())
    with pytest.raises(FieldError, match=r"model\.width = 10: expected a multiple of 4.* Fix: use width: 12"):
        Config(width=10, block="bottleneck")
    with pytest.raises(FieldError, match=r"model\.layers = \[1, 1\]: expected a count for a sequence.* layers: 2"):
        build(replace(TINY, layers=(1, 1)))
    with pytest.raises(FieldError, match=r"model\.block = 'basic': expected preactivation for a sequence"):
        build(replace(TINY, block="basic"))
    with pytest.raises(FieldError, match=r"model\.stages = 2: expected nothing for a sequence"):
        build(replace(TINY, stages=2))
    with pytest.raises(FieldError, match=r"model\.dilation = 2: expected nothing for an image"):
        build(replace(TINY, dilation=2), 16)
    with pytest.raises(FieldError, match=r"look back only over a grid or table\. Fix: use kind: transformer"):
        build(TINY, 16)(features(16, [16], grid=(4, 4)), causal=True)
    with pytest.raises(FieldError, match=r"a backbone for features with 3 axes"):
        build(TINY, 8)(features(16, [8], grid=(2, 2, 2)))


# --------------------------------------------------------------------------------------------------------------- clips


@pytest.mark.parametrize("over_time", ["apart", "joint"])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize(
    ("grid", "smaller"),
    [((8, 6, 4), (2, 2, 1)), ((5, 7, 5), (2, 2, 2)), ((1, 1, 1), (1, 1, 1)), ((1, 8, 8), (1, 2, 2))],
)
def test_each_stage_halves_a_clip(
    over_time: Any, kernel: int, grid: tuple[int, ...], smaller: tuple[int, ...], build: Build, features: Make
) -> None:
    positions = math.prod(grid)
    model = build(Config(width=12, layers=3, kernel=kernel, over_time=over_time), positions, axes=3).train()
    y = model(features(3, [positions], grid=grid))
    assert y.grid == smaller
    assert y.values.shape == (1, math.prod(smaller), 12)
    assert y.values.isfinite().all()


def test_a_clip_of_equal_frames_is_read_frame_by_frame_as_an_image_where_time_says_nothing(
    build: Build, features: Make
) -> None:
    """With a kernel of one frame the blocks over a clip are those over images: weights of the one fit the other."""
    clip = build(Config(width=8, layers=2, stages=1, over_time="joint", norm="layer"), 24, axes=3)
    image = build(Config(width=8, layers=2, stages=1, norm="layer"), 12, axes=2)
    weights = clip.state_dict()
    for name, weight in image.state_dict().items():
        kernel = weights[name]
        if kernel.ndim == 5 and kernel.shape[2] == 3:  # only its middle frame looks at anything
            kernel = torch.zeros_like(kernel).index_copy_(2, torch.tensor([1]), weight[:, :, None])
        weights[name] = kernel if kernel.ndim == 5 and kernel.shape[2] == 3 else weight.reshape(kernel.shape)
    clip.load_state_dict(weights)
    x = features(8, [24, 24], grid=(2, 3, 4))
    frames = Features(x.values.reshape(4, 12, 8), x.mask.reshape(4, 12), (3, 4))
    torch.testing.assert_close(clip(x).values.reshape(4, 12, 8), image(frames).values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("positions", "axes"), [(24, 2), (6, None), (None, None)])
def test_over_time_is_refused_where_there_is_none(positions: int | None, axes: int | None, build: Build) -> None:
    with pytest.raises(FieldError, match=r"model\.over_time = 'joint': expected nothing for .*Fix: remove it"):
        build(Config(over_time="joint"), positions, axes=axes)


def test_a_grid_of_other_axes_than_it_was_built_for_is_refused(build: Build, features: Make) -> None:
    with pytest.raises(FieldError, match="a backbone for features with 3 axes"):
        build(TINY, 24, axes=2)(features(TINY.width, [24], grid=(2, 3, 4)))


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (ClipConv(16, 16, (3, 1, 1), (1, 1, 1)), (2, 4, 4)),
        (ClipConv(16, 16, (5, 5, 5), (2, 2, 2)), (4, 4, 4)),
        (Conv(16, 16, 3, 2), (4, 1)),
    ],
)
def test_what_is_shorter_than_the_kernel_has_right_gradients_in_bf16(conv: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv.reset_parameters()
    x = torch.randn(3, 16, *shape)
    (exact,) = torch.autograd.grad(conv(x).square().sum(), [conv.weight])
    for _ in range(5):
        dirty = [torch.full((size,), math.nan) for size in (64, 1024, 4096, 16384, 65536) for _ in range(8)]
        del dirty  # what a kernel forgets to write is now likely to be seen
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(x)
        (mixed,) = torch.autograd.grad(y.float().square().sum(), [conv.weight])
        torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
