"""Keep torch's compiler out of a run that compiles nothing: importing it takes as long as importing torch.

torch (2.13) imports it for the shapes of the meta device, and for functions that must not be compiled, when they are first
called, in order to say so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes() -> Iterator[None]:
    """Modules made inside have shapes and no memory, as on the meta device, and nothing is drawn for them."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))


def give_memory(module: nn.Module, device: torch.device) -> None:
    """`to_empty`: every parameter and buffer has its shape already, and gets memory of its own; what it holds is garbage."""
    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))


def never_compiled(*functions: Callable[..., Any]) -> None:
    """Tell torch of these functions of its own that they are called as they are, so that it need not ask its compiler."""
    for function in functions:
        inner = getattr(function, "__wrapped__", None)
        if inner is not None:
            inner.__dynamo_disable = inner


def optimizer(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """One of torch's optimizers, which takes the same steps, and does not import the compiler at the first."""
    base = torch.optim.Optimizer
    never_compiled(base.add_param_group, base.zero_grad, base.state_dict, base.load_state_dict)
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(inspect.unwrap(kind.step))})
