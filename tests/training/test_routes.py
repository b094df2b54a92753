from __future__ import annotations

import pytest
import torch

import dougong
from dougong import assembly
from dougong.layers import attention
from dougong.layers.attention import Attention, Route
from dougong.training import routes
from tests.clear_error import clear_error
from tests.small_runs import recipe_of, run


@pytest.mark.parametrize(
    ("route", "dtype", "context", "told"),
    [
        ("auto", torch.float32, 48, "fused"),
        ("auto", torch.bfloat16, 48, "by products"),
        ("auto", torch.bfloat16, 1024, "by products"),
        ("auto", torch.bfloat16, 1025, "fused"),
        ("products", torch.float32, 1024, "by products"),
        ("fused", torch.bfloat16, 48, "fused"),
    ],
)
def test_the_route_of_a_language_model_is_told(route: Route, dtype: torch.dtype, context: int, told: str) -> None:
    trained = run("poems")
    plan = assembly.loader_of(trained.recipe, trained.prepared.split("train"), [], trained.outputs).plan
    plan.context = context
    assert routes.attention(trained.model, route, plan, dtype) == told


def test_rows_of_many_lengths_and_models_without_attention() -> None:
    replies, prices = run("replies"), run("prices")
    plan = assembly.plan_of(replies.recipe, replies.prepared.split("train"), replies.inputs, replies.outputs)
    assert routes.attention(replies.model, "auto", plan, torch.bfloat16) == f"by products up to {routes.UP_TO}"
    assert routes.attention(prices.model, "auto", plan, torch.bfloat16) is None


def test_what_the_recipe_asks_for_is_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain = attention.products
    monkeypatch.setattr(attention, "products", lambda *given: calls.append(1) or plain(*given))
    torch.manual_seed(0)
    layer, x = Attention(16, 2, 2), torch.randn(2, 5, 16)
    found = {}
    for route in ("auto", "products", "fused"):
        routes.set_attention(layer, route)
        found[route] = layer(x, *layer.keys_values(x), causal=True)
    assert len(calls) == 1
    torch.testing.assert_close(found["products"], found["fused"])
    torch.testing.assert_close(found["auto"], found["fused"])


def test_an_unknown_route_is_refused() -> None:
    with clear_error("train.attention", "'flash'", "products"):
        dougong.check(recipe_of("poems") | {"train": {"steps": 1, "attention": "flash"}})


def test_doctor_says_what_auto_stands_for() -> None:
    told = dougong.doctor()["routes"]
    assert set(told) == {"precision", "attention", "compile"}
    assert all(isinstance(line, str) and line for line in told.values())
