"""Which ways of computing `auto` takes: told in the first lines of a run, and by `dougong doctor`."""

from __future__ import annotations

import torch
from torch import nn

from dougong.core.devices import has_fast_bf16
from dougong.data.loader import Plan, WindowPlan
from dougong.layers.attention import PRODUCTS_UP_TO, Attention, Route
from dougong.training import compilation

UP_TO = f"{PRODUCTS_UP_TO[False]} positions, {PRODUCTS_UP_TO[True]:,} where causal"


def set_attention(model: nn.Module, route: Route) -> None:
    for module in model.modules():
        if isinstance(module, Attention):
            module.route = route


def attention(model: nn.Module, route: Route, plan: Plan, dtype: torch.dtype) -> str | None:
    """How a run's attention is computed, in words; None where it has none."""
    if not any(isinstance(module, Attention) for module in model.modules()):
        return None
    products = "by products" if route == "products" else f"by products up to {UP_TO}"
    on_cpu = compilation.device_of(model) == "cpu" and dtype == torch.bfloat16
    if route == "fused" or (route == "auto" and not on_cpu):
        return "fused"
    if route == "auto" and isinstance(plan, WindowPlan):
        return "by products" if plan.context <= PRODUCTS_UP_TO[True] else "fused"
    return products


def of_machine(device: torch.device) -> dict[str, str]:
    """What `auto` stands for on a device."""
    fast = has_fast_bf16(device)
    lacks = compilation.missing(device.type)
    products = f"in training by products up to {UP_TO}, else fused"
    return {
        "precision": "bf16 from width 128 on" if fast else "fp32",
        "attention": products if fast and device.type == "cpu" else "fused",
        "compile": lacks or f"language models that train for {compilation.LONG_MINUTES:g} minutes or longer",
    }
