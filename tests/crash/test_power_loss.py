"""T3: the states that a power cut can leave of saving, replacing and pruning checkpoints, each one tried.

A save is recorded as what it does to a file system. A power cut comes after any prefix of that; of what no fsync has
made durable any part may have reached the disk and any other not, out of order, a write also by half or as zeros. This
is the method of Pillai et al. 2014 (ALICE), with the most permissive of file systems. Pure Python: nothing is mounted.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.errors import ArtefactError
from dougong.core.tensors import load_tensors
from dougong.training import checkpoint

SHARE = int(os.environ.get("DOUGONG_NIGHTLY", "1"))  # `make nightly` multiplies the states tried of each prefix
STEPS = [1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 11]  # saved in this order: older ones are pruned, 4 and 7 are replaced
BEST = 3  # every third step is saved as the best


# ---------------------------------------------------------------------------------------------- what is done to the disk


@dataclass
class Node:
    """A file or folder as the programs see it, before any power cut."""

    number: int
    entries: dict[str, Node] | None = None  # of a folder


@dataclass
class Wrote:
    node: int
    data: bytes
    offset: int


@dataclass
class Linked:
    """Names of a folder that came (number of their node) or went (None), all at once."""

    node: int
    names: dict[str, int | None]


@dataclass
class Synced:
    node: int


@dataclass
class Said:
    """Not an operation: the save of this version begins, or has returned."""

    version: int
    committed: bool


Effect = Wrote | Linked
Operation = Effect | Synced | Said


@dataclass
class Recorder:
    """Notes every operation on what lies under `root`, while it really happens."""

    root: Path
    log: list[Operation] = field(default_factory=list)
    folders: set[int] = field(default_factory=lambda: {0})

    def __post_init__(self) -> None:
        self.top = Node(0, {})
        self.handles: dict[int, tuple[Node, str]] = {}
        self.at: dict[int, int] = {}
        self.numbers = itertools.count(1)

    def place(self, path: Any, dir_fd: int | None) -> str | None:
        """A path relative to the root, None if it is elsewhere."""
        if dir_fd is not None:
            if dir_fd not in self.handles:
                return None
            path = self.root / self.handles[dir_fd][1] / os.fspath(path)
        full = os.path.abspath(os.fspath(path))
        inside = full == str(self.root) or full.startswith(f"{self.root}/")
        return os.path.relpath(full, self.root) if inside else None

    def node(self, place: str) -> Node:
        here = self.top
        for name in () if place == "." else place.split("/"):
            assert here.entries is not None
            here = here.entries[name]
        return here

    def parent(self, place: str) -> tuple[Node, str]:
        above, _, name = place.rpartition("/")
        return self.node(above or "."), name

    def link(self, place: str, node: Node | None) -> tuple[Node, str]:
        folder, name = self.parent(place)
        assert folder.entries is not None
        if node is None:
            del folder.entries[name]
        else:
            folder.entries[name] = node
        return folder, name

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = {
            name: getattr(os, name)
            for name in ("open", "write", "close", "fsync", "mkdir", "unlink", "rmdir", "rename")
        }

        def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            handle = real["open"](path, flags, mode, dir_fd=dir_fd)
            place = self.place(path, dir_fd)
            if place is not None:
                if flags & os.O_CREAT and self.parent(place)[1] not in (self.parent(place)[0].entries or {}):
                    node = Node(next(self.numbers))
                    folder, name = self.link(place, node)
                    self.log.append(Linked(folder.number, {name: node.number}))
                self.handles[handle], self.at[handle] = (self.node(place), place), 0
            return int(handle)

        def write(handle: int, data: Any) -> int:
            count = real["write"](handle, data)
            if handle in self.handles:
                self.log.append(Wrote(self.handles[handle][0].number, bytes(data)[:count], self.at[handle]))
                self.at[handle] += count
            return int(count)

        def close(handle: int) -> None:
            real["close"](handle)
            self.handles.pop(handle, None)

        def fsync(handle: int) -> None:
            real["fsync"](handle)
            if handle in self.handles:
                self.log.append(Synced(self.handles[handle][0].number))

        def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
            real["mkdir"](path, mode, dir_fd=dir_fd)
            if (place := self.place(path, dir_fd)) is not None:
                node = Node(next(self.numbers), {})
                self.folders.add(node.number)
                folder, name = self.link(place, node)
                self.log.append(Linked(folder.number, {name: node.number}))

        def removed(function: str) -> Callable[..., None]:
            def remove(path: Any, *, dir_fd: int | None = None) -> None:
                real[function](path, dir_fd=dir_fd)
                if (place := self.place(path, dir_fd)) is not None:
                    folder, name = self.link(place, None)
                    self.log.append(Linked(folder.number, {name: None}))

            return remove

        def rename(source: Any, target: Any) -> None:
            real["rename"](source, target)
            old, new = self.place(source, None), self.place(target, None)
            if old is not None and new is not None:
                node = self.node(old)
                folder, gone = self.link(old, None)
                other, name = self.link(new, node)
                assert folder is other, "a rename within one folder is atomic, between two it may be torn"
                self.log.append(Linked(folder.number, {gone: None, name: node.number}))

        functions = {"open": opened, "write": write, "close": close, "fsync": fsync, "mkdir": mkdir, "rename": rename}
        functions |= {"unlink": removed("unlink"), "rmdir": removed("rmdir"), "replace": rename}
        for name, function in functions.items():
            monkeypatch.setattr(os, name, function)


def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    save(folder.with_name("warm"), 0)  # torch imports the last of itself on first use
    folder.mkdir()
    recorder = Recorder(folder)
    with monkeypatch.context() as patch:
        recorder.patch(patch)
        for version in range(len(STEPS)):
            recorder.log.append(Said(version, committed=False))
            save(folder, version)
            recorder.log.append(Said(version, committed=True))
    return recorder


def save(folder: Path, version: int) -> None:
    tensors = {"w": torch.full((3,), float(version)), "v": torch.full((2,), version)}
    step = STEPS[version]
    checkpoint.save(folder, step, tensors, {"version": version, "step": step}, best=step % BEST == 0)


# --------------------------------------------------------------------------------------------- what a power cut leaves

State = tuple[tuple[str, bytes | None], ...]  # every path with the bytes of its file, None where it is a folder


def crashed(recorder: Recorder, most: int) -> Iterator[tuple[State, int, int]]:
    """The distinct states after each prefix of the log, with the versions committed and begun by then."""
    draw = random.Random(3)
    seen: set[tuple[State, int, int]] = set()
    committed = begun = -1
    for end in range(len(recorder.log) + 1):
        durable, pending = parted(recorder.log[:end])
        kept = Contents({number: {} for number in recorder.folders}, {})
        for operation in durable:
            kept.apply(operation)
        for chosen in choices([ways(operation) for operation in pending], most, draw):
            state = kept.after(chosen).listed()
            if (state, committed, begun) not in seen:
                seen.add((state, committed, begun))
                yield state, committed, begun
        said = recorder.log[end] if end < len(recorder.log) else None
        if isinstance(said, Said):
            committed, begun = (said.version, begun) if said.committed else (committed, said.version)


def parted(log: list[Operation]) -> tuple[list[Effect], list[Effect]]:
    """What an fsync has made durable, and what came after the last one of its file or folder."""
    durable: list[Effect] = []
    pending: list[Effect] = []
    for operation in log:
        if isinstance(operation, Synced):
            durable += [effect for effect in pending if effect.node == operation.node]
            pending = [effect for effect in pending if effect.node != operation.node]
        elif not isinstance(operation, Said):
            pending.append(operation)
    return durable, pending


def ways(effect: Effect) -> list[Effect | None]:
    """What can have become of an effect that no fsync followed."""
    if not isinstance(effect, Wrote):
        return [None, effect]
    half, zeros = effect.data[: len(effect.data) // 2], bytes(len(effect.data))
    return [None, effect, Wrote(effect.node, half, effect.offset), Wrote(effect.node, zeros, effect.offset)]


def choices(fates: list[list[Effect | None]], most: int, draw: random.Random) -> Iterator[tuple[Effect | None, ...]]:
    """Every combination; where there are more than `most`, nothing, all, and drawn ones."""
    if math.prod(map(len, fates)) <= most:
        yield from itertools.product(*fates)
        return
    yield tuple(fate[0] for fate in fates)
    yield tuple(fate[1] for fate in fates)
    for _ in range(most - 2):
        yield tuple(draw.choice(fate) for fate in fates)


@dataclass
class Contents:
    """What is on the disk: the names in each folder, the bytes of each file, by the number of the node."""

    folders: dict[int, dict[str, int]]
    files: dict[int, bytes]

    def apply(self, effect: Effect) -> None:
        if isinstance(effect, Wrote):
            data = self.files.get(effect.node, b"").ljust(effect.offset, b"\0")
            self.files[effect.node] = data[: effect.offset] + effect.data + data[effect.offset + len(effect.data) :]
        else:
            names = {**self.folders[effect.node], **{name: node for name, node in effect.names.items() if node}}
            self.folders[effect.node] = {name: node for name, node in names.items() if effect.names.get(name, node)}

    def after(self, effects: tuple[Effect | None, ...]) -> Contents:
        there = Contents(dict(self.folders), dict(self.files))  # `apply` replaces what is in them, and changes nothing
        for effect in effects:
            if effect is not None:
                there.apply(effect)
        return there

    def listed(self, number: int = 0, path: str = "") -> State:
        found: list[tuple[str, bytes | None]] = []
        for name, node in sorted(self.folders[number].items()):
            if node in self.folders:
                found += [(f"{path}{name}", None), *self.listed(node, f"{path}{name}/")]
            else:
                found.append((f"{path}{name}", self.files.get(node, b"")))
        return tuple(found)


# ------------------------------------------------------------------------------------------------ what must be true of it


class Disk:
    """Puts states on the real disk; equal contents are linked, not written again."""

    def __init__(self, folder: Path):
        self.folder, self.kept = folder / "disk", folder / "kept"
        self.kept.mkdir()
        self.known: dict[bytes, Path] = {}

    def put(self, state: State) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name, data in state:
            if data is None:
                (self.folder / name).mkdir()
            else:
                if data not in self.known:
                    self.known[data] = self.kept / str(len(self.known))
                    self.known[data].write_bytes(data)
                os.link(self.known[data], self.folder / name)
        return self.folder


def check(folder: Path, committed: int, begun: int) -> int | None:
    """The newest checkpoint found is whole, of one version, and no older than what was committed; its version."""
    path, refused = checkpoint.find_latest(folder)
    assert not refused
    if path is None:
        assert committed < 0
        return None
    state = checkpoint.read_state(path)
    version = state["version"]
    assert committed <= version <= begun
    assert path.name == f"step-{STEPS[version]:08d}"
    tensors = load_tensors(path / "rank-0000.safetensors")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"w": [version] * 3, "v": [version] * 2}
    best = checkpoint.best(folder)
    wanted = STEPS[version] - STEPS[version] % BEST
    assert (checkpoint.read_state(best)["step"] if best else 0) == wanted
    return int(version)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """In memory where there is such a folder: thousands of states are written and thrown away."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Disk(Path(folder))


def test_t3_every_state_that_a_power_cut_can_leave_holds_the_last_committed_checkpoint(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0
    for state, committed, begun in crashed(recorded(tmp_path / "run", monkeypatch), most=64 * SHARE):
        version = check(disk.put(state), committed, begun)
        tried += 1
        if tried % 100 == 0 and version is not None and version + 1 < len(STEPS):  # and the run goes on from there
            save(disk.folder, version + 1)
            assert check(disk.folder, version + 1, version + 1) == version + 1
    assert tried >= 2000


@pytest.mark.parametrize("left_out", ["files", "folders"])
def test_t3_the_states_show_that_an_fsync_is_left_out(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    """The check must be able to fail."""
    recorder = recorded(tmp_path / "run", monkeypatch)
    recorder.log = [
        operation
        for operation in recorder.log
        if not isinstance(operation, Synced) or (operation.node in recorder.folders) != (left_out == "folders")
    ]
    states = crashed(recorder, most=64)
    with pytest.raises((AssertionError, ArtefactError)):
        all(check(disk.put(state), committed, begun) != -1 for state, committed, begun in states)
