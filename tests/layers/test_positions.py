from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.t5.modeling_t5 import T5Attention

from dougong.core.errors import FieldError
from dougong.layers.features import Features
from dougong.layers.positions import (
    LearnedPositions,
    RelativeBuckets,
    RotaryScaling,
    frequencies,
    grid_places,
    in_order,
    places_within,
    real_first,
    rotary,
    rotate,
    sinusoidal,
)


def at(places: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """x (K) turned for each of the places (T, A): (T, K)."""
    return rotate(x.expand(1, 1, len(places), -1), rotary(places[None], x.shape[-1], 10_000.0))[0, 0]


def test_rotary_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(16), torch.randn(16)
    places = torch.arange(0, 60)[:, None]
    products = at(places, query) @ at(places, key).T  # (T, T)
    for distance in (-20, -1, 0, 3, 40):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), rtol=1e-4, atol=1e-4)
    assert products[0].std() > 0.1


def test_rotary_keeps_lengths_and_leaves_place_zero_alone() -> None:
    x = torch.randn(16)
    turned = at(torch.tensor([[0], [7], [1000]]), x)
    torch.testing.assert_close(turned[0], x)
    torch.testing.assert_close(turned.norm(dim=1), x.norm().expand(3))


def test_rotary_on_a_grid_depends_on_rows_and_columns_apart() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(12), torch.randn(12)
    places = grid_places((4, 5), torch.device("cpu"))
    assert places[:6].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 0]]
    products = (at(places, query) @ at(places, key).T).view(4, 5, 4, 5)
    torch.testing.assert_close(products[0, 0, 1, 2], products[2, 2, 3, 4])
    assert (products[0, 0, 1, 2] - products[0, 0, 2, 1]).abs() > 1e-3


def test_rotary_rows_may_stand_at_different_places() -> None:
    x = torch.randn(2, 3, 4, 8)  # (B, H, T, K)
    places = torch.tensor([[0, 1, 2, 3], [5, 6, 7, 8]])[..., None]
    both = rotate(x, rotary(places, 8, 100.0))
    for row in range(2):
        torch.testing.assert_close(both[row], rotate(x[row : row + 1], rotary(places[row : row + 1], 8, 100.0))[0])


def test_rotary_angles_stay_exact_for_half_precision() -> None:
    x = torch.randn(1, 1, 1, 8)
    tables = rotary(torch.tensor([[[4097]]]), 8, 10_000.0)
    assert tables[0].dtype == torch.float32
    half = rotate(x.bfloat16(), tables)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), rotate(x, tables), rtol=2e-2, atol=2e-2)


def test_sinusoidal_is_the_formula() -> None:
    table = sinusoidal(torch.arange(50), 6)
    for place in (0, 1, 49):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            assert math.isclose(table[place, 2 * pair], math.sin(angle), abs_tol=1e-5)
            assert math.isclose(table[place, 2 * pair + 1], math.cos(angle), abs_tol=1e-5)


def test_learned_positions_begin_small() -> None:
    layer = LearnedPositions(200, 8)
    layer.reset_parameters()
    assert 0.015 < float(layer.weight.detach().std()) < 0.025
    assert layer(torch.arange(3)).shape == (3, 8)


def test_places_begin_anew_in_each_segment() -> None:
    segments = torch.tensor([[7, 7, 3, 3, 3, 9], [0, 1, 2, 2, 0, 0], [5, 5, 5, 5, 5, 5]])
    expected = [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert places_within(segments).tolist() == expected


def test_padding_moves_to_the_end_and_back() -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, False, True], [True] * 4, [False] * 4])
    values = torch.arange(16.0).view(4, 4, 1)
    packed, order = real_first(Features(values, mask))
    assert packed.mask.tolist() == [[True] * 3 + [False], [True] + [False] * 3, [True] * 4, [False] * 4]
    assert packed.values[0, :3, 0].tolist() == [0.0, 2.0, 3.0]  # their order is kept
    torch.testing.assert_close(in_order(packed.values, order), values)


# -------------------------------------------------------------------------------------------------- longer sequences


def reference(scaling: RotaryScaling, head_dim: int, base: float) -> tuple[torch.Tensor, float]:
    """Inverse frequencies and the factor of cos and sin, as `transformers` computes them."""
    kind, factor, length = scaling.kind, scaling.factor, None
    if kind == "ntk":  # there it follows the length; at `factor` times the original it is the one that we have always
        kind, length, factor = "dynamic", round(scaling.factor * scaling.original), 1.0
    parameters = {"rope_type": kind, "rope_theta": base, "factor": factor}
    if kind == "yarn":
        parameters["original_max_position_embeddings"] = scaling.original
    theirs = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=scaling.original,
        rope_parameters=parameters,
    )
    return ROPE_INIT_FUNCTIONS[kind](theirs, torch.device("cpu"), seq_len=length)


@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
@pytest.mark.parametrize(("factor", "original"), [(2.0, 512), (4.0, 64), (8.0, 4096), (1.5, 10)])
@pytest.mark.parametrize(("head_dim", "base"), [(16, 10_000.0), (64, 10_000.0), (128, 500_000.0), (6, 100.0)])
def test_stretched_frequencies_are_those_of_transformers(
    kind: Literal["linear", "ntk", "yarn"], factor: float, original: int, head_dim: int, base: float
) -> None:
    scaling = RotaryScaling(kind=kind, factor=factor, original=original)
    expected, temperature = reference(scaling, head_dim, base)
    pairs = head_dim // 2
    found = frequencies(torch.arange(pairs), pairs, base, scaling)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    plain = frequencies(torch.arange(pairs), pairs, base, None)
    assert (found < 0.99 * plain).any()  # and not those of a model that is not stretched
    cos, sin = rotary(torch.tensor([[[3]]]), head_dim, base, scaling)
    torch.testing.assert_close(cos[0, 0, 0], (3 * expected).cos() * temperature, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sin[0, 0, 0], (3 * expected).sin() * temperature, rtol=1e-5, atol=1e-5)
    assert (temperature > 1) == (kind == "yarn")


def test_a_sequence_beyond_the_stretched_positions_is_refused() -> None:
    scaling = RotaryScaling(kind="linear", factor=2.5, original=100)
    scaling.check("model", 250)
    with pytest.raises(FieldError) as caught:
        scaling.check("model", 251)
    assert str(caught.value) == (
        "model.rotary_scaling.factor = 2.5: expected enough for 251 positions: 100 times it are 250. "
        "Fix: use factor: 3, or shorter sequences."
    )


@pytest.mark.parametrize("causal", [False, True])
def test_buckets_of_distances_are_those_of_t5(causal: bool) -> None:
    ahead = torch.arange(-300, 301)[None, None]  # (1, 1, S)
    expected = T5Attention._relative_position_bucket(ahead, bidirectional=not causal, num_buckets=32, max_distance=128)
    assert torch.equal(RelativeBuckets(2).buckets(ahead, causal), expected)
    assert len(expected.unique()) > 30
