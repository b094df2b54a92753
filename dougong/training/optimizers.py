"""Optimizers: SGD, Adagrad, Adam, AdamW by torch, fused where the device has it, and a Muon of our own.

A group's `base_lr` is the configured rate; the loop sets `lr = base_lr * factor` of the schedule. All state is tensors
per parameter; that of AdamW and Muon may be kept in bf16, and their gradients may come in it: the step itself is computed
in float32, a piece of a parameter at a time.
"""

# K matrices of one shape, R rows, C columns

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.adamw import adamw

from dougong.core import lean
from dougong.core.config import Fraction, NonNegative, Positive, config
from dougong.core.devices import has_fast_bf16
from dougong.core.errors import bad_field
from dougong.layers.positions import LearnedPositions, RelativeBuckets

Betas = tuple[Fraction, Fraction]
StateDtype = Literal["fp32", "bf16"]
# A mean in bf16 that moves by a share of 0.05 of what it lacks stops within a twelfth of it, as changes below half of its last bit
# are rounded away; one that moves by 0.001 would stay a third off, or never decay.
SLOWEST_IN_BF16 = 0.95


@config
class SGD:
    """Stochastic gradient descent with momentum (Nesterov's unless told otherwise)."""

    kind: Literal["sgd"] = "sgd"
    lr: Positive = 0.05
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise bad_field(
                "train.optimizer.nesterov", True, "a momentum above 0 beside it", "set momentum, or nesterov: false"
            )


@config
class Adagrad:
    """Duchi et al. 2011: each weight's rate falls with the squares of its gradients so far; made for sparse inputs."""

    kind: Literal["adagrad"] = "adagrad"
    lr: Positive = 0.01
    eps: Positive = 1e-10
    weight_decay: NonNegative = 0.0


@config
class Adam:
    """Kingma and Ba 2015 (arXiv:1412.6980). Its weight decay goes through the gradient: AdamW decays better."""

    kind: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


@config
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    lr: Positive = 2e-3
    betas: Betas = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    state: StateDtype = "fp32"  # in what both means are kept

    def __post_init__(self) -> None:
        _check_state(self.state, betas=self.betas)


@config
class Muon:
    """Momentum made orthogonal (Jordan et al. 2024) for the backbones' matrices, AdamW for everything else.

    Updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so that one rate serves both.
    """

    kind: Literal["muon"] = "muon"
    lr: Positive = 4e-3
    momentum: Fraction = 0.95
    nesterov: bool = True
    betas: Betas = (0.9, 0.95)  # of AdamW
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    state: StateDtype = "fp32"  # in what momentum and means are kept

    def __post_init__(self) -> None:
        _check_state(self.state, betas=self.betas, momentum=self.momentum)


def _check_state(state: StateDtype, **means: float | Betas) -> None:
    """Refuse means that bf16 would hold back."""
    for name, value in means.items():
        slowest = max(value) if isinstance(value, tuple) else value
        if state == "bf16" and slowest > SLOWEST_IN_BF16:
            expected = f"at most {SLOWEST_IN_BF16} beside state: bf16, which rounds slower changes away"
            raise bad_field(f"train.optimizer.{name}", value, expected, f"lower it, or remove state: {state}")


OptimizerConfig = Annotated[SGD | Adagrad | Adam | AdamW | Muon, Field(discriminator="kind")]


def build(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters; tables of vectors, norms and biases are not decayed."""
    parameters = list(_parameters(model))
    if not parameters:
        raise bad_field("model", type(model).__name__, "at least one parameter to train", "unfreeze a part of it")
    devices = {parameter.device.type for _, _, parameter in parameters}
    fused = devices.issubset(FUSED[config.kind])
    hidden = _hidden(model) if isinstance(config, Muon) else set()
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for _, module, parameter in parameters:
        decay, orthogonal = _is_matrix(module, parameter), parameter in hidden
        options = {"weight_decay": config.weight_decay if decay else 0.0, "base_lr": config.lr}
        method = {"method": "muon" if orthogonal else "adamw"} if isinstance(config, Muon) else {}
        group = groups.setdefault((decay, orthogonal), {"params": [], **options, **method})
        group["params"].append(parameter)
    return _OPTIMIZERS[config.kind](list(groups.values()), config, fused)


FUSED = {  # devices on which torch takes the step of all parameters at once (Muon: the part that is AdamW, if all is fp32)
    "sgd": {"cpu", "cuda", "mps"},
    "adagrad": {"cpu"},
    "adam": {"cpu", "cuda", "mps"},
    "adamw": {"cpu", "cuda", "mps"},
    "muon": {"cpu", "cuda", "mps"},
}
Place = tuple[str, nn.Module, Tensor]


def state_copies(config: OptimizerConfig) -> float:
    """How many copies of the weights its state is as large as, at least."""
    copies = {"sgd": 1, "adagrad": 1, "adam": 2, "adamw": 2, "muon": 1}[config.kind]
    return copies / 2 if getattr(config, "state", "fp32") == "bf16" else copies


def narrow_gradients(model: nn.Module) -> None:
    """Have gradients add up in bf16, half the memory: each sum is rounded to eight bits."""
    for _, _, parameter in _parameters(model):
        parameter.grad_dtype = torch.bfloat16  # torch >= 2.10


TAKE_BF16 = ("adamw", "muon")  # gradients, and state of their own, that are narrower than the weights


def _parameters(model: nn.Module) -> Iterator[Place]:
    """Each trainable parameter once, with the module that owns it and that module's path."""
    seen: set[Tensor] = set()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield path, module, parameter


def _is_matrix(module: nn.Module, parameter: Tensor) -> bool:
    """Not a vector (norm, bias), nor a table of vectors of which a batch needs only some."""
    return parameter.ndim >= 2 and not isinstance(module, nn.Embedding | LearnedPositions | RelativeBuckets)


def _hidden(model: nn.Module) -> set[Tensor]:
    """The trainable matrices of the backbones, and of what says HIDDEN; all matrices of a model that names no backbones."""
    backbones: list[nn.Module] = getattr(model, "backbones", [model])
    others = [module for module in model.modules() if getattr(module, "HIDDEN", False)]
    inside = {parameter for part in (*backbones, *others) for parameter in part.parameters()}
    return {
        weight
        for _, module, weight in _parameters(model)
        if weight in inside and _is_matrix(module, weight) and getattr(module, "groups", 1) == 1
    }  # kernels of single channels (groups) mix nothing: there is nothing to make orthogonal


class MuonAdamW(torch.optim.Optimizer):
    """Groups of method "muon" take orthogonal steps, groups of method "adamw" those of AdamW; all state in one dtype."""

    def __init__(self, groups: list[dict[str, Any]], config: AdamW | Muon, fused: bool):
        names = ("lr", "momentum", "nesterov", "betas", "eps", "weight_decay", "state")
        options = {name: getattr(config, name) for name in names if hasattr(config, name)}
        super().__init__(groups, {"method": "adamw", "fused": fused} | options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._orthogonal_step if group["method"] == "muon" else self._adamw_step)(parameters, group)
        return loss

    def _means(self, parameter: Tensor, group: dict[str, Any], *names: str) -> list[Tensor]:
        """Running means of a parameter's gradients, in the dtype that the group asks for."""
        state, dtype = self.state[parameter], torch.bfloat16 if group["state"] == "bf16" else parameter.dtype
        for name in names:
            held = state.get(name)
            state[name] = torch.zeros_like(parameter, dtype=dtype) if held is None else held.to(dtype)
        return [state[name] for name in names]

    def _orthogonal_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[tuple[torch.Size, torch.device], list[tuple[Tensor, Tensor]]] = {}
        for parameter in parameters:
            gradient = _gradient(parameter).to(parameter.dtype)
            (kept,) = self._means(parameter, group, "momentum")
            momentum = kept.to(parameter.dtype).lerp_(gradient, 1 - group["momentum"])
            kept.copy_(momentum)
            update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
            matrix = update.flatten(1)  # (R, C): a convolution's kernels are rows
            alike.setdefault((matrix.shape, matrix.device), []).append((parameter, matrix))
        for pairs in alike.values():
            directions = orthogonal(torch.stack([matrix for _, matrix in pairs]))  # (K, R, C)
            # an orthogonal matrix has entries of RMS 1 / sqrt(max(R, C)), steps of AdamW have one of about 0.2
            size = 0.2 * max(directions.shape[1:]) ** 0.5
            for (parameter, _), direction in zip(pairs, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * size)

    def _adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        whole: list[tuple[Tensor, ...]] = []  # what torch takes as it is
        for parameter in parameters:
            state, gradient = self.state[parameter], _gradient(parameter)
            mean, square = self._means(parameter, group, "exp_avg", "exp_avg_sq")
            if "step" not in state:
                device = parameter.device if group["fused"] else torch.device("cpu")  # where torch wants the count
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            if {gradient.dtype, mean.dtype} == {parameter.dtype}:
                whole.append((parameter, gradient, mean, square, state["step"]))
            else:
                _in_pieces(parameter, gradient, mean, square, state["step"], group)
        if whole:
            _adamw(whole, group)


def _in_pieces(
    parameter: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor, group: dict[str, Any]
) -> None:
    """AdamW's step where some of it is kept in bf16: a piece is widened, takes its step, and is rounded again."""
    if all(each.is_contiguous() for each in (parameter, mean, square)):  # or as a whole: a view would be a copy
        pieces = [each.reshape(-1).split(PIECE) for each in (parameter, gradient, mean, square)]
    else:
        pieces = [(each,) for each in (parameter, gradient, mean, square)]
    begun = count.clone()
    for piece, slope, *kept in zip(*pieces, strict=True):
        wide = [each.to(piece.dtype) for each in kept]
        count.copy_(begun)
        _adamw([(piece, slope.to(piece.dtype), *wide, count)], group)
        for each, value in zip(kept, wide, strict=True):
            each.copy_(value)


PIECE = 1 << 20  # numbers: 4 MB of float32, which stay in the cache between what is done to them


def _adamw(steps: list[tuple[Tensor, ...]], group: dict[str, Any]) -> None:
    """torch's own step of several parameters, each with its gradient, both means and the count of its steps."""
    parameters, gradients, means, squares, counts = (list(each) for each in zip(*steps, strict=True))
    adamw(
        parameters,
        gradients,
        means,
        squares,
        [],
        counts,
        fused=group["fused"] or None,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The orthogonal matrices nearest to (K, R, C) ones, roughly: all singular values between 0.7 and 1.2.

    Newton-Schulz iteration with the coefficients of Jordan et al. 2024, which grow small values fastest.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    narrow = min(matrices.shape[1:]) < FAST_BF16_FROM or not has_fast_bf16(matrices.device)
    x = (matrices.mT if tall else matrices).to(torch.float32 if narrow else torch.bfloat16)
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32) + 1e-7).to(x.dtype)
    for _ in range(steps):
        square = x @ x.mT  # (K, R, R)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


FAST_BF16_FROM = 128  # smaller matrices cost more to cast than bf16 saves


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None  # `step` leaves out parameters without one
    return gradient


def _sgd(groups: list[dict[str, Any]], config: SGD, fused: bool) -> torch.optim.Optimizer:
    kind: Any = lean.optimizer(torch.optim.SGD)
    return kind(groups, config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused or None)


def _adagrad(groups: list[dict[str, Any]], config: Adagrad, fused: bool) -> torch.optim.Optimizer:
    kind: Any = lean.optimizer(torch.optim.Adagrad)
    return kind(groups, config.lr, eps=config.eps, fused=fused or None)


def _adam(groups: list[dict[str, Any]], config: Adam, fused: bool) -> torch.optim.Optimizer:
    kind: Any = lean.optimizer(torch.optim.Adam)
    return kind(groups, config.lr, betas=config.betas, eps=config.eps, fused=fused or None)


def _muon_adamw(groups: list[dict[str, Any]], config: AdamW | Muon, fused: bool) -> torch.optim.Optimizer:
    kind: Any = lean.optimizer(MuonAdamW)
    return kind(groups, config, fused)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "adam": _adam,
    "adamw": _muon_adamw,
    "muon": _muon_adamw,
}
