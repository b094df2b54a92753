"""Checkpoints that cannot be lost: a step's whole state in one folder, complete or absent, checked on load.

    save(folder, 1200, {"model.weight": w, ...}, {"step": 1200, "random": random_state()})
    path, refused = find_latest(folder)                  # newest one whose every byte is right; why newer ones failed
    state = load(path, {"model.weight": w, ...})         # fills the tensors in place

    checkpoints/step-00001200/   rank-0000.safetensors …   each rank's tensors, or parts of tensors
                                 tensors.json              which part of which tensor lies where
                                 state.json                all that is not a tensor, one entry a rank
                                 manifest.json             step, best or not, size and sha256 of each file

The planner of torch.distributed.checkpoint decides who writes and who reads what, so what 2 ranks saved loads into 1 or
64; only its storage is ours, because its own one pickles. With a process group every rank must call `save` and `load`;
all see the same error.
"""

from __future__ import annotations

import logging
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from dougong.core.artefacts import (
    Manifest,
    Written,
    begin_folder,
    commit_folder,
    discard,
    disk_errors,
    inside,
    make_folder,
    need_space,
    read_json,
    read_manifest,
    remove_folder,
    restore_replaced,
    verify_folder,
    write_json,
)
from dougong.core.errors import ArtefactError, DougongError, bad_field, shown
from dougong.core.tensors import DTYPE_NAMES, DTYPES, TensorFile, save_tensors

T = TypeVar("T")
KIND = "checkpoint"
STATE = "state.json"
TENSORS = "tensors.json"
KEEP = 2  # fewer would let one bad disk block take everything
MAX_STEP = 10**12
SLACK = 1 << 20  # bytes for headers, JSON and folders, on top of the tensors

log = logging.getLogger(__name__)


# ----------------------------------------------------------------------------------------------------------- save, load


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int = KEEP,
    best: bool = False,
) -> Path:
    """Write a checkpoint; on return no kill or power cut loses it. Then older ones than the newest `keep` go."""
    if not 0 <= step < MAX_STEP:
        raise bad_field("step", step, f"0 to {MAX_STEP:,}", "count optimizer steps from 0")
    _check_keep(keep)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise bad_field(f"tensors[{name!r}]", tensor, "a tensor", "put it into the state")
    final = folder / f"step-{step:08d}"
    temporary = _on_first_rank(lambda: _begin(final, tensors))
    states = _gather(dict(state))
    writer = _Writer(temporary, final, {"step": step, "best": best, "parent": _newest_name(folder)}, states)
    try:
        with _own_errors():
            dcp.save(
                dict(tensors),
                storage_writer=writer,
                planner=DefaultSavePlanner(flatten_state_dict=False),
                no_dist=not _ranks(),
            )
    except BaseException:
        if _rank() == 0:
            discard(temporary)
        raise
    _on_first_rank(lambda: prune(folder, keep))
    return final


def load(path: Path, tensors: Mapping[str, Tensor], *, only: str = "") -> dict[str, Any]:
    """Verify a checkpoint, fill `tensors` in place, return the state. `only="model."`: just the names that begin so."""
    _on_first_rank(lambda: verify(path))
    reader = _Reader(path, only)
    _check_fit(path, tensors, reader.metadata, only)
    targets = dict(tensors)
    with _own_errors():
        dcp.load(
            targets, storage_reader=reader, planner=DefaultLoadPlanner(flatten_state_dict=False), no_dist=not _ranks()
        )
    return read_state(path)


def read_state(path: Path) -> dict[str, Any]:
    """The state that was saved beside the tensors: this rank's, or the first rank's if the ranks were fewer then."""
    states = read_json(path / STATE)
    if not isinstance(states, list) or not states or not all(isinstance(state, dict) for state in states):
        _refuse(path / STATE, "it does not hold one state a rank")
    return dict(states[_rank()] if _rank() < len(states) else states[0])


def verify(path: Path) -> Manifest:
    """Check every byte of a checkpoint. Raises ArtefactError that names the damaged file."""
    restore_replaced(path.parent, path.name)
    manifest = read_manifest(path)
    for name in sorted(manifest.files):  # before any of them is opened
        if name not in (STATE, TENSORS) and not _RANK_FILE.fullmatch(name):
            _refuse(path / name, "checkpoints hold no such file")
    step = _step_of(path)
    if step is not None and manifest.meta.get("step") != step:
        _refuse(path, f"it holds step {shown(manifest.meta.get('step'))}, not that of its name")
    return verify_folder(path, KIND)


def _begin(final: Path, tensors: Mapping[str, Tensor]) -> Path:
    with disk_errors(final):
        make_folder(final.parent)
    need_space(final.parent, SLACK + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    return begin_folder(final)


def _check_fit(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata, only: str) -> None:
    """Names, shapes and dtypes must be the same on both sides: nothing is skipped, cast or cut in silence."""
    saved = metadata.state_dict_metadata
    for name in sorted(saved.keys() - tensors.keys()):
        _refuse(
            path,
            f"it holds tensor {shown(name)}, which this model does not have",
            "use the recipe that it was trained with",
        )
    for name, tensor in sorted(tensors.items()):
        if name not in saved:
            begin = f" among those that begin with {only!r}" if only else ""
            _refuse(path, f"it does not hold tensor {shown(name)}{begin}", "use the recipe that it was trained with")
        entry = saved[name]
        there = (tuple(entry.size), entry.properties.dtype)  # type: ignore[union-attr]  # _Reader makes no other kind
        if there != (tuple(tensor.shape), tensor.dtype):
            have, want = (
                f"{list(shape)} {DTYPE_NAMES.get(dtype, dtype)}"
                for shape, dtype in (there, (tensor.shape, tensor.dtype))
            )
            _refuse(
                path,
                f"tensor {shown(name)} is {have} there and {want} in this model",
                "use the recipe that it was trained with",
            )


# ----------------------------------------------------------------------------------------------------- which one to use


def find_latest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and why newer ones do not. ArtefactError if not one of them does."""
    restore_replaced(folder)
    refused: list[str] = []
    for path in _steps(folder):
        try:
            verify(path)
        except ArtefactError as error:
            refused.append(str(error))
            continue
        return path, refused
    if refused:
        some = "\n".join(f"  {line}" for line in refused[:3])
        raise ArtefactError(
            f"{folder}: none of its {len(refused)} checkpoints is good. Fix: start again in another folder.\n{some}"
        )
    return None, []


def latest(folder: Path) -> Path | None:
    """`find_latest`, with what was refused said in the log."""
    path, refused = find_latest(folder)
    for reason in refused:
        log.warning("checkpoint refused, the one before it is used: %s", reason)
    return path


def best(folder: Path) -> Path | None:
    """The newest one saved with `best=True`, verified; None if there is none. ArtefactError if all are damaged."""
    restore_replaced(folder)
    refused: list[str] = []
    for path in filter(_is_best, _steps(folder)):
        try:
            verify(path)
        except ArtefactError as error:
            refused.append(str(error))
            continue
        return path
    if refused:
        raise ArtefactError(f"{folder}: the best checkpoint is damaged. Fix: use the latest one.\n  {refused[0]}")
    return None


def prune(folder: Path, keep: int = KEEP) -> list[Path]:
    """Remove old ones; return which. The newest `keep` (2 or more) that verify, all newer ones and the best stay."""
    _check_keep(keep)
    paths = _steps(folder)
    good = 0
    for index, path in enumerate(paths[:-1]):  # nothing is read again unless something may go
        try:
            verify(path)
            good += 1
        except ArtefactError as error:
            log.warning("checkpoint damaged, an older one is kept for it: %s", error)
        if good == keep:
            best_one = next(filter(_is_best, paths), None)
            removed = [old for old in paths[index + 1 :] if old != best_one]
            for old in removed:
                remove_folder(old)
            return removed
    return []


def _is_best(path: Path) -> bool:
    """Whether its manifest says so: in the manifest, not in a file beside it, for no kill can come between the two."""
    try:
        return read_manifest(path).meta.get("best") is True
    except ArtefactError as error:
        log.warning("checkpoint damaged, whether it was the best cannot be known: %s", error)
        return False


def _check_keep(keep: int) -> None:
    if keep < KEEP:
        raise bad_field(
            "keep", keep, f"at least {KEEP}", f"use keep: {KEEP}: one alone would have no one to stand in for it"
        )


_STEP = re.compile(r"step-(\d{8,12})")
_RANK_FILE = re.compile(r"rank-\d{4,6}\.safetensors")


def _steps(folder: Path) -> list[Path]:
    """All checkpoints by step, newest first. Never by time: clocks jump."""
    with disk_errors(folder):
        found = [path for path in folder.iterdir() if _STEP.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _step_of(path: Path) -> int | None:
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else None


def _newest_name(folder: Path) -> str | None:
    paths = _steps(folder)
    return paths[0].name if paths else None


# ---------------------------------------------------------------------------------------- storage under torch's planner


class _Writer(StorageWriter):
    """Each rank's part into one safetensors file; then the first rank writes the JSON and puts the folder in place."""

    def __init__(self, folder: Path, final: Path, meta: Mapping[str, Any], states: list[dict[str, Any]]):
        self.folder, self.final, self.meta, self.states = folder, final, meta, states

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors: dict[str, Tensor] = {}
        names: list[tuple[MetadataIndex, str]] = []
        for item in plan.items:
            tensor = planner.resolve_data(item)
            if item.type == WriteItemType.BYTE_IO or not isinstance(tensor, Tensor):
                raise bad_field(f"tensors[{item.index.fqn!r}]", tensor, "a tensor", "put it into the state")
            name = item.index.fqn
            if item.type == WriteItemType.SHARD:
                name += "@" + ",".join(map(str, item.index.offset or ()))
            tensors[name] = tensor.detach()
            names.append((item.index, name))
        if len(tensors) != len(names):
            raise bad_field(
                "tensors", names, "names that stay distinct with @offsets behind them", "rename one of them"
            )
        file = f"rank-{_rank():04d}.safetensors"
        done = save_tensors(self.folder / file, tensors) if tensors else None
        future: Future[list[WriteResult]] = Future()
        future.set_result([WriteResult(index, tensors[name].nbytes, (file, name, done)) for index, name in names])
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {result.index: result.storage_data for part in results for result in part}
        known: dict[str, Written] = {file: done for file, _, done in places.values()}
        known[TENSORS] = write_json(self.folder / TENSORS, _metadata_to_json(metadata, places))
        known[STATE] = write_json(self.folder / STATE, self.states, "state")
        commit_folder(self.folder, self.final, KIND, self.meta, known)

    def reset(self, checkpoint_id: object = None) -> None:
        pass  # one writer, one checkpoint: there is nothing to forget

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass  # all is known since __init__

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        return False  # never chosen by torch from a path


class _Reader(StorageReader):
    """Reads just the rows that the planner asks for, from whichever rank's file holds them."""

    def __init__(self, path: Path, only: str):
        self.path = path
        self.metadata = _metadata_from_json(path / TENSORS, only)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            if item.type != LoadItemType.TENSOR:
                _refuse(self.path / TENSORS, f"{shown(item.storage_index.fqn)} is not a tensor")
            by_file.setdefault(self.metadata.storage_data[item.storage_index][0], []).append(item)
        for name, items in by_file.items():
            with TensorFile(inside(self.path, name)) as file:
                for item in items:
                    self._read_item(file, item, planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _read_item(self, file: TensorFile, item: Any, planner: LoadPlanner) -> None:
        _, name, sizes = self.metadata.storage_data[item.storage_index]
        dtype = self.metadata.state_dict_metadata[item.storage_index.fqn].properties.dtype  # type: ignore[union-attr]
        entry = file.entries.get(name)
        if entry is None or entry.shape != tuple(sizes) or entry.dtype != dtype:
            _refuse(file.path, f"its tensor {shown(name)} is not the one that {TENSORS} describes")
        first = item.storage_offsets[0] if sizes else 0
        tensor = file.read(name, first, first + item.lengths[0] if sizes else None)
        for dim in range(1, len(sizes)):
            tensor = tensor.narrow(dim, item.storage_offsets[dim], item.lengths[dim])
        target = planner.resolve_tensor(item).detach()
        target.copy_(tensor)
        planner.commit_tensor(item, target)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata

    def reset(self, checkpoint_id: object = None) -> None:
        pass  # one reader, one checkpoint: there is nothing to forget

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass  # all is known since __init__

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:
        return False  # never chosen by torch from a path


def _metadata_to_json(metadata: Metadata, places: Mapping[MetadataIndex, Any]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for fqn, entry in metadata.state_dict_metadata.items():
        chunks = []
        for chunk in entry.chunks:  # type: ignore[union-attr]  # tensors only: save saw to it
            file, name, _ = places[MetadataIndex(fqn, chunk.offsets)]
            chunks.append({"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), "file": file, "name": name})
        dtype = DTYPE_NAMES[entry.properties.dtype]  # type: ignore[union-attr]
        tensors[fqn] = {"dtype": dtype, "size": list(entry.size), "chunks": chunks}  # type: ignore[union-attr]
    return {"tensors": tensors}


def _metadata_from_json(file: Path, only: str) -> Metadata:
    """Torch's Metadata from our JSON. `storage_data`: file, name in it and sizes of each part of a tensor."""
    value = read_json(file)
    tensors: dict[str, Any] = {}
    places: dict[MetadataIndex, tuple[str, str, list[int]]] = {}
    try:
        for fqn, entry in value["tensors"].items():
            if not fqn.startswith(only):
                continue
            size, dtype, chunks, volume = entry["size"], DTYPES[entry["dtype"]], [], 0
            for chunk in entry["chunks"]:
                offsets, sizes = chunk["offsets"], chunk["sizes"]
                within = all(
                    at >= 0 and more >= 0 and at + more <= side
                    for at, more, side in zip(offsets, sizes, size, strict=True)
                )
                index = MetadataIndex(fqn, offsets)
                named = isinstance(chunk["name"], str) and _RANK_FILE.fullmatch(chunk["file"])
                if not within or not named or index in places:
                    raise ValueError(f"a part of {fqn!r} at {offsets} of {sizes} in {chunk['file']!r}")
                places[index] = (chunk["file"], chunk["name"], sizes)
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                volume += torch.Size(sizes).numel()
            if volume != torch.Size(size).numel():
                raise ValueError(f"the parts of {fqn!r} do not fill it")
            tensors[fqn] = TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), chunks)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        _refuse(file, f"it does not describe tensors ({shown(str(error))})")
    return Metadata(tensors, storage_data=places)


def _refuse(path: Path, damage: str, fix: str = "use the checkpoint before it") -> NoReturn:
    raise ArtefactError(f"{path}: {damage}. Fix: {fix}.")


# -------------------------------------------------------------------------------------------------- one process or many


def _ranks() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _ranks() else 0


def _on_first_rank(run: Callable[[], T]) -> T:
    """Run on the first rank alone; every rank gets its result, or raises its error: none goes on where one stopped."""
    if not _ranks():
        return run()
    answer: list[Any] = [None, None]
    if _rank() == 0:
        try:
            answer[0] = run()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def _gather(value: dict[str, Any]) -> list[dict[str, Any]]:
    if not _ranks():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def _own_errors() -> Iterator[None]:
    """Unwrap torch's exception (which is no Exception) into the first error that a rank met, ours before any other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is a plain case here
        try:
            yield
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            raise min(causes, key=lambda cause: not isinstance(cause, DougongError)) from error


# ---------------------------------------------------------------------------------------------------- optimizer's state


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
