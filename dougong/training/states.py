"""What of a training is saved beside the weights: the optimizer's state and the states of all random generators."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dougong.core.errors import ArtefactError, bad_field, shown
from dougong.core.tensors import DTYPE_NAMES, DTYPES

log = logging.getLogger(__name__)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, prefix: str = "optimizer"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as flat tensors and plain values, by the names of the model's parameters, exact to the bit.

    Resume: `buffers = optimizer_buffers(...)`, `load(path, {**weights, **buffers})`, `restore_optimizer(...)`.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    described: dict[str, Any] = {"groups": [], "state": {}}
    for index, group in enumerate(optimizer.param_groups):
        options = {key: value for key, value in group.items() if key != "params"}
        entry: dict[str, Any] = {"parameters": [names[parameter] for parameter in group["params"]], "options": {}}
        for key, value in options.items():
            at = f"{prefix}.groups.{index}.{key}"  # a learning rate may be a tensor (capturable)
            entry["options"][key] = _describe(value, at, None, tensors)
        described["groups"].append(entry)
        for parameter in group["params"]:
            if parameter in optimizer.state:
                name = names[parameter]
                described["state"][name] = {
                    key: _describe(value, f"{prefix}.state.{name}.{key}", parameter, tensors)
                    for key, value in optimizer.state[parameter].items()
                }
    return tensors, described


def optimizer_buffers(
    optimizer: torch.optim.Optimizer, model: nn.Module, described: Mapping[str, Any], prefix: str = "optimizer"
) -> dict[str, Tensor]:
    """Empty tensors for `load` to fill: a new optimizer has no state yet. Each is sharded as its parameter is."""
    _check_groups(optimizer, model, described)
    parameters = dict(model.named_parameters())
    buffers: dict[str, Tensor] = {}
    for index, group in enumerate(described["groups"]):
        for key, entry in group["options"].items():
            if "dtype" in entry:
                buffers[f"{prefix}.groups.{index}.{key}"] = _empty(entry, None)
    for name, state in described["state"].items():
        for key, entry in state.items():
            if "dtype" in entry:
                buffers[f"{prefix}.state.{name}.{key}"] = _empty(entry, parameters[name])
    return buffers


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    described: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    prefix: str = "optimizer",
) -> None:
    """Put back what `optimizer_tensors` gave, uncast: Optimizer.load_state_dict would cast to the parameter's dtype."""
    _check_groups(optimizer, model, described)
    parameters = dict(model.named_parameters())
    for index, (group, saved) in enumerate(zip(optimizer.param_groups, described["groups"], strict=True)):
        for key, entry in saved["options"].items():
            group[key] = _restore(entry, f"{prefix}.groups.{index}.{key}", tensors)
    optimizer.state.clear()
    for name, state in described["state"].items():
        optimizer.state[parameters[name]] = {
            key: _restore(entry, f"{prefix}.state.{name}.{key}", tensors) for key, entry in state.items()
        }


def place_counts(optimizer: torch.optim.Optimizer) -> None:
    """Put each step count where torch's implementation wants it: a run may go on on another device."""
    for group in optimizer.param_groups:
        beside = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(count := state.get("step"), Tensor):
                state["step"] = count.to(parameter.device if beside else "cpu")


def _describe(value: object, at: str, parameter: Tensor | None, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """A tensor goes to `tensors`, a plain value is described in place: {"value": 3}, {"tuple": […]}, {"float": …}."""
    if isinstance(value, Tensor):
        tensors[at] = value.detach()
        beside = parameter is not None and value.device == parameter.device and value.device.type != "cpu"
        return {
            "dtype": DTYPE_NAMES[value.dtype],
            "shape": list(value.shape),
            "device": "parameter" if beside else "cpu",
        }
    if isinstance(value, tuple):
        return {"tuple": [_describe(item, f"{at}.{index}", parameter, tensors) for index, item in enumerate(value)]}
    if isinstance(value, float):
        return {"float": value.hex()}  # hex: exact, and inf (a max_norm, say) has no JSON number
    if value is None or isinstance(value, bool | int | str):
        return {"value": value}
    raise bad_field(
        at, value, "a tensor, number, text or tuple of them", "use an optimizer that keeps its state in those"
    )


def _empty(entry: Mapping[str, Any], parameter: Tensor | None) -> Tensor:
    dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
    if parameter is not None and list(parameter.shape) == shape and (shape or entry["device"] == "parameter"):
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    device = parameter.device if parameter is not None and entry["device"] == "parameter" else torch.device("cpu")
    return torch.empty(shape, dtype=dtype, device=device)


def _restore(entry: Mapping[str, Any], at: str, tensors: Mapping[str, Tensor]) -> Any:
    if "dtype" in entry:
        return tensors[at]
    if "tuple" in entry:
        return tuple(_restore(item, f"{at}.{index}", tensors) for index, item in enumerate(entry["tuple"]))
    return float.fromhex(entry["float"]) if "float" in entry else entry["value"]


def _check_groups(optimizer: torch.optim.Optimizer, model: nn.Module, described: Mapping[str, Any]) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    here = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    there = [list(group["parameters"]) for group in described["groups"]]
    if here != there:
        fix = "resume with the recipe that it was trained with"
        raise ArtefactError(
            f"optimizer: the checkpoint groups the parameters {shown(there)}, this model {shown(here)}. Fix: {fix}."
        )


# -------------------------------------------------------------------------------------------------------- random states


def random_state() -> dict[str, Any]:
    """The state of every global generator that training may draw from, as plain values."""
    version, words, gauss = random.getstate()
    old = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "python": {
            "version": version,
            "words": _hex(np.array(words, dtype="<u4")),
            "gauss": gauss if gauss is None else gauss.hex(),
        },
        "numpy": {
            "words": _hex(old["state"]["key"].astype("<u4")),
            "position": int(old["state"]["pos"]),
            "has_gauss": int(old["has_gauss"]),
            "gauss": float(old["gauss"]).hex(),
        },
        "cpu": _hex(torch.get_rng_state().numpy()),
    }
    if torch.cuda.is_available():
        state["cuda"] = _hex(torch.cuda.get_rng_state().numpy())  # this rank's own device
    if torch.backends.mps.is_available():
        state["mps"] = _hex(torch.mps.get_rng_state().numpy())
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators back to where `random_state` found them."""
    try:
        python, old = state["python"], state["numpy"]
        gauss = None if python["gauss"] is None else float.fromhex(python["gauss"])
        random.setstate((python["version"], tuple(map(int, _unhex(python["words"], "<u4"))), gauss))
        key = {"key": _unhex(old["words"], "<u4"), "pos": old["position"]}
        np.random.set_state(
            {
                "bit_generator": "MT19937",
                "state": key,
                "has_gauss": old["has_gauss"],
                "gauss": float.fromhex(old["gauss"]),
            }
        )
        torch.set_rng_state(torch.from_numpy(_unhex(state["cpu"], "u1")))
        for device, module, there in (
            ("cuda", torch.cuda, torch.cuda.is_available()),
            ("mps", torch.mps, torch.backends.mps.is_available()),
        ):
            if device in state and there:
                module.set_rng_state(torch.from_numpy(_unhex(state[device], "u1")))
            elif device in state:
                log.warning(
                    "the random state of %s is not restored: this machine has none, so the run will not be the same",
                    device,
                )
    except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtefactError(
            f"random: not the state of random generators ({shown(str(error))}). Fix: use another checkpoint."
        ) from error


RANDOM_BYTES = 1 << 16  # the largest, torch's on the CPU, has 5,056


def _hex(array: np.ndarray) -> str:
    return array.tobytes().hex()


def _unhex(text: str, dtype: str) -> np.ndarray:
    if len(text) > 2 * RANDOM_BYTES:
        raise ValueError(f"{len(text):,} digits are too many")
    return np.frombuffer(bytes.fromhex(text), dtype=dtype).copy()
