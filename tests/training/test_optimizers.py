"""Optimizers: torch's own step by step, a Muon that makes orthogonal steps, groups, and state that is plain tensors."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong import model as models
from dougong.backbones import transformer
from dougong.core.config import dump, read
from dougong.fields import Field, text
from dougong.layers.losses import Loss
from dougong.training import optimizers, states
from dougong.training.loop import Config
from dougong.training.optimizers import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Muon,
    OptimizerConfig,
    build,
    narrow_gradients,
    orthogonal,
    state_copies,
)

NARROW = [AdamW(state="bf16"), Muon(state="bf16")]
KINDS = [SGD(), Adagrad(), Adam(), AdamW(), Muon(), *NARROW]


class Small(nn.Module):
    """An embedding, a backbone with two equal matrices, another and a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.backbone = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8, bias=False), nn.Linear(8, 24))
        self.head = nn.Linear(24, 7)
        self.__dict__["backbones"] = [self.backbone]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.backbone(self.embedding(tokens)))


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def train(model: Small, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> list[float]:
    losses = []
    for step in range(start, start + steps):
        tokens = torch.arange(step, step + 7) % 7
        loss = nn.functional.cross_entropy(model(tokens), (tokens + 1) % 7)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def reference(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    """torch's optimizer in its plain form: one tensor at a time, not fused."""
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or name.startswith("embedding")]
    matrices = [p for name, p in model.named_parameters() if p.ndim >= 2 and not name.startswith("embedding")]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": matrices, "weight_decay": config.weight_decay}]
    match config:
        case SGD():
            return torch.optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=config.nesterov, foreach=False)
        case Adagrad():
            return torch.optim.Adagrad(groups, config.lr, eps=config.eps, foreach=False)
        case Adam():
            return torch.optim.Adam(groups, config.lr, betas=config.betas, eps=config.eps, foreach=False)
        case _:
            return torch.optim.AdamW(groups, config.lr, betas=config.betas, eps=config.eps, foreach=False)


@pytest.mark.parametrize(
    "config",
    [
        SGD(weight_decay=0.01),
        SGD(nesterov=False, momentum=0.0),
        Adagrad(weight_decay=0.01),
        Adam(weight_decay=0.01),
        AdamW(weight_decay=0.3),
    ],
)
def test_each_step_is_that_of_torchs_plain_optimizer(config: Any) -> None:
    ours, theirs = small(), small()
    pair = build(config, ours), reference(config, theirs)
    for step in range(5):
        for model, optimizer in zip((ours, theirs), pair, strict=True):
            train(model, optimizer, 1, start=step)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_every_optimizer_learns_with_its_defaults(config: Any) -> None:
    model = small()
    losses = train(model, build(config, model), 60)
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_groups_know_the_configured_rate_and_hold_each_parameter_once(config: Any) -> None:
    model = small()
    groups = build(config, model).param_groups
    assert {group["base_lr"] for group in groups} == {group["lr"] for group in groups} == {config.lr}
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


def test_norms_biases_and_embeddings_are_not_decayed() -> None:
    model = small()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = set()
    for group in build(AdamW(weight_decay=0.1), model).param_groups:
        decayed |= {names[id(parameter)] for parameter in group["params"] if group["weight_decay"]}
    assert decayed == {"backbone.0.weight", "backbone.2.weight", "backbone.3.weight", "head.weight"}


def test_muon_takes_the_backbones_matrices_and_adamw_the_rest() -> None:
    model = small()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taken: dict[str, set[str]] = {"muon": set(), "adamw": set()}
    for group in build(Muon(), model).param_groups:
        taken[group["method"]] |= {names[id(parameter)] for parameter in group["params"]}
    assert taken["muon"] == {"backbone.0.weight", "backbone.2.weight", "backbone.3.weight"}
    assert {"embedding.weight", "head.weight", "backbone.0.bias", "backbone.1.weight"} <= taken["adamw"]


@pytest.mark.parametrize("layout", ["decoder", "encoder-decoder"])
def test_muon_takes_the_matrices_of_every_backbone_of_a_model(layout: Any) -> None:
    """Those that an input has of its own, and the encoder before a decoder: by AdamW's rule a rate of Muon's spoils them."""
    config = transformer.Config(width=16, layers=1, heads=2, layout=layout)
    fields = [Field(name, text.Config(max_length=8), Ids()) for name in ("source", "target")]
    own = {"source": replace(config, layout="decoder")}
    model = models.build(fields[:1], fields[1:], config, encoders=own, loss=Loss(), seed=0, device=torch.device("cpu"))
    backbones = [module for module in model.modules() if isinstance(module, transformer.Backbone)]
    assert len(backbones) == (3 if layout == "encoder-decoder" else 2)
    wanted = {weight for module in backbones for weight in module.parameters() if weight.ndim == 2}
    (group,) = [group for group in build(Muon(), model).param_groups if group["method"] == "muon"]
    assert set(group["params"]) == wanted


def test_muon_takes_the_matrices_that_copying_puts_between_features() -> None:
    config = transformer.Config(width=16, layers=1, heads=2, layout="encoder-decoder")
    source = Field("source", text.Config(max_length=8), Ids())
    target = Field("target", text.Config(max_length=8, shares="source", copy=True), Ids())
    model = models.build([source], [target], config, encoders={}, loss=Loss(), seed=0, device=torch.device("cpu"))
    (group,) = [group for group in build(Muon(), model).param_groups if group["method"] == "muon"]
    copier = model.head(target).copier
    assert {copier.query.weight, copier.key.weight} <= set(group["params"])


class Ids:
    """A codec of which only the numbers are asked for."""

    vocab_size, end, unknown = 20, 0, None


def test_muon_leaves_the_head_to_adamw_where_the_backbone_is_frozen() -> None:
    model = small()
    model.backbone.requires_grad_(False)
    assert {group["method"] for group in build(Muon(), model).param_groups} == {"adamw"}


def test_tied_and_frozen_parameters_are_stepped_once_and_never() -> None:
    model = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8), nn.Linear(8, 7, bias=False))
    model[2].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    held = [parameter for group in build(AdamW(), model).param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(model[0].weight), id(model[1].weight)}
    assert len(held) == 2
    with pytest.raises(ValueError, match=r"expected at least one parameter to train\. Fix: unfreeze a part of it"):
        build(AdamW(), model.requires_grad_(False))


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 8, 32), (3, 32, 8), (1, 128, 160)])
def test_newton_schulz_makes_matrices_nearly_orthogonal(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 1e-3))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_batched_newton_schulz_equals_one_by_one() -> None:
    matrices = torch.randn(5, 12, 20, generator=torch.Generator().manual_seed(0))
    together = orthogonal(matrices)
    for index in range(5):
        torch.testing.assert_close(together[index], orthogonal(matrices[index : index + 1])[0], rtol=1e-4, atol=1e-5)


def test_newton_schulz_of_zeros_is_zero() -> None:
    assert not orthogonal(torch.zeros(2, 4, 6)).any()


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_a_muon_step_moves_a_matrix_as_far_as_one_of_adamw(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(shape[1], shape[0], bias=False)
    before = model.weight.detach().clone()
    optimizer = build(Muon(lr=0.1, weight_decay=0.0), model)
    model.weight.grad = torch.randn(shape)
    optimizer.step()
    moved = (model.weight - before).square().mean().sqrt().item()
    assert moved == pytest.approx(0.1 * 0.2, rel=0.25)


def test_muon_flattens_the_kernels_of_a_convolution() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(3, 8, 3, bias=False)
    before = model.weight.detach().clone()
    optimizer = build(Muon(lr=1.0, weight_decay=0.0), model)
    model.weight.grad = torch.randn_like(model.weight)
    optimizer.step()
    values = torch.linalg.svdvals((before - model.weight).flatten(1)) / (0.2 * 27**0.5)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_decays_weights_by_the_rate_alone() -> None:
    model = nn.Linear(4, 4, bias=False)
    before = model.weight.detach().clone()
    optimizer = build(Muon(lr=0.1, weight_decay=0.5), model)
    model.weight.grad = torch.zeros(4, 4)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_state_round_trip_goes_on_bit_for_bit(config: Any) -> None:
    model = small()
    optimizer = build(config, model)
    train(model, optimizer, 3)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 3, start=3)
    again = small()
    again.load_state_dict(weights)
    resumed = build(config, again)
    resumed.load_state_dict(state)
    train(again, resumed, 3, start=3)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_state_is_what_a_checkpoint_can_hold(config: Any) -> None:
    model = small()
    optimizer = build(config, model)
    train(model, optimizer, 2)
    tensors, described = states.optimizer_tensors(optimizer, model)
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    weights = copy.deepcopy(model.state_dict())
    train(model, optimizer, 2, start=2)
    again = small()
    again.load_state_dict(weights)
    resumed = build(config, again)
    states.restore_optimizer(resumed, again, described, saved)
    train(again, resumed, 2, start=2)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("config", KINDS, ids=lambda config: config.kind)
def test_a_parameter_without_a_gradient_stays_as_it_is(config: Any) -> None:
    model = small()
    optimizer = build(config, model)
    before = model.head.weight.detach().clone()
    model.embedding.weight.grad = torch.ones_like(model.embedding.weight)
    optimizer.step()
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("gradients", ["fp32", "bf16"])
@pytest.mark.parametrize("config", NARROW, ids=lambda config: config.kind)
def test_state_in_bf16_is_half_as_large_and_learns_as_well(config: Any, gradients: str) -> None:
    narrow, wide = small(), small()
    if gradients == "bf16":
        narrow_gradients(narrow)
    pair = build(config, narrow), build(replace(config, state="fp32"), wide)
    assert state_copies(config) == state_copies(replace(config, state="fp32")) / 2
    curves = [train(model, optimizer, 60) for model, optimizer in zip((narrow, wide), pair, strict=True)]
    np.testing.assert_allclose(*curves, rtol=0.02)
    sizes = [
        sum(each.nbytes for state in optimizer.state.values() for key, each in state.items() if key != "step")
        for optimizer in pair
    ]
    assert sizes[0] * 2 == sizes[1]
    assert all(parameter.dtype == torch.float32 for parameter in narrow.parameters())


@pytest.mark.parametrize("beta", [0.9, 0.95])
def test_a_mean_in_bf16_comes_near_what_it_is_the_mean_of(beta: float) -> None:
    weight = nn.Parameter(torch.ones(1000))
    optimizer = build(AdamW(betas=(beta, beta), state="bf16"), nn.ParameterList([weight]))
    state, slopes = optimizer.state[weight], torch.linspace(0.5, 2, 1000)
    for slope in (slopes, torch.zeros(1000)):
        weight.grad = slope
        for _ in range(200):
            optimizer.step()
        expected = {"exp_avg": slope, "exp_avg_sq": slope**2}
        for name, value in expected.items():  # short of it by less than half a last bit, divided by what a step moves
            torch.testing.assert_close(state[name].float(), value, rtol=2**-8 / (1 - beta), atol=1e-3)


def test_pieces_take_the_step_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    config, models = AdamW(state="bf16"), (small(), small())
    with torch.no_grad():  # a layout of which no view is flat
        for model in models:
            model.head.weight.data = model.head.weight.data.t().contiguous().t()
    losses = [train(models[0], build(config, models[0]), 5)]
    monkeypatch.setattr(optimizers, "PIECE", 5)
    losses.append(train(models[1], build(config, models[1]), 5))
    np.testing.assert_allclose(*losses, rtol=1e-5)  # the last numbers of a piece are not computed eight at a time
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "more", "field"),
    [(AdamW, {"betas": (0.9, 0.999)}, "betas"), (Muon, {"momentum": 0.96}, "momentum")],
)
def test_a_mean_too_slow_for_bf16_is_refused(kind: Any, more: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"train.optimizer.{field} = .*: expected at most 0.95 beside state: bf16"):
        kind(state="bf16", **more)
    kind(**more)


def test_gradients_in_bf16_want_an_optimizer_that_takes_them() -> None:
    with pytest.raises(ValueError, match=r"train.gradients = 'bf16': expected fp32 beside kind: sgd.*use kind: adamw"):
        Config(steps=1, gradients="bf16", optimizer=SGD())


def test_optimizers_are_read_by_their_kind() -> None:
    for config in KINDS:
        assert read(OptimizerConfig, dump(config)) == (config, [])
    assert read(OptimizerConfig, {"kind": "sgd", "momentum": 0, "nesterov": False})[0] == SGD(
        momentum=0.0, nesterov=False
    )
    with pytest.raises(ValueError, match=r"train.optimizer.nesterov = True: expected a momentum above 0 beside it"):
        SGD(momentum=0.0)
    _, [problem] = read(OptimizerConfig, {"kind": "mun"}, "train.optimizer")
    assert "write 'muon'" in str(problem)
    _, [problem] = read(OptimizerConfig, {"kind": "sgd", "beta": 1}, "train.optimizer")
    assert "no such key" in str(problem)
