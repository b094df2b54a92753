from __future__ import annotations

import torch

from dougong.layers.attention import Attention, KeyValues, visible


def test_grouped_queries_equal_repeated_heads() -> None:
    torch.manual_seed(0)
    grouped, full = Attention(24, 6, 2), Attention(24, 6, 6)
    for name in ("query", "out"):
        getattr(full, name).weight.data = getattr(grouped, name).weight.data
    for name in ("key", "value"):
        weight = getattr(grouped, name).weight.data.view(2, 4, 24)
        getattr(full, name).weight.data = weight.repeat_interleave(3, 0).reshape(24, 24)
    x = torch.randn(2, 5, 24)
    for causal in (False, True):
        a, b = (layer(x, *layer.keys_values(x), causal=causal) for layer in (grouped, full))
        torch.testing.assert_close(a, b)


def test_normed_queries_and_keys_do_not_grow_with_the_weights() -> None:
    torch.manual_seed(0)
    layer = Attention(16, 2, 2, qk_norm=True)
    x = torch.randn(1, 4, 16)
    before = layer(x, *layer.keys_values(x))
    layer.query.weight.data *= 50
    torch.testing.assert_close(layer(x, *layer.keys_values(x)), before, rtol=1e-4, atol=1e-4)


def test_visible_equals_the_rule_written_out() -> None:
    queries, keys = torch.tensor([[3, 4], [1, 2]]), torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    real = torch.tensor([[True] * 5, [True, False, False, True, True]])
    for causal in (False, True):
        for window in (None, 1, 2, 3):
            seen = visible(queries, keys, real, causal=causal, window=window)
            assert seen.shape == (2, 1, 2, 5)
            for row in range(2):
                for i in range(2):
                    for j in range(5):
                        q, k = int(queries[row, i]), int(keys[row, j])
                        rule = bool(real[row, j]) and (k <= q or not causal) and (window is None or abs(q - k) < window)
                        assert bool(seen[row, 0, i, j]) == rule


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    layer, x = Attention(16, 2, 2, dropout=0.5), torch.randn(1, 6, 16)
    once, again = (layer.train()(x, *layer.keys_values(x)) for _ in range(2))
    assert (once - again).abs().max() > 0
    once, again = (layer.eval()(x, *layer.keys_values(x)) for _ in range(2))
    torch.testing.assert_close(once, again)


def test_a_cache_is_filled_in_place() -> None:
    store = KeyValues((1, 2, 4, 3), torch.device("cpu"), torch.float32)
    room = store.keys.data_ptr()
    first, second = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 1, 3)
    store.append(first, -first)
    keys, values = store.append(second, -second)
    torch.testing.assert_close(keys, torch.cat((first, second), 2))
    torch.testing.assert_close(values, -keys)
    assert (store.length, store.keys.data_ptr()) == (4, room)
