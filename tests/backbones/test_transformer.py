from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dougong.backbones.transformer import PRESETS, Backbone, Config
from dougong.core.errors import FieldError
from dougong.layers.features import Features
from dougong.layers.positions import RotaryScaling

Build = Callable[..., Any]  # see conftest.py
Make = Callable[..., Features]

TINY = PRESETS["tiny"]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 100, "heads": 12}, "model.width = 100: expected a multiple of heads (12). Fix: use width: 108."),
        (
            {"width": 12, "heads": 4, "kv_heads": 3},
            "model.kv_heads = 3: expected a divisor of heads (4). Fix: use kv_heads: 2.",
        ),
        (
            {"width": 12, "heads": 4, "kv_heads": 8},
            "model.kv_heads = 8: expected a divisor of heads (4). Fix: use kv_heads: 4.",
        ),
        (
            {"width": 9, "heads": 3},
            "model.width = 9: expected an even number for each of the 3 heads, which rotary positions turn in pairs. "
            "Fix: use width: 12.",
        ),
        (
            {"width": 9, "heads": 3, "positions": "sinusoidal"},
            "model.width = 9: expected an even number for sinusoidal positions. Fix: use width: 12.",
        ),
        (
            {"positions": "learned", "rotary_scaling": RotaryScaling(kind="yarn", factor=2.0, original=8)},
            "model.rotary_scaling = 'yarn': expected none beside positions: learned. "
            "Fix: use positions: rotary, or remove it.",
        ),
        (
            {"width": 8, "heads": 4, "rotary_scaling": RotaryScaling(kind="ntk", factor=2.0, original=8)},
            "model.rotary_scaling.kind = 'ntk': expected linear or yarn where a head has two numbers: ntk leaves the first "
            "pair as it is. Fix: use kind: linear, or fewer heads.",
        ),
        (
            {"max_length": 17, "rotary_scaling": RotaryScaling(kind="ntk", factor=2.0, original=8)},
            "model.rotary_scaling.factor = 2.0: expected enough for 17 positions: 8 times it are 16. "
            "Fix: use factor: 3, or shorter sequences.",
        ),
        ({"experts": -1}, "model.experts = -1: expected 0 or more. Fix: use experts: 0 for a plain transformer."),
        (
            {"experts": 2, "experts_per_token": 3},
            "model.experts_per_token = 3: expected at most experts (2). Fix: use experts_per_token: 2.",
        ),
    ],
)
def test_what_does_not_fit_together_is_named_with_its_fix(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as error:
        Config(**change)
    assert str(error.value) == message


def test_a_sequence_longer_than_max_length_is_an_error(build: Build, features: Make) -> None:
    model = build(replace(TINY, positions="learned", max_length=4))
    with pytest.raises(FieldError) as error:
        model(features(32, [5]))
    fix = "cut the sequences, or use max_length: 5"
    assert str(error.value) == f"model.max_length = 4: expected at least the sequence's length (5). Fix: {fix}."
    with pytest.raises(FieldError, match=r"model\.max_length = 4"):
        build(replace(TINY, max_length=4))(features(32, [5]))  # a limit that is set holds for rotary positions too
    cache = model.new_cache(1, 9, torch.device("cpu"), torch.float32)
    model(features(32, [4]), causal=True, cache=cache)
    with pytest.raises(FieldError, match=r"model\.max_length = 4"):
        model(features(32, [1]), causal=True, cache=cache)


def test_learned_positions_have_a_row_for_each_fixed_position(build: Build) -> None:
    assert build(replace(TINY, positions="learned"), 6).table.weight.shape == (6, 32)
    assert build(replace(TINY, positions="learned")).table.weight.shape == (1024, 32)


def test_the_modern_form_begins_as_the_identity(build: Build, features: Make) -> None:
    x = features(32, [5])
    close(build(replace(TINY, final_norm=False), stirred=False)(x).values, x.values)


@pytest.mark.parametrize("preset", ["original", "gpt2", "bert"])
def test_the_classic_form_begins_at_unit_scale(preset: str, build: Build, features: Make) -> None:
    config = replace(PRESETS[preset], width=32, heads=2, layers=2, feedforward=None)
    assert 0.8 < float(build(config, stirred=False)(features(32, [5])).values.detach().std()) < 1.2


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal"])
def test_order_matters_whatever_marks_the_positions(positions: Any, build: Build, features: Make) -> None:
    model = build(replace(TINY, positions=positions))
    x = features(32, [6])
    turned = model(replace(x, values=x.values.flip(1))).values.flip(1)
    assert (turned - model(x).values).abs().max() > 1e-2


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "relative_buckets"])
@pytest.mark.parametrize("extra", [{}, {"window": 3}, {"norm_first": False, "kv_heads": 1}, {"experts": 3}])
def test_step_by_step_equals_all_at_once_in_other_forms(
    positions: Any, extra: dict[str, Any], build: Build, features: Make
) -> None:
    model = build(replace(TINY, positions=positions, **extra))
    x = features(32, [7, 7])
    whole = model(x, causal=True).values
    cache = model.new_cache(2, 7, torch.device("cpu"), torch.float32)
    parts = [model(Features(v, m), causal=True, cache=cache).values for v, m in _pieces(x, [3, 1, 2, 1])]
    close(torch.cat(parts, 1), whole)
    assert cache.length == 7


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "relative_buckets"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("extra", [{}, {"window": 2}, {"norm_first": False, "kv_heads": 1}])
def test_each_segment_of_a_row_is_read_as_if_it_stood_alone(
    positions: Any, causal: bool, extra: dict[str, Any], build: Build, features: Make
) -> None:
    model = build(replace(TINY, positions=positions, **extra))
    x = features(32, [9, 7])
    segments = torch.tensor([[4, 4, 4, 5, 6, 6, 6, 6, 6], [0, 0, 0, 0, 8, 8, 8, 8, 8]])  # the last two of row 1 pad
    packed = model(replace(x, segments=segments), causal=causal).values
    for row, start, stop in ((0, 0, 3), (0, 3, 4), (0, 4, 9), (1, 0, 4), (1, 4, 7)):
        piece = Features(x.values[row : row + 1, start:stop], x.mask[row : row + 1, start:stop])
        close(packed[row : row + 1, start:stop], model(piece, causal=causal).values)
    assert (model(x, causal=causal).values - packed)[0, 4:].abs().max() > 1e-3  # and not so without them


def test_segments_are_kept_apart_wherever_padding_stands(build: Build, features: Make) -> None:
    model = build(TINY)
    x = features(32, [8])
    mask = torch.tensor([[True, False, True, True, False, True, True, True]])
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2]])
    y = model(replace(x, mask=mask, segments=segments)).values
    for chosen in ([0, 2, 3], [5, 6, 7]):
        close(y[:, chosen], model(Features(x.values[:, chosen], mask[:, chosen])).values)


def test_the_cache_grows_with_key_value_heads_not_heads(build: Build) -> None:
    model = build(replace(TINY, kv_heads=1))
    cache = model.new_cache(3, 10, torch.device("cpu"), torch.bfloat16)
    assert [store.keys.shape for store in cache.layers] == [(3, 1, 10, 16)] * 2
    assert cache.layers[0].values.dtype == torch.bfloat16


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 4, 50])
def test_a_window_hides_what_lies_further_away(causal: bool, window: int, build: Build, features: Make) -> None:
    model = build(replace(TINY, layers=1, window=window))
    x = features(32, [8])
    x = replace(x, values=x.values.clone().requires_grad_())
    y = model(x, causal=causal).values
    for place in range(8):
        (gradient,) = torch.autograd.grad(y[0, place].sum(), x.values, retain_graph=True)
        reached = {other for other in range(8) if gradient[0, other].abs().max() > 0}
        assert reached == {n for n in range(8) if abs(n - place) < window and (n <= place or not causal)}


def test_on_a_grid_rows_and_columns_are_told_apart(build: Build, features: Make) -> None:
    model = build(TINY, 12)
    x = features(32, [12], grid=(3, 4))
    other = model(replace(x, grid=(4, 3)))
    assert other.grid == (4, 3)
    assert (model(x).values - other.values).abs().max() > 1e-3


def test_cross_attention_sees_real_memory_only_and_remembers_it(build: Build, features: Make) -> None:
    model = build(replace(TINY, cross=True))
    x, memory = features(32, [4, 4]), features(32, [5, 2])
    whole = model(x, causal=True, memory=memory).values
    noise = replace(memory, values=memory.values.masked_fill(~memory.mask[..., None], -3.0))
    close(model(x, causal=True, memory=noise).values, whole)
    changed = replace(memory, values=-memory.values)
    assert (model(x, causal=True, memory=changed).values - whole).abs().max() > 1e-2
    cache = model.new_cache(2, 4, torch.device("cpu"), torch.float32)
    pieces = _pieces(x, [2, 1, 1])
    parts = [model(Features(v, m), causal=True, memory=memory, cache=cache).values for v, m in pieces]
    close(torch.cat(parts, 1), whole)
    with pytest.raises(FieldError, match=r"model\.cross = True: expected an encoder's features to attend to"):
        model(x)


def test_experts_add_their_balance_loss_in_training_only(build: Build, features: Make) -> None:
    model = build(replace(TINY, experts=4, balance=0.5))
    x = features(32, [5, 3])
    assert model(x).auxiliary is None
    loss = model.train()(x).auxiliary
    assert (
        0.5 * 2 * 0.9 < float(loss.detach()) < 0.5 * 2 * 4
    )  # two layers, each between even use (1) and a single expert (4)
    loss.backward()
    assert model.blocks[0].feedforward.router.weight.grad.abs().sum() > 0
    both = model(replace(x, auxiliary=torch.tensor(3.0))).auxiliary
    close(both, loss + 3.0)


def test_bfloat16_runs_and_stays_near_float32(build: Build, features: Make) -> None:
    model, x = build(TINY), features(32, [6, 4])
    exact = model(x, causal=True).values
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x, causal=True).values
        cache = model.new_cache(2, 6, torch.device("cpu"), torch.bfloat16)
        stepped = model(Features(x.values[:, :1], x.mask[:, :1]), causal=True, cache=cache).values
    assert (mixed - exact)[x.mask].abs().max() < 0.2
    assert (stepped - exact[:, :1]).abs().max() < 0.2
    half = model.to(torch.bfloat16)(replace(x, values=x.values.bfloat16()), causal=True).values
    assert half.dtype == torch.bfloat16
    assert (half - exact)[x.mask].abs().max() < 0.3


def _pieces(x: Features, counts: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.values.split(counts, 1), x.mask.split(counts, 1), strict=True))


# --------------------------------------------------------------------------------------------------------------- clips


def clip(features: Make, rows: int = 2) -> Features:
    return features(32, [24] * rows, grid=(4, 2, 3))


def test_divided_attention_sees_its_place_over_time_and_its_frame(build: Build, features: Make) -> None:
    """One layer: what changes at a place is seen there at all times, then within each frame by all: nothing is far."""
    model = build(replace(PRESETS["tiny"], divided=True, layers=1), 24, axes=3)
    x = clip(features)
    before, values = model(x).values, x.values.clone()
    values[:, 7] += 1.0  # frame 1, place 1
    assert ((model(replace(x, values=values)).values - before).abs().amax((0, 2)) > 1e-5).all()
    block = model.blocks[0]
    block.time.out.weight.data.zero_()
    before = model(x).values
    changed = (model(replace(x, values=values)).values - before).abs().amax((0, 2)).reshape(4, 6)
    assert (changed[1] > 1e-5).all()
    assert (changed[[0, 2, 3]] == 0).all()
    block.time.out.weight.data.normal_()
    block.attention.out.weight.data.zero_()
    before = model(x).values
    changed = (model(replace(x, values=values)).values - before).abs().amax((0, 2)).reshape(4, 6)
    assert (changed[:, 1] > 1e-5).all()
    assert (changed[:, [0, 2, 3, 4, 5]] == 0).all()


def test_divided_attention_over_one_place_is_attention_over_time_and_of_one_frame_over_the_frame(
    build: Build, features: Make
) -> None:
    """Beside a branch that says nothing it equals the plain transformer on the same positions."""
    plain = build(replace(PRESETS["tiny"], layers=1), 6, axes=2)
    divided = build(replace(PRESETS["tiny"], divided=True, layers=1), 6, axes=3)
    weights = divided.state_dict() | plain.state_dict()
    for grid, silent, speaking in (((6, 1, 1), "attention", "time"), ((1, 2, 3), "time", "attention")):
        for name, weight in plain.state_dict().items():
            if ".attention" in name:
                weights[name.replace(".attention", f".{speaking}")] = weight
        weights[f"blocks.0.{silent}.out.weight"] = torch.zeros(32, 32)
        divided.load_state_dict(weights)
        x = features(32, [6, 6], grid=grid)
        same = replace(x, grid=(1, *grid[1:]) if grid[0] == 1 else (6, 1))
        expected = plain(replace(same, grid=same.grid[-2:] if grid[0] == 1 else None))
        torch.testing.assert_close(divided(x).values, expected.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal"])
def test_divided_attention_learns_with_every_part(positions: Any, build: Build, features: Make) -> None:
    model = build(replace(PRESETS["tiny"], divided=True, positions=positions), 24, axes=3).train()
    model(clip(features)).values.square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_frames_that_pad_are_not_seen(build: Build, features: Make) -> None:
    model = build(replace(PRESETS["tiny"], divided=True), 24, axes=3)
    x = clip(features)
    mask = x.mask.clone()
    mask[:, 12:] = False
    short = Features(x.values[:, :12], mask[:, :12], (2, 2, 3))
    torch.testing.assert_close(model(replace(x, mask=mask)).values[:, :12], model(short).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("positions", "axes"), [(None, None), (6, None), (24, 2)])
def test_without_a_clip_there_is_nothing_to_divide(positions: int | None, axes: int | None, build: Build) -> None:
    with pytest.raises(FieldError, match=r"model\.divided = True: expected false where there is no clip"):
        build(replace(PRESETS["tiny"], divided=True), positions, axes=axes)


@pytest.mark.parametrize(("key", "value"), [("window", 4), ("positions", "relative_buckets")])
def test_what_counts_places_of_a_sequence_is_refused_beside_divided(key: str, value: Any) -> None:
    with pytest.raises(FieldError, match=rf"model\.{key} = .*beside divided: true"):
        replace(PRESETS["tiny"], divided=True, **{key: value})


SET = replace(TINY, positions="none", readout="token")


def test_without_positions_a_table_is_a_set_and_the_token_reads_it(build: Build, features: Make) -> None:
    model, x = build(SET, 6), features(SET.width, [6, 6, 6])
    out = model(x)
    assert out.values.shape == (3, 1, SET.width)
    assert out.mask.all()
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    close(model(replace(x, values=x.values[:, order])).values, out.values)
    other = x.values.clone()
    other[:, 2] += 1
    assert (model(replace(x, values=other)).values - out.values).abs().amax() > 1e-3


@pytest.mark.parametrize("positions", ["none", "rotary", "learned", "sinusoidal", "relative_buckets"])
def test_the_token_reads_what_is_real_whatever_marks_the_places(build: Build, features: Make, positions: Any) -> None:
    model, x = build(replace(SET, positions=positions, max_length=5)), features(SET.width, [5, 3, 1])
    out = model(x).values
    for row, length in enumerate([5, 3, 1]):
        alone = replace(x, values=x.values[row : row + 1, :length], mask=x.mask[row : row + 1, :length])
        close(model(alone).values[0], out[row])


def test_the_token_reads_an_image_too(build: Build, features: Make) -> None:
    x = features(SET.width, [24, 24], grid=(4, 6))
    for positions in ("none", "rotary"):
        out = build(replace(SET, positions=positions), 24, axes=2)(x)
        assert out.values.shape == (2, 1, SET.width)
        assert out.grid is None


def test_a_token_is_refused_where_every_position_is_wanted() -> None:
    with pytest.raises(FieldError, match="all beside layout: encoder-decoder"):
        replace(SET, layout="encoder-decoder")
    with pytest.raises(FieldError, match="all, where text is written step by step"), torch.device("meta"):
        Backbone(SET, positions=None, causal=True)
