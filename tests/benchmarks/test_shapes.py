"""The arithmetic of the benchmarks' shapes, and the batches that every peer gets."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.plain import Model
from benchmarks.shapes import SHAPES, batch, window


def test_floating_point_operations_of_a_token_are_six_a_weight_and_twelve_for_each_look_back() -> None:
    baby = SHAPES["baby"]
    assert baby.matrix_parameters == 12 * 6 * 384**2 + 65 * 384
    assert baby.flops_per_token == 6 * 10_641_792 + 12 * 6 * 384 * 256
    assert SHAPES["small"].matrix_parameters == 123_532_032  # of GPT-2's 124 M the rest are positions and norms


def test_the_plain_model_has_the_weights_that_its_shape_counts() -> None:
    shape = SHAPES["tiny"]
    model = Model(shape)
    rest = shape.context * shape.width + (2 * shape.layers + 1) * shape.width  # positions and norms
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.matrix_parameters + rest


def test_batches_are_the_same_each_time_and_made_of_the_windows_in_their_order() -> None:
    shape, tokens = SHAPES["tiny"], np.arange(1000, dtype=np.uint16)
    second = batch(tokens, shape, 1)
    assert second.shape == (shape.batch, shape.context + 1)
    assert np.array_equal(second, batch(tokens, shape, 1))
    assert np.array_equal(second[3], window(tokens, shape, shape.batch + 3))
    assert not np.array_equal(second, batch(tokens, shape, 0))
    assert np.array_equal(np.diff(second), np.ones((shape.batch, shape.context)))


def test_the_shortest_text_that_holds_a_window_gives_that_window() -> None:
    shape = SHAPES["tiny"]
    tokens = np.arange(shape.context + 1, dtype=np.uint16)
    assert window(tokens, shape, 7).tolist() == tokens.tolist()
    with pytest.raises(ValueError, match="high <= 0"):
        window(tokens[:-1], shape, 7)
