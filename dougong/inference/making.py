"""Make what comes from noise: pictures. The same seed gives the same picture, whatever is made beside it."""

# B batch

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from dougong import backbones
from dougong.core.config import Count, config, dump, read
from dougong.core.devices import place
from dougong.core.errors import NO_SUCH_KEY, bad_field
from dougong.data.columns import Columns
from dougong.model import Batch, Model

AT_ONCE = 100  # rows that are made together


@config
class Config:
    """How many of each, and by which random numbers."""

    count: Annotated[Count, Field(le=100_000)] = 1
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0


def options(given: Mapping[str, Any], model: Any) -> tuple[Config, Any]:
    """The options by name, and the backbone's config with those that it can change; FieldError for any other."""
    module = backbones.load(model.kind)
    own = {name: value for name, value in given.items() if name in module.Backbone.AT_MAKING}
    config, problems = read(Config, {name: value for name, value in given.items() if name not in own})
    changed, more = read(module.Config, dump(model) | own)
    for problem in [*problems, *more]:
        names = [*dump(Config()), *module.Backbone.AT_MAKING]
        expected = f"one of {', '.join(names)}" if problem.expected == NO_SUCH_KEY else problem.expected
        raise bad_field(f"generate.{problem.key}".strip("."), problem.value, expected, problem.fix)
    return config, changed


@torch.inference_mode()
def make(
    model: Model, batch: Batch, seeds: Sequence[int], config: Any = None, *, precise: Any = nullcontext
) -> Columns:
    """The arrays of what is made for the inputs of B rows, a number of them at a time; `config`: another way to make it."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(seeds), AT_ONCE):
        rows = {key: value[start : start + AT_ONCE] for key, value in batch.items()}
        with precise():
            made = model.make(place(rows, device), seeds[start : start + AT_ONCE], config)
        parts.append({name: value.cpu().numpy() for name, value in made.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
