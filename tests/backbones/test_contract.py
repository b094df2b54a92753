"""What holds for every backbone, found by its file name. Those that make an output from noise: test_makers.py."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dougong import backbones
from dougong.core.config import dump, read
from dougong.core.errors import DougongError
from dougong.layers.features import Features

Build = Callable[..., Any]  # see conftest.py
Make = Callable[..., Features]

EVERY = backbones.names()
NAMES = [name for name in EVERY if not backbones.makes(name)]
CAUSAL = [name for name in NAMES if backbones.load(name).Backbone.CAUSAL]
INPUTS = {
    "sequence": None,
    "table": 6,
    "image": 24,
    "clip": 24,
}  # the number of positions that each kind of input fixes
GRIDS = {"image": (4, 6), "clip": (3, 2, 4)}
AXES = {kind: len(grid) for kind, grid in GRIDS.items()}


def tiny(name: str) -> Any:
    return backbones.load(name).PRESETS["tiny"]


def sample(features: Make, width: int, kind: str) -> Features:
    if kind == "sequence":
        return features(width, [5, 3, 1])
    if kind == "table":
        return features(width, [6, 6, 6])
    return features(width, [24, 24, 24], grid=GRIDS[kind])


def extended(x: Features, count: int) -> Features:
    """The same with more padding at the end, of values that would be noticed."""
    rows, _, width = x.values.shape
    more = torch.full((rows, count, width), -77.0)
    mask = torch.cat((x.mask, torch.zeros(rows, count, dtype=torch.bool)), 1)
    return replace(x, values=torch.cat((x.values, more), 1), mask=mask)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_the_file_offers_what_the_contract_names(name: str) -> None:
    module = backbones.load(name)
    assert {"tiny", "small"} <= set(module.PRESETS)
    assert issubclass(module.Config, backbones.BackboneConfig)
    assert typing.get_type_hints(module.Config)["kind"] == typing.Literal[name]
    assert isinstance(module.Backbone.CAUSAL, bool)
    assert module.Backbone.PATCH >= 1
    assert not module.Backbone.CAUSAL or callable(module.Backbone.new_cache)


@pytest.mark.parametrize("name", EVERY)
def test_every_preset_is_read_back_from_its_plain_form(name: str) -> None:
    module = backbones.load(name)
    for preset in module.PRESETS.values():
        value, problems = read(module.Config, dump(preset), "model")
        assert (value, problems) == (preset, [])


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_built_without_memory(name: str) -> None:
    module = backbones.load(name)
    for preset in module.PRESETS.values():
        with torch.device("meta"):
            try:
                model = module.Backbone(preset, positions=None)
            except DougongError:  # one with stages of its own reads images alone
                model = module.Backbone(preset, positions=16)
        assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", INPUTS)
def test_reset_parameters_fills_everything(name: str, kind: str, build: Build) -> None:
    model = build(tiny(name), INPUTS[kind], axes=AXES.get(kind), stirred=False)
    for key, tensor in model.state_dict().items():
        assert tensor.isfinite().all(), key
        assert tensor.is_floating_point() or (tensor >= 0).all(), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", INPUTS)
def test_shapes_masks_and_gradients(name: str, kind: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config, INPUTS[kind], axes=AXES.get(kind)).train()
    x = sample(features, config.enters(AXES.get(kind)), kind)
    x.values.requires_grad_()  # of a backbone without parameters, too
    y = model(x)
    rows, positions, width = y.values.shape
    assert (rows, width) == (3, model.out_width)
    assert y.mask.shape == (rows, positions)
    assert y.mask.dtype == torch.bool
    assert y.grid is None or torch.tensor(y.grid).prod() == positions
    y.values[y.mask].square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_real(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config)
    x = sample(features, config.width, "sequence")
    y, longer = model(x), model(extended(x, 4))
    close(longer.values[:, : y.values.shape[1]][y.mask], y.values[y.mask])
    assert longer.mask.sum() == y.mask.sum()
    other = model(replace(x, values=x.values.masked_fill(~x.mask[..., None], -5.0)))
    close(other.values[y.mask], y.values[y.mask])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_between_joined_inputs_changes_nothing_real(
    name: str, causal: bool, build: Build, features: Make
) -> None:
    if causal and name not in CAUSAL:
        return
    config = tiny(name)
    model = build(config)
    x = features(config.width, [6, 6])
    gap = torch.full((2, 3, config.width), 50.0)
    values = torch.cat((x.values[:, :2], gap, x.values[:, 2:]), 1)
    mask = torch.tensor([[True, True, False, False, False, True, True, True, True]] * 2)
    y, joined = model(x, causal=causal), model(Features(values, mask), causal=causal)
    if y.values.shape[1] > 1:
        close(joined.values[joined.mask], y.values[y.mask])
    else:
        close(joined.values, y.values)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_anything_real_stays_finite(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config)
    x = sample(features, config.width, "sequence")
    x = replace(x, mask=x.mask & torch.tensor([[True], [False], [True]]))
    x = replace(x, values=x.values.clone().requires_grad_())
    y = model(x)
    y.values.sum().backward()
    assert y.values.isfinite().all()
    assert x.values.grad is not None
    assert x.values.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_see_each_other(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config)
    x = sample(features, config.width, "sequence")
    alone = model(Features(x.values[1:2], x.mask[1:2]))
    together = model(x)
    real = together.mask[1]
    close(alone.values[0][real], together.values[1][real])


@pytest.mark.parametrize("name", NAMES)
def test_the_auxiliary_loss_that_came_in_comes_out(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    y = build(config)(replace(features(config.width, [3]), auxiliary=torch.tensor(2.5)))
    assert y.auxiliary is not None
    assert float(y.auxiliary) == 2.5


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_is_attended_to_or_refused(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    x = features(config.width, [3])
    with pytest.raises(DougongError, match=r"use .*cross: true"):
        build(config)(x, memory=x)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CAUSAL])
def test_a_backbone_that_looks_ahead_refuses_to_be_causal(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    with pytest.raises(DougongError, match=r"expected a backbone that can look back only"):
        build(config, causal=True)
    with pytest.raises(DougongError, match=r"expected a backbone that can look back only"):
        build(config)(features(config.width, [3]), causal=True)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_means_that_the_future_changes_nothing(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config).train()  # in training too: no norm may carry the future back
    x = features(config.width, [7, 7])
    values = x.values.clone()
    values[:, 4] = 2 * values[:, 4].flip(-1)
    before, after = model(x, causal=True).values, model(replace(x, values=values), causal=True).values
    close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().amax((0, 2)).min() > 1e-4  # and from there on it does


@pytest.mark.parametrize("name", CAUSAL)
def test_without_causal_the_future_counts(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config)
    x = features(config.width, [7])
    values = x.values.clone()
    values[:, 4] = 2 * values[:, 4].flip(-1)
    changed = (model(x).values - model(replace(x, values=values)).values).abs().amax((0, 2))
    assert changed[3] > 1e-4


@pytest.mark.parametrize("name", CAUSAL)
def test_what_is_built_causal_has_a_use_for_every_parameter(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config, causal=True)
    model(features(config.width, [5]), causal=True).values.square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", INPUTS)
def test_bfloat16_stays_near_float32(name: str, kind: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model, x = build(config, INPUTS[kind], axes=AXES.get(kind)), sample(features, config.enters(AXES.get(kind)), kind)
    x.values.requires_grad_()
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x).values[exact.mask]
    assert (mixed - exact.values[exact.mask]).abs().max() < 0.3
    mixed.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", CAUSAL)
def test_step_by_step_works_in_bfloat16(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model, x = build(config), features(config.width, [4, 4])
    exact = model(x, causal=True).values
    for dtype in (torch.float32, torch.bfloat16):
        cache = model.new_cache(2, 4, torch.device("cpu"), dtype)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            for start, stop in ((0, 2), (2, 3), (3, 4)):
                y = model(Features(x.values[:, start:stop], x.mask[:, start:stop]), causal=True, cache=cache)
        assert (y.values[:, -1] - exact[:, -1]).abs().max() < 0.3


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("chunks", [[9], [1] * 9, [4, 1, 1, 3]])
def test_step_by_step_equals_all_at_once(name: str, chunks: list[int], build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config)
    x = features(config.width, [9, 9])
    whole = model(x, causal=True).values
    cache = model.new_cache(2, 9, torch.device("cpu"), torch.float32)
    parts, start = [], 0
    with torch.no_grad():
        for count in chunks:
            piece = Features(x.values[:, start : start + count], x.mask[:, start : start + count])
            parts.append(model(piece, causal=True, cache=cache).values)
            start += count
    close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("name", CAUSAL)
def test_step_by_step_rows_may_differ_in_length(name: str, build: Build, features: Make) -> None:
    config = tiny(name)
    model = build(config)
    x = features(config.width, [7, 5, 4])  # prompts of 4, 2 and 1, and three steps each
    cache = model.new_cache(3, 7, torch.device("cpu"), torch.float32)
    prompts = [4, 2, 1]
    with torch.no_grad():
        prompt = features(config.width, prompts)
        values = torch.where(prompt.mask[..., None], x.values[:, :4], prompt.values)
        model(Features(values, prompt.mask), causal=True, cache=cache)
        for step in range(3):
            new = torch.stack([x.values[row, length + step] for row, length in enumerate(prompts)])[:, None]
            y = model(Features(new, torch.ones(3, 1, dtype=torch.bool)), causal=True, cache=cache).values
    for row, length in enumerate([7, 5, 4]):
        whole = model(Features(x.values[row : row + 1, :length], x.mask[row : row + 1, :length]), causal=True)
        close(y[row, 0], whole.values[0, -1])


@pytest.mark.parametrize("name", EVERY)
def test_an_unknown_key_is_refused_with_the_nearest_name(name: str) -> None:
    module = backbones.load(name)
    _, problems = read(module.Config, {"kind": name, "widht": 8}, "model")
    assert "write 'width'" in str(problems[0])
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(module.Config))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_cache_goes_on_with_chosen_rows(name: str, build: Build, features: Make) -> None:
    """What a beam search does: rows fall away, and others are gone on with more than once."""
    config = tiny(name)
    model = build(config, causal=True)
    x, chosen = features(config.width, [6, 6, 6]), torch.tensor([2, 0, 2])
    cache = model.new_cache(3, 6, torch.device("cpu"), torch.float32)
    model(part(x, 0, 4), causal=True, cache=cache)
    cache.choose(chosen)
    rest = Features(x.values[chosen], x.mask[chosen])
    for step in (4, 5):
        found = model(part(rest, step, step + 1), causal=True, cache=cache)
        close(found.values[:, 0], model(rest, causal=True).values[:, step])


@pytest.mark.parametrize("name", [name for name in CAUSAL if hasattr(tiny(name), "cross")])
def test_rows_of_one_text_hold_its_features_once(name: str, build: Build, features: Make) -> None:
    config = replace(tiny(name), cross=True)
    model = build(config, causal=True)
    x, memory = features(config.width, [6, 6, 6]), features(config.width, [4, 2, 3])
    cache = model.new_cache(3, 6, torch.device("cpu"), torch.float32)
    model(part(x, 0, 2), causal=True, memory=memory, cache=cache)
    origin, rest = torch.arange(3), x
    for step, chosen, texts in ((2, [0, 0, 1, 2, 2, 2], 3), (3, [5, 0, 1, 0], 2), (4, [0], 1), (5, [0, 0], 1)):
        rows = torch.tensor(chosen)
        cache.choose(rows)
        origin, rest = origin[rows], Features(rest.values[rows], rest.mask[rows])
        assert len(cache.memory.values) == len(cache.memory.mask) == texts
        found = model(part(rest, step, step + 1), causal=True, memory=cache.memory, cache=cache)
        each = Features(memory.values[origin], memory.mask[origin])
        close(found.values[:, 0], model(rest, causal=True, memory=each).values[:, step])


@pytest.mark.parametrize("name", [name for name in CAUSAL if hasattr(tiny(name), "cross")])
def test_a_decoder_sees_the_real_features_of_an_encoder_at_every_step(name: str, build: Build, features: Make) -> None:
    config = replace(tiny(name), cross=True)
    model = build(config, causal=True)
    x, memory = features(config.width, [5, 5]), features(config.width, [4, 2])
    whole = model(x, causal=True, memory=memory).values
    other = replace(memory, values=memory.values.masked_fill(~memory.mask[..., None], 9.0))
    close(model(x, causal=True, memory=other).values, whole)
    other = replace(memory, values=memory.values + 1.0)
    assert not torch.allclose(model(x, causal=True, memory=other).values, whole)
    cache = model.new_cache(2, 5, torch.device("cpu"), torch.float32)
    for step in range(5):
        found = model(part(x, step, step + 1), causal=True, memory=memory, cache=cache)
        close(found.values[:, 0], whole[:, step])
    with pytest.raises(DougongError, match=r"an encoder's features to attend to"):
        model(x, causal=True)


def part(x: Features, start: int, stop: int) -> Features:
    return Features(x.values[:, start:stop], x.mask[:, start:stop])
