"""What holds for every backbone that makes an output from noise, found by its file name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dougong import backbones
from dougong.layers.features import Features, length_mask
from dougong.layers.noise import Draws, drawn, repeated
from tests.backbones.conftest import filled

NAMES = [name for name in backbones.names() if backbones.makes(name)]
SHAPE = (3, 7, 10)  # neither side a whole number of patches or grids
INPUTS = {"nothing": 0, "one feature": 1, "a sequence": None}  # positions of what is asked for


def presets() -> list[Any]:
    return [
        pytest.param(name, preset, id=f"{name}-{preset}") for name in NAMES for preset in backbones.load(name).PRESETS
    ]


def small(name: str, preset: str) -> Any:
    config = backbones.load(name).PRESETS[preset]
    changes = {"width": 16, "layers": 1, "heads": 2}
    return replace(config, **{key: value for key, value in changes.items() if hasattr(config, key)})


def built(config: Any, positions: int | None, *, stirred: bool = True) -> Any:
    torch.manual_seed(0)
    with torch.device("meta"):
        model = backbones.load(config.kind).Backbone(config, positions=positions, shape=SHAPE)
    filled(model)
    for parameter in model.parameters() if stirred else ():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def asked(positions: int | None, width: int = 16, rows: int = 4) -> Features:
    count = 3 if positions is None else positions
    values = torch.randn(rows, count, width, generator=torch.Generator().manual_seed(1))
    lengths = torch.full((rows,), count) if positions is not None else torch.tensor([3, 1, 2, 3])[:rows]
    mask = length_mask(lengths, count)
    return Features(values.masked_fill(~mask[..., None], 99.0), mask)


def pictures(rows: int = 4) -> torch.Tensor:
    return torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def seeds(model: Any, rows: int = 4) -> Draws:
    return repeated(range(rows), model.noise_shape, torch.device("cpu"))


@pytest.mark.parametrize(("name", "preset"), presets())
@pytest.mark.parametrize("inputs", INPUTS)
def test_it_is_filled_whole_and_every_parameter_learns(name: str, preset: str, inputs: str) -> None:
    config = small(name, preset)
    model = built(config, INPUTS[inputs], stirred=False)
    for key, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), key
    model = built(config, INPUTS[inputs]).train()
    condition = asked(INPUTS[inputs])
    losses = model.losses(pictures(), condition, drawn(4, model.noise_shape, torch.device("cpu")))
    assert losses.shape == (4,)
    losses.sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize(("name", "preset"), presets())
@pytest.mark.parametrize("inputs", INPUTS)
def test_the_same_noise_makes_the_same_values_of_the_right_shape(name: str, preset: str, inputs: str) -> None:
    model, condition = built(small(name, preset), INPUTS[inputs]), asked(INPUTS[inputs])
    noise = seeds(model).noise
    with torch.no_grad():
        made, again = model.make(condition, noise), model.make(condition, noise)
        other = model.make(condition, noise.flip(0))
    assert made.shape == (4, *SHAPE)
    assert made.isfinite().all()
    assert torch.equal(made, again)
    assert (made - other).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "preset"), presets())
@pytest.mark.parametrize("inputs", INPUTS)
def test_rows_do_not_see_each_other_and_padding_is_not_read(name: str, preset: str, inputs: str) -> None:
    model, condition = built(small(name, preset), INPUTS[inputs]), asked(INPUTS[inputs])
    draws = replace(seeds(model), told=torch.ones(4))
    with torch.no_grad():
        made, losses = model.make(condition, draws.noise), model.losses(pictures(), condition, draws)
        one = Features(condition.values[1:2], condition.mask[1:2])
        close(model.make(one, draws.noise[1:2])[0], made[1])
        alone = Draws(draws.noise[1:2], draws.time[1:2], draws.told[1:2])
        close(model.losses(pictures()[1:2], one, alone)[0], losses[1])
        other = replace(condition, values=condition.values.masked_fill(~condition.mask[..., None], -7.0))
        close(model.make(other, draws.noise), made)
        close(model.losses(pictures(), other, draws), losses)


@pytest.mark.parametrize(("name", "preset"), presets())
@pytest.mark.parametrize("inputs", ["one feature", "a sequence"])
def test_what_is_asked_changes_what_is_made_and_nothing_asked_stays_finite(name: str, preset: str, inputs: str) -> None:
    model, condition = built(small(name, preset), INPUTS[inputs]), asked(INPUTS[inputs])
    noise = seeds(model).noise
    nothing = replace(condition, mask=torch.zeros_like(condition.mask))
    with torch.no_grad():
        made = model.make(condition, noise)
        assert (model.make(replace(condition, values=-condition.values), noise) - made).abs().max() > 1e-3
        assert model.make(nothing, noise).isfinite().all()
        close(model.make(replace(nothing, values=nothing.values + 1), noise), model.make(nothing, noise))


@pytest.mark.parametrize(("name", "preset"), presets())
def test_bfloat16_stays_near_float32(name: str, preset: str) -> None:
    model, condition = built(small(name, preset), 1), asked(1)
    draws = replace(seeds(model), told=torch.ones(4))
    exact = model.losses(pictures(), condition, draws)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.losses(pictures(), condition, draws)
    assert mixed.dtype == torch.float32
    assert (mixed - exact).abs().max() < 0.1 * exact.abs().max()
    mixed.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_built_without_memory_and_name_what_making_can_change(name: str) -> None:
    module = backbones.load(name)
    for preset in module.PRESETS.values():
        with torch.device("meta"):
            model = module.Backbone(preset, positions=1, shape=(1, 28, 28))
        assert all(parameter.is_meta for parameter in model.parameters())
        assert all(hasattr(preset, key) for key in model.AT_MAKING)
        assert isinstance(model.COMPARES, bool)


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
