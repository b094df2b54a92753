from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dougong.layers import attention
from dougong.layers.attention import Attention, KeyValues, Readers, products, products_are_faster, visible


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


def masks(kind: str) -> tuple[torch.Tensor | None, bool]:
    """Which of 5 keys each of 5 queries sees, in the forms that backbones use; and whether `causal` says it."""
    real = torch.tensor([[True] * 5, [True, False, True, True, False], [False, True, False, False, False]])
    places = torch.arange(5)[None]
    if kind == "window":
        return visible(places, places, torch.ones_like(real), causal=True, window=2), False
    if kind == "holes and window":
        return visible(places, places, real, causal=False, window=3), False
    return (real[:, None, None, :] if kind == "holes" else None), kind == "causal"


@pytest.mark.parametrize("kind", ["all", "causal", "holes", "window", "holes and window"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_products_equal_the_fused_kernel_and_so_do_their_gradients(
    kind: str, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "STRIP", 1)  # of the 5 queries: strips of 1, 1, 1 and 2
    torch.manual_seed(0)
    shapes = [(3, heads, 5, 6) for heads in (4, kv_heads, kv_heads)]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    seen, causal = masks(kind)
    # A query that sees nothing is padding, which nobody reads: no gradient comes from there.
    read = torch.ones(3, 1, 5, 1, dtype=torch.bool) if seen is None else seen.any(-1, keepdim=True)
    gradient = torch.randn(3, 4, 5, 6, dtype=torch.float64) * read
    fused = F.scaled_dot_product_attention(*given, seen, 0.0, causal, enable_gqa=kv_heads != 4)
    ours = products(*given, seen, causal)
    torch.testing.assert_close(ours * read, fused * read)
    expected = torch.autograd.grad(fused, given, gradient)
    for found, right in zip(torch.autograd.grad(ours, given, gradient), expected, strict=True):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("kind", ["all", "causal", "holes", "window"])
def test_training_in_bf16_takes_the_products_and_stays_near_the_fused_kernel(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x = Attention(32, 2, 2, qk_norm=True), torch.randn(3, 5, 32)
    seen, causal = masks(kind)
    calls: list[torch.dtype] = []

    def watched(queries: torch.Tensor, *rest: Any) -> torch.Tensor:
        result = products(queries, *rest)
        calls.append(result.dtype)
        return result

    def run() -> list[torch.Tensor]:
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x, *layer.keys_values(x), seen=seen, causal=causal)
        y.float().square().sum().backward()
        return [y.detach(), *(parameter.grad for parameter in layer.parameters() if parameter.grad is not None)]

    monkeypatch.setattr(attention, "products", watched)
    ours = run()
    assert calls == [torch.bfloat16]
    monkeypatch.setattr(attention, "products_are_faster", lambda *given: False)
    fused = run()
    assert len(ours) == len(fused) == 7
    for found, right in zip(ours, fused, strict=True):
        assert (found - right).float().norm() < 0.02 * right.float().norm()


def test_products_hide_a_share_of_what_each_query_sees() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 2, 6, 8)
    plain = products(queries, keys, values, None, True)
    many = torch.stack([products(queries, keys, values, None, True, 0.2) for _ in range(4000)])
    assert not torch.equal(many[0], many[1])
    torch.testing.assert_close(many.mean(0), plain, atol=0.05, rtol=0)


def test_products_are_for_training_in_bf16_on_the_cpu_and_for_short_sequences() -> None:
    short, long = (torch.zeros(1, 1, length, 8).bfloat16() for length in (512, 513))
    assert products_are_faster(short, short, False)
    assert not products_are_faster(short, long, False)
    assert products_are_faster(long, long, True)  # a triangle has less than half the shares
    for other in (short.float(), short.to("meta"), torch.zeros(1, 1, 1025, 8).bfloat16()):
        assert not products_are_faster(other, other, True)
    with torch.no_grad():
        assert not products_are_faster(short, short, False)


def test_what_sees_nothing_stays_finite() -> None:
    given = [torch.randn(1, 2, 3, 4).bfloat16().requires_grad_() for _ in range(3)]
    y = products(*given, torch.zeros(1, 1, 1, 3, dtype=torch.bool), False)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in given)


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


def test_a_store_goes_on_with_rows_that_repeat_or_fall_away() -> None:
    torch.manual_seed(0)
    store = KeyValues((3, 2, 4, 5), torch.device("cpu"), torch.float32)
    first = torch.randn(2, 3, 2, 2, 5)
    store.append(*first)
    store.memory = first[0], first[1]
    for rows, texts in (([2, 0, 2, 1], None), ([1, 3], torch.tensor([0, 1]))):
        store.choose(torch.tensor(rows), texts)
        first = first[:, torch.tensor(rows)]
        keys, values = store.append(*(new := torch.randn(2, len(rows), 2, 1, 5)))
        first = torch.cat([first, new], dim=3)
        torch.testing.assert_close(torch.stack([keys, values]), first)
    assert len(store.memory[0]) == 2


def test_rows_ask_their_text_side_by_side_and_get_their_own_answers_back() -> None:
    readers, texts = Readers.one_each(3, torch.device("cpu")).choose(torch.tensor([2, 0, 2, 2]))
    assert texts is not None
    assert texts.tolist() == [0, 2]
    assert (readers.count, readers.most) == (2, 3)
    x = torch.arange(8.0).view(4, 2, 1)
    asked = readers.together(x)  # (2, 3 · 2, 1)
    assert asked[..., 0].tolist() == [[2, 3, 0, 0, 0, 0], [0, 1, 4, 5, 6, 7]]
    assert torch.equal(readers.apart(asked), x)
    assert readers.choose(torch.tensor([1, 3]))[1] is None  # both are read still
