"""Start without torch's compiler: the same shapes, memory and steps as torch's own ways, and no import of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dougong.core import lean


def test_shapes_have_no_memory_and_draw_nothing() -> None:
    state = torch.get_rng_state()
    with lean.shapes():
        module = nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 6), nn.BatchNorm1d(4), nn.LSTM(2, 3))
    assert {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]} == {"meta"}
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_is_given_to_parameters_and_buffers_as_they_are() -> None:
    with lean.shapes():
        module = nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.BatchNorm1d(4))
    lean.give_memory(module, torch.device("cpu"))
    linear, norm = module
    assert linear.weight.shape == (4, 3)
    assert [parameter.requires_grad for parameter in linear.parameters()] == [False, False]
    assert [parameter.requires_grad for parameter in norm.parameters()] == [True, True]
    assert norm.num_batches_tracked.dtype == torch.int64
    assert {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]} == {"cpu"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
    ],
)
@pytest.mark.parametrize("fused", [True, None])
def test_a_lean_optimizer_takes_the_steps_of_torchs(
    kind: type[torch.optim.Optimizer], options: dict[str, float], fused: bool | None
) -> None:
    ended = []
    for optimizer_kind in (kind, lean.optimizer(kind)):
        weight = nn.Parameter(torch.linspace(-1, 1, 8))
        optimizer = optimizer_kind([weight], lr=0.1, fused=fused, **options)  # type: ignore[call-arg]
        called: list[object] = []
        optimizer.register_step_post_hook(lambda *given, called=called: called.append(given))
        for _ in range(3):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        assert len(called) == 3
        ended.append((weight.detach(), type(optimizer).__name__, optimizer.state_dict()["param_groups"]))
    assert torch.equal(ended[0][0], ended[1][0])
    assert ended[0][1:] == ended[1][1:]


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_a_run_that_compiles_nothing_does_not_import_the_compiler(tmp_path: Path, kind: str) -> None:
    (tmp_path / "words.txt").write_text("to be or not to be\n" * 200, "utf-8")
    (tmp_path / "recipe.yaml").write_text(
        "name: lean\ndata: {train: words.txt}\n"
        "outputs: {text: {type: text, tokenizer: {kind: char}, max_length: 16}}\n"
        "model: {kind: transformer, preset: tiny}\n"
        f"train: {{steps: 2, batch_size: 4, optimizer: {{kind: {kind}}}}}\n",
        "utf-8",
    )
    code = (
        "import sys, dougong\nrun = dougong.train('recipe.yaml', quiet=True)\ndougong.generate(run, ['to'], max_tokens=3)\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
