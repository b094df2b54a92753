"""Compiled blocks: the repeated parts of a backbone as fused kernels, made by torch.compile.

A first compilation takes 20 to 70 s on two cores; what torch can use again of it is kept beside other caches of the user.
`auto` compiles where a run is long enough to earn that. Whether it does follows from the recipe, the kind of device and
whether there is a compiler, never from what is in the cache or how fast the machine is today: the same recipe on the
same machine must give the same weights.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dougong.core.errors import MachineError, bad_field
from dougong.data.loader import Plan, WindowPlan
from dougong.model import Model
from dougong.training.loop import Config

LONG = {"cpu": 1e14, "cuda": 5e16}  # floating-point operations of a run; some five minutes
LONG_MINUTES = 5.0
# The user's own folder and not the project's, which may come from elsewhere: torch keeps pickles in it. Here and not
# below: torch looks at it as soon as it builds an optimizer.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dougong" / "compiled"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))


def is_wanted(config: Config, model: Model, plan: Plan) -> bool:
    """Whether this run's blocks are compiled. Raises MachineError where the recipe asks for it and it cannot be."""
    wanted = config.compile
    if wanted == "auto":
        wanted = missing(device_of(model)) is None and is_long(config, model, plan)
    elif wanted and (lacks := missing(device_of(model))):
        raise MachineError(f"train.compile = True: {lacks}. Fix: mend that, or set compile: auto.")
    if config.activations < 1 and not wanted:
        raise bad_field("train.activations", config.activations, "1 where no block is compiled", "set compile: true")
    return wanted


def is_long(config: Config, model: Model, plan: Plan) -> bool:
    """A run whose batches all have one shape (others would be compiled again and again), and enough work to do."""
    if not isinstance(plan, WindowPlan):
        return False
    budget, amount = config.budget
    if budget == "minutes":
        return amount >= LONG_MINUTES
    tokens = plan.batch_rows * plan.context
    of_epoch = tokens * plan.batches(0)
    total = amount * {"steps": tokens, "epochs": of_epoch, "tokens": 1}[budget]
    parameters = sum(parameter.numel() for parameter in model.backbone.parameters())
    return 6 * parameters * total >= LONG.get(device_of(model), float("inf"))


def missing(device: str) -> str | None:
    """What the machine lacks to compile for a device."""
    if device == "cuda":
        return None if importlib.util.find_spec("triton") else "it needs triton on a GPU, and that is not installed"
    if device != "cpu":
        return f"models are not compiled for {device}"
    compilers = (os.environ.get("CXX"), "g++", "clang++")
    return None if any(name and shutil.which(name) for name in compilers) else "there is no C++ compiler (g++, clang++)"


def device_of(model: nn.Module) -> str:
    return next(model.parameters()).device.type


@contextmanager
def compiled(model: Model, plan: Plan, activations: float = 1.0) -> Iterator[None]:
    """Inside, the blocks of the model's backbones run compiled while they train; after it as before.

    Of what a block computes on its way there this share of `activations` is kept for its way back, and the rest is computed again:
    in pieces of 1,024 tokens and little memory 12 layers × 768 take 2.48 GB with all and 2.42 with 0.7, 3 % slower; 6 × 384
    took a quarter more time with 0.6. Without random numbers, on a CPU, what is not a product or a sum (casts of the weights,
    activations) is computed again anyway: 7 to 9 % of the memory for a hundredth of the time.
    """
    from torch._functorch import config as partition  # a second to import: only where something is compiled

    regions = list(blocks(model))
    pure = all(getattr(region, "pure", False) for region in regions)
    if activations < 1 and not pure:  # torch 2.13 would draw them anew, and the gradients be wrong
        expected = "1 for blocks that draw random numbers, which cannot be computed twice"
        raise bad_field("train.activations", activations, expected, "remove it, or the model's dropout")
    for region in regions:
        region.forward = while_training(region, same_shape=isinstance(plan, WindowPlan))
    try:
        keep_all = not pure or device_of(model) != "cpu"
        with partition.patch(activation_memory_budget=activations, ban_recompute_materialized_backward=keep_all):
            yield
    finally:
        for region in regions:
            del region.forward  # the class has its own


def while_training(region: nn.Module, same_shape: bool) -> Callable[..., Any]:
    """Its forward pass, compiled for training. Validation has other shapes, and few of them: not worth the compiling."""
    plain, fast = region.forward, torch.compile(region.forward, dynamic=False if same_shape else None)
    return lambda *given, **named: (fast if region.training else plain)(*given, **named)


def blocks(model: Model) -> Iterator[nn.Module]:
    """The repeated parts of every backbone: of one kind, so that what is compiled for one serves for all."""
    for backbone in model.backbones:
        yield from _repeated(backbone)


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.children():  # not within a block: what it repeats is compiled with it
        yield from part if isinstance(part, nn.ModuleList) else _repeated(part)
