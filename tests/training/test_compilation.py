"""Compiled blocks: when, the same numbers, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dougong
from dougong import assembly, backbones, recipe
from dougong.core.errors import MachineError
from dougong.data.loader import Loader, Plan
from dougong.model import Model
from dougong.training import compilation
from dougong.training.fit import autocast_for
from dougong.training.loop import accumulate, task_loss
from tests.clear_error import clear_error
from tests.small_runs import home, recipe_of


def made(name: str, **train: Any) -> tuple[recipe.Recipe, Model, Plan]:
    loaded = recipe.load(recipe_of(name) | {"train": train})
    prepared = assembly.prepared_data(loaded)
    inputs, outputs = assembly.fitted(loaded, prepared)
    loader = assembly.loader_of(loaded, prepared.split("train"), inputs, outputs)
    return loaded, assembly.build(loaded, inputs, outputs), loader.plan


def wanted(name: str, **train: Any) -> bool:
    loaded, model, plan = made(name, **train)
    return compilation.is_wanted(loaded.train, model, plan)


@pytest.mark.parametrize(
    ("name", "train", "want"),
    [
        ("poems", {"minutes": 5}, True),
        ("poems", {"minutes": 4.9}, False),
        ("poems", {"tokens": "100G"}, True),
        ("poems", {"steps": 10_000_000, "batch_tokens": 65_536}, True),
        (
            "poems",
            {"steps": 10_000, "batch_tokens": 6_144, "accumulate": 64},
            False,
        ),  # pieces of a step, not more of it
        ("poems", {"epochs": 1}, False),
        ("poems", {"minutes": 60, "compile": False}, False),
        ("reviews", {"minutes": 60}, False),  # batches of many lengths
    ],
)
def test_auto_compiles_long_runs_of_one_shape(
    name: str, train: dict[str, Any], want: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "missing", lambda device: None)
    assert wanted(name, **train) is want


def test_a_machine_without_a_compiler_says_so_only_where_it_was_asked_to_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not wanted("poems", minutes=60)
    with clear_error("train.compile", "True", "C++ compiler", "compile: auto", error=MachineError):
        wanted("poems", minutes=60, compile=True)


@pytest.mark.nightly  # half a minute of compiling, and more on a slow machine
def test_compiled_blocks_learn_what_plain_ones_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real compiler; a machine that has none refuses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(home() / "compiled"))
    short = {"steps": 6, "validate_every": 3, "batch_size": 8, "device": "cpu"}
    told = recipe_of("poems") | {"train": short | {"compile": True}}
    if compilation.missing("cpu"):
        with clear_error("train.compile", error=MachineError):
            dougong.train(told)
        return
    fast = dougong.train(told | {"name": "fast"})
    slow = dougong.train(told | {"name": "slow", "train": short | {"compile": False}})
    assert any((home() / "compiled").iterdir())
    ours, theirs = fast.model.weights(), slow.model.weights()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_afterwards_a_model_is_as_it_was() -> None:
    _, model, plan = made("poems", steps=1)
    with compilation.compiled(model, plan):
        assert all("forward" in vars(block) for block in compilation.blocks(model))
    assert list(compilation.blocks(model))
    assert not any("forward" in vars(block) for block in compilation.blocks(model))


def poem_model(**model: Any) -> tuple[recipe.Recipe, Model, Loader]:
    told = {"kind": "transformer", "preset": "tiny", **model}
    loaded = recipe.load(recipe_of("poems") | {"model": told, "train": {"steps": 1, "precision": "bf16"}})
    prepared = assembly.prepared_data(loaded)
    inputs, outputs = assembly.fitted(loaded, prepared)
    return (
        loaded,
        assembly.build(loaded, inputs, outputs),
        assembly.loader_of(loaded, prepared.split("train"), inputs, outputs),
    )


def test_only_blocks_that_draw_nothing_are_computed_twice() -> None:
    from torch._functorch import config as partition

    _, model, loader = poem_model()
    with compilation.compiled(model, loader.plan, 0.6):
        assert partition.activation_memory_budget == 0.6
    assert partition.activation_memory_budget == 1.0
    _, model, loader = poem_model(dropout=0.1)
    with compilation.compiled(model, loader.plan):
        pass
    with clear_error("train.activations", "0.6", "random numbers"), compilation.compiled(model, loader.plan, 0.6):
        pass
    assert not any("forward" in vars(block) for block in compilation.blocks(model))


def test_a_share_of_activations_without_compiling_is_refused() -> None:
    with clear_error("train.activations", "0.5", "compile: true"):
        wanted("poems", steps=1, activations=0.5, compile=False)


@pytest.mark.nightly
def test_gradients_of_what_is_computed_again_are_those_of_what_was_kept() -> None:
    """In bf16, attention as products: what the larger models train with."""
    if compilation.missing("cpu"):
        pytest.skip("there is no C++ compiler")
    loaded, built, loader = poem_model(width=128, heads=2)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(std=0.1)  # residual branches begin at zero, where nothing could go wrong
    batch = loader.load(0, 0)
    autocast = autocast_for(loaded.train, torch.device("cpu"), built.train())
    accumulate(built, task_loss({"text": 1.0}), batch, autocast)
    plain = {name: parameter.grad.clone() for name, parameter in built.named_parameters() if parameter.grad is not None}
    built.zero_grad()
    with compilation.compiled(built, loader.plan, 0.6):
        accumulate(built, task_loss({"text": 1.0}), batch, autocast)
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - plain[name]).norm() < 0.03 * plain[name].norm(), name


# identity computes nothing, and what makes its output from noise reads nothing
READS = [kind for kind in backbones.names() if kind != "identity" and not backbones.makes(kind)]


@pytest.mark.parametrize("kind", READS)
def test_every_backbone_has_blocks_to_compile(kind: str) -> None:
    loaded = recipe.load(recipe_of("reviews") | {"model": {"kind": kind, "preset": "tiny"}, "train": {"steps": 1}})
    inputs, outputs = assembly.fitted(loaded, assembly.prepared_data(loaded))
    assert list(compilation.blocks(assembly.build(loaded, inputs, outputs)))
