"""Checkpoints: what goes in comes out bit for bit, and old ones go only when newer ones are good."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong.core.artefacts import read_json, verify_folder, write_file, write_sealed
from dougong.core.errors import ArtefactError, DougongError, MachineError
from dougong.training import checkpoint
from dougong.training.checkpoint import best, drop_from, find_best, find_latest, latest, load, prune, read_state, save
from dougong.training.states import (
    optimizer_buffers,
    optimizer_tensors,
    place_counts,
    random_state,
    restore_optimizer,
    set_random_state,
)


def weights(step: int = 1) -> dict[str, Tensor]:
    return {"model.weight": torch.full((4, 3), float(step)), "model.count": torch.tensor(step)}


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.iterdir())


# ----------------------------------------------------------------------------------------------------------- save, load


def test_a_checkpoint_comes_back_bit_for_bit_into_tensors_that_were_there(tmp_path: Path) -> None:
    tensors = weights() | {
        "model.half": torch.randn(5).bfloat16(),
        "model.nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "model.empty": torch.empty(0, 3),
        "model.mask": torch.tensor([True, False]),
        "model.turned": torch.randn(4, 5).T,
        "odd name/../@0,0 詩": torch.arange(3),
    }
    path = save(tmp_path, 1200, tensors, {"step": 1200, "lr": 0.1, "list": [1, None, "詩"]})
    assert path == tmp_path / "step-00001200"
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "rank-0000.safetensors",
        "state.json",
        "tensors.json",
    ]
    targets = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    before = {name: tensor.data_ptr() for name, tensor in targets.items()}
    assert load(path, targets) == {"step": 1200, "lr": 0.1, "list": [1, None, "詩"]}
    for name, tensor in tensors.items():
        assert targets[name].data_ptr() == before[name]
        assert (
            targets[name].contiguous().reshape(-1).view(torch.uint8).tolist()
            == tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
        )


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (save(tmp_path / name, 3, weights(), {"step": 3}) for name in ("one", "two"))
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


def test_only_part_of_it_can_be_loaded_by_prefix(tmp_path: Path) -> None:
    path = save(tmp_path, 1, weights(7) | {"optimizer.m": torch.ones(2)}, {})
    targets = {"model.weight": torch.zeros(4, 3), "model.count": torch.tensor(0)}
    load(path, targets, only="model.")
    assert targets["model.count"] == 7
    with pytest.raises(
        ArtefactError, match=r"it does not hold tensor 'optimizer.m' among those that begin with 'model.'"
    ):
        load(path, targets | {"optimizer.m": torch.zeros(2)}, only="model.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("model.count"),
            r"it holds tensor 'model.count', which this model does not have. Fix: use the recipe",
        ),
        (lambda t: t.update(new=torch.zeros(1)), r"it does not hold tensor 'new'"),
        (
            lambda t: t.update({"model.weight": torch.zeros(3, 4)}),
            r"tensor 'model.weight' is \[4, 3\] F32 there and \[3, 4\] F32 in",
        ),
        (
            lambda t: t.update({"model.weight": torch.zeros(4, 3).half()}),
            r"'model.weight' is \[4, 3\] F32 there and \[4, 3\] F16",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_filled(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    path = save(tmp_path, 1, weights(5), {})
    targets = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    change(targets)
    with pytest.raises(ArtefactError, match=message):
        load(path, targets)
    assert all((tensor == 0).all() for tensor in targets.values())


def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for arguments, message in (
        ((-1, weights(), {}), "step = -1: expected 0 to"),
        ((1, {"a": 3}, {}), r"tensors\['a'\] = 3: expected a tensor. Fix: put it into the state"),
        ((1, weights(), {"loss": float("nan")}), r"state\.0\.loss = nan: expected a finite number"),
        ((1, weights(), {"x": torch.zeros(1)}), r"state\.0\.x = tensor.*: expected a number, text, list or mapping"),
        ((1, {"a": torch.zeros(1, dtype=torch.complex128)}, {}), "tensor a = 'torch.complex128"),
    ):
        with pytest.raises(DougongError, match=message):
            save(tmp_path, *arguments)  # type: ignore[arg-type]
    with pytest.raises(DougongError, match="keep = 1: expected at least 2"):
        save(tmp_path, 1, weights(), {}, keep=1)
    assert list(tmp_path.iterdir()) == []


def test_t2_a_disk_without_room_is_found_before_the_first_byte(tmp_path: Path) -> None:
    save(tmp_path, 1, weights(), {})
    huge = torch.empty(1).expand(10**15)  # a view: claims 4 PB, holds 4 bytes
    with pytest.raises(MachineError, match=r"[\d,]+ bytes needed, [\d,]+ bytes free\. Fix: free "):
        save(tmp_path, 2, {"a": huge}, {})
    assert steps(tmp_path) == [1]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, weights(1), {"try": 1})
    path = save(tmp_path, 1, weights(2), {"try": 2})
    targets = weights(0)
    assert load(path, targets) == {"try": 2}
    assert targets["model.count"] == 2
    assert steps(tmp_path) == [1]


# ----------------------------------------------------------------------------------------------------- which one to use


def damage(path: Path, name: str = "rank-0000.safetensors") -> None:
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)


def test_t4_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = (save(tmp_path, step, weights(step), {}, keep=9) for step in (1, 2, 3))
    assert find_latest(tmp_path) == (three, [])
    damage(three)
    damage(two, "state.json")
    path, refused = find_latest(tmp_path)
    assert path == one
    assert [str(three / "rank-0000.safetensors") in refused[0], str(two / "state.json") in refused[1]] == [True, True]
    assert latest(tmp_path) == one
    assert "checkpoint refused, the one before it is used" in caplog.text
    with pytest.raises(ArtefactError, match="rank-0000"):
        load(three, weights())
    damage(one)
    with pytest.raises(ArtefactError, match=r"none of its 3 checkpoints is good. Fix: start again") as caught:
        find_latest(tmp_path)
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) <= 5


def test_where_there_is_none_none_is_found(tmp_path: Path) -> None:
    assert find_latest(tmp_path) == (None, [])
    assert find_latest(tmp_path / "nothing") == (None, [])
    assert best(tmp_path) is None


def test_t11_the_newest_is_the_highest_step_whatever_the_clock_said(tmp_path: Path) -> None:
    paths = [save(tmp_path, step, weights(step), {}, keep=9) for step in (999, 1000, 99_999_999, 100_000_000)]
    for age, path in enumerate(paths):
        os.utime(path, (10**9 - age * 10**6,) * 2)
    assert find_latest(tmp_path)[0] == tmp_path / "step-100000000"


def test_a_checkpoint_under_another_steps_name_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1, weights(), {})
    os.rename(path, tmp_path / "step-00000005")
    with pytest.raises(ArtefactError, match="it holds step 1, not that of its name"):
        find_latest(tmp_path)


def test_t15_pruning_keeps_the_newest_two_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step, weights(step), {}, best=step in (2, 4))
    assert steps(tmp_path) == [4, 6, 7]
    assert best(tmp_path) == tmp_path / "step-00000004"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_t15_pruning_counts_only_those_that_verify(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, weights(step), {}, keep=9)
    damage(tmp_path / "step-00000005")
    damage(tmp_path / "step-00000003")
    assert [path.name for path in prune(tmp_path)] == ["step-00000001"]
    assert steps(tmp_path) == [2, 3, 4, 5]
    assert prune(tmp_path) == []


def test_t15_with_one_good_left_nothing_goes(tmp_path: Path) -> None:
    for step in range(1, 5):
        save(tmp_path, step, weights(step), {}, keep=9)
        if step > 1:
            damage(tmp_path / f"step-{step:08d}", "manifest.json")
    assert prune(tmp_path) == []
    assert find_latest(tmp_path)[0] == tmp_path / "step-00000001"


@pytest.mark.parametrize("file", ["rank-0000.safetensors", "manifest.json"])
def test_t4_a_damaged_best_one_falls_back_to_the_best_before_it_or_to_the_newest_and_is_said(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = (save(tmp_path, step, weights(step), {}, best=step < 3, keep=9) for step in (1, 2, 3))
    assert find_best(tmp_path) == (two, [])
    damage(two, file)
    assert find_best(tmp_path)[0] == one
    damage(one, file)
    path, refused = find_best(tmp_path)
    assert path == three
    assert [str(folder) in line for folder, line in zip((two, one), refused, strict=True)] == [True, True]
    assert best(tmp_path) == three
    assert str(two / file) in caplog.text
    damage(three, file)
    with pytest.raises(ArtefactError, match="none of its 3 checkpoints is good"):
        find_best(tmp_path)


def test_without_any_best_one_none_is_found(tmp_path: Path) -> None:
    assert find_best(tmp_path) == (None, [])
    save(tmp_path, 1, weights(), {})
    assert find_best(tmp_path) == (None, [])


def test_t5_what_a_bad_stretch_left_goes_but_for_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step, weights(step), {}, best=step == 5, keep=9)
    assert drop_from(tmp_path, 4) == tmp_path / "step-00000005"
    assert steps(tmp_path) == [1, 2, 3, 5]
    assert drop_from(tmp_path / "nothing", 0) is None


# ------------------------------------------------------------------------------------------------- hostile descriptions


def rewrite(path: Path, change: Callable[[Any], Any], name: str = "tensors.json") -> None:
    """Change a file and seal the manifest anew, as an attacker would: checksums do not help here, checks must."""
    value = read_json(path / name)
    replaced = change(value)
    written = write_file(path / name, json.dumps(value if replaced is None else replaced).encode())
    manifest = read_json(path / "manifest.json")
    manifest["files"][name] = {"bytes": written.bytes, "sha256": written.sha256}
    write_sealed(path / "manifest.json", manifest)
    verify_folder(path)


def part(value: Any) -> Any:
    return value["tensors"]["model.weight"]["chunks"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: part(value).update(file="../../etc/passwd"),
        lambda value: part(value).update(file="state.json"),
        lambda value: part(value).update(file="rank-0001.safetensors"),
        lambda value: part(value).update(name="model.count"),
        lambda value: part(value).update(name=["x"]),
        lambda value: part(value).update(offsets=[-1, 0]),
        lambda value: part(value).update(offsets=[1, 0]),
        lambda value: part(value).update(sizes=[2, 3]),
        lambda value: part(value).update(sizes=[4, 3, 1]),
        lambda value: value["tensors"]["model.weight"].update(chunks=[]),
        lambda value: value["tensors"]["model.weight"]["chunks"].append(dict(part(value))),
        lambda value: value["tensors"]["model.weight"].update(dtype="OBJECT"),
        lambda value: value["tensors"]["model.weight"].update(dtype="F64"),
        lambda value: value["tensors"]["model.weight"].update(size="43"),
        lambda value: value["tensors"].update({"model.weight": None}),
        lambda value: [],
        lambda value: {"tensors": []},
    ],
)
def test_a1_a_description_that_was_tampered_with_is_refused(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = save(tmp_path, 1, weights(), {})
    rewrite(path, change)
    with pytest.raises(ArtefactError, match=r"Fix: "):
        load(path, weights(0))


@pytest.mark.parametrize("states", [[], {}, [1], None, "x"])
def test_a_state_that_is_none_is_refused(tmp_path: Path, states: object) -> None:
    path = save(tmp_path, 1, weights(), {})
    rewrite(path, lambda value: states if states is not None else [None], "state.json")
    with pytest.raises(ArtefactError, match="it does not hold one state a rank"):
        read_state(path)


# ----------------------------------------------------------------------------------------------------- many ranks (T14)


RANKS = """
import json, os, sys
from pathlib import Path
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from dougong.core.errors import ArtefactError
from dougong.training import checkpoint

def sharded(fill, mesh):
    rows, columns, tiny = (torch.arange(n).reshape(s).float() for n, s in ((42, (7, 6)), (40, (4, 10)), (3, (3, 1))))
    full = {"model.rows": (rows, Shard(0)), "model.columns": (columns, Shard(1)), "model.tiny": (tiny, Shard(0)),
            "model.same": (torch.arange(5.0), Replicate())}
    tensors = {name: distribute_tensor(value if fill else torch.zeros_like(value), mesh, [place])
               for name, (value, place) in full.items()}
    tensors["model.plain"] = torch.full((2,), 9.0 if fill else 0.0)
    return tensors, {name: value for name, (value, _) in full.items()}

def work(rank, world, what, folder, saved_by):
    mesh = init_device_mesh("cpu", (world,))
    tensors, full = sharded(what == "save", mesh)
    if what == "save":
        checkpoint.save(folder, 5, tensors, {"step": 5, "rank": rank})
    elif what == "load":
        state = checkpoint.load(folder / "step-00000005", tensors)
        assert state == {"step": 5, "rank": rank if rank < saved_by else 0}, state
        for name, value in full.items():
            assert torch.equal(tensors[name].full_tensor(), value), name
        assert torch.equal(tensors["model.plain"], torch.full((2,), 9.0))
    else:
        try:
            checkpoint.load(folder / "step-00000005", tensors)
        except ArtefactError as error:
            assert "rank-0001.safetensors" in str(error)  # every rank hears of it
        else:
            raise AssertionError("not refused")

# DTensor imports much on first use: once here, not in every rank
first = Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{first}", rank=0, world_size=1)
sharded(True, init_device_mesh("cpu", (1,)))
dist.destroy_process_group()

for number, (world, what, folder, saved_by) in enumerate(json.loads(sys.argv[1])):
    folder = Path(folder)
    if what == "refuse":
        file = folder / "step-00000005" / "rank-0001.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    ranks = []
    for rank in range(world):  # torch is imported once, then forked
        ranks.append(os.fork())
        if ranks[-1] == 0:
            meeting = folder.with_name(f"meeting-{number}")
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
            work(rank, world, what, folder, saved_by)
            dist.destroy_process_group()
            os._exit(0)  # an error above ends this child by its traceback and exit code 1
    if any([os.waitpid(pid, 0)[1] for pid in ranks]):
        sys.exit(f"{what} by {world}")
"""


def test_t14_what_1_2_or_4_ranks_save_1_2_or_4_load(tmp_path: Path) -> None:
    one, two, four = (str(tmp_path / name) for name in ("one", "two", "four"))
    phases: list[tuple[int, str, str, int]] = [(1, "save", one, 0), (2, "save", two, 0), (4, "save", four, 0)]
    phases += [
        (4, "load", one, 1),
        (4, "load", two, 2),
        (1, "load", four, 4),
        (2, "load", four, 4),
        (2, "refuse", four, 4),
    ]
    ended = subprocess.run(
        [sys.executable, "-c", RANKS, json.dumps(phases), str(tmp_path / "warm")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    path = Path(two) / "step-00000005"
    assert {"rank-0000.safetensors", "rank-0001.safetensors"} <= {file.name for file in path.iterdir()}
    targets = {  # and without any process group
        "model.rows": torch.zeros(7, 6),
        "model.columns": torch.zeros(4, 10),
        "model.tiny": torch.zeros(3, 1),
        "model.same": torch.zeros(5),
        "model.plain": torch.zeros(2),
    }
    assert load(path, targets) == {"step": 5, "rank": 0}
    for name, size in (("model.rows", 42), ("model.columns", 40), ("model.tiny", 3), ("model.same", 5)):
        assert targets[name].flatten().tolist() == list(range(size))
    assert targets["model.plain"].tolist() == [9, 9]


# ---------------------------------------------------------------------------------------------------- optimizer's state


OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adamw-tensor-lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * 0.9  # a schedule at work: the group's own number must come back too


def build(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model[2].bias.requires_grad_(False)  # type: ignore[union-attr]  # one without a state
    return model, OPTIMIZERS[name](model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model, optimizer = build(name)
    train(model, optimizer, 3)
    tensors, described = optimizer_tensors(optimizer, model)
    named = {f"model.{key}": value for key, value in model.state_dict().items()}
    path = save(tmp_path, 3, named | tensors, {"optimizer": described, "random": random_state()})
    train(model, optimizer, 4)

    torch.manual_seed(99)
    resumed, fresh = build(name)
    state = read_state(path)
    buffers = optimizer_buffers(fresh, resumed, state["optimizer"])
    load(path, {f"model.{key}": value for key, value in resumed.state_dict().items()} | buffers)
    restore_optimizer(fresh, resumed, state["optimizer"], buffers)
    set_random_state(state["random"])
    train(resumed, fresh, 4)
    for (key, one), two in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), key
    assert optimizer_tensors(optimizer, model)[1] == optimizer_tensors(fresh, resumed)[1]
    for group, again in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        assert {key: type(value) for key, value in group.items()} == {key: type(value) for key, value in again.items()}


def test_states_wider_than_their_parameter_are_not_cast(tmp_path: Path) -> None:
    model = nn.Linear(4, 3).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "momentum_buffer": torch.randn_like(parameter, dtype=torch.float32),
            "count": 3,
            "limit": float("inf"),
        }
    tensors, described = optimizer_tensors(optimizer, model)
    other = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    buffers = optimizer_buffers(other, model, described)
    load(save(tmp_path, 1, tensors, {"optimizer": described}), buffers)
    restore_optimizer(other, model, described, buffers)
    for parameter in model.parameters():
        assert other.state[parameter]["momentum_buffer"].dtype == torch.float32
        assert torch.equal(other.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])
        assert (other.state[parameter]["count"], other.state[parameter]["limit"]) == (3, float("inf"))
    assert other.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(("fused", "wanted"), [(True, "meta"), (None, "cpu")])
def test_step_counts_go_to_where_the_optimizer_of_another_device_wants_them(fused: bool | None, wanted: str) -> None:
    there = nn.Parameter(torch.empty(3, device="meta"))  # stands for a GPU
    optimizer = torch.optim.AdamW([there])
    optimizer.param_groups[0]["fused"] = fused
    optimizer.state[there] = {"step": torch.tensor(4.0), "exp_avg": torch.empty(3, device="meta")}
    place_counts(optimizer)
    assert optimizer.state[there]["step"].device.type == wanted


def test_an_optimizer_over_other_parameters_is_refused(tmp_path: Path) -> None:
    model, optimizer = build("adamw")
    _, described = optimizer_tensors(optimizer, model)
    other = nn.Linear(4, 3)
    with pytest.raises(
        ArtefactError, match=r"the checkpoint groups the parameters .*, this model .*Fix: resume with the recipe"
    ):
        restore_optimizer(torch.optim.AdamW(other.parameters()), other, described, {})


def test_a_state_that_is_neither_tensor_nor_number_is_refused_by_name() -> None:
    model, optimizer = build("sgd")
    optimizer.state[model[0].weight] = {"history": [1, 2]}  # type: ignore[index,union-attr]
    with pytest.raises(
        DougongError, match=r"optimizer\.state\.0\.weight\.history = \[1, 2\]: expected a tensor, number"
    ):
        optimizer_tensors(optimizer, model)


# -------------------------------------------------------------------------------------------------------- random states


def draw() -> tuple[Any, ...]:
    legacy = np.random.normal()  # the global generator on purpose: this is what is restored
    return random.random(), random.gauss(0, 1), legacy, torch.randn(3).tolist(), torch.rand(1).item()


def test_random_states_come_back_from_json_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draw()  # gauss and normal keep a second number for the next call: it belongs to the state
    path = save(tmp_path, 1, {}, {"random": random_state()})
    first = draw(), draw()
    set_random_state(read_state(path)["random"])
    assert (draw(), draw()) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("cpu"),
        lambda s: s.update(cpu="00"),
        lambda s: s.update(cpu="zz" * 5056),
        lambda s: s.update(cpu="00" * 10**6),
        lambda s: s["python"].update(words="00"),
        lambda s: s["numpy"].update(words="00" * 4),
        lambda s: s["numpy"].update(position="x"),
        lambda s: s.update(python=None),
    ],
)
def test_random_states_that_are_none_are_refused(change: Callable[[Any], Any]) -> None:
    state = random_state()
    change(state)
    with pytest.raises(ArtefactError, match="random: not the state of random generators"):
        set_random_state(state)


def test_t4_every_file_of_a_checkpoint_is_checked_before_a_tensor_is_touched(tmp_path: Path) -> None:
    path = save(tmp_path, 1, weights(1), {"step": 1})
    for file in sorted(path.iterdir()):
        good = file.read_bytes()
        file.write_bytes(good[:-1])
        targets = weights(0)
        with pytest.raises(ArtefactError, match=file.name):
            load(path, targets)
        assert all((tensor == 0).all() for tensor in targets.values())
        file.write_bytes(good)
    assert checkpoint.verify(path).meta["step"] == 1
