"""The tensors of a checkpoint: torch.distributed.checkpoint's planner over storage of our own, safetensors and JSON.

The planner decides who writes and who reads what, so what 2 ranks saved loads into 1 or 64; only its storage is ours,
because its own one pickles. Importing this file takes a second: checkpoint.py does so when it saves or loads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
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

from dougong.core.artefacts import Written, commit_folder, inside, read_json, write_json
from dougong.core.errors import DougongError, bad_field, shown
from dougong.core.tensors import DTYPE_NAMES, DTYPES, TensorFile, save_tensors
from dougong.training import ranks
from dougong.training.layout import KIND, RANK_FILE, STATE, TENSORS, refuse


def write(
    folder: Path, final: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], states: list[dict[str, Any]]
) -> None:
    """Write all ranks' tensors and states into `folder`, seal it, and put it in the place of `final`."""
    planner = DefaultSavePlanner(flatten_state_dict=False)
    with _own_errors():
        dcp.save(
            dict(tensors),
            storage_writer=_Writer(folder, final, meta, states),
            planner=planner,
            no_dist=not ranks.many(),
        )


def read(path: Path, tensors: Mapping[str, Tensor], only: str) -> None:
    """Fill `tensors` in place from a checkpoint that was verified."""
    reader = _Reader(path, only)
    _check_fit(path, tensors, reader.metadata, only)
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    with _own_errors():
        dcp.load(dict(tensors), storage_reader=reader, planner=planner, no_dist=not ranks.many())


def _check_fit(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata, only: str) -> None:
    """Names, shapes and dtypes must be the same on both sides: nothing is skipped, cast or cut in silence."""
    saved = metadata.state_dict_metadata
    for name in sorted(saved.keys() - tensors.keys()):
        refuse(
            path,
            f"it holds tensor {shown(name)}, which this model does not have",
            "use the recipe that it was trained with",
        )
    for name, tensor in sorted(tensors.items()):
        if name not in saved:
            begin = f" among those that begin with {only!r}" if only else ""
            refuse(path, f"it does not hold tensor {shown(name)}{begin}", "use the recipe that it was trained with")
        entry = saved[name]
        there = (tuple(entry.size), entry.properties.dtype)  # type: ignore[union-attr]  # _Reader makes no other kind
        if there != (tuple(tensor.shape), tensor.dtype):
            have, want = (
                f"{list(shape)} {DTYPE_NAMES.get(dtype, dtype)}"
                for shape, dtype in (there, (tensor.shape, tensor.dtype))
            )
            refuse(
                path,
                f"tensor {shown(name)} is {have} there and {want} in this model",
                "use the recipe that it was trained with",
            )


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
        file = f"rank-{ranks.rank():04d}.safetensors"
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
                refuse(self.path / TENSORS, f"{shown(item.storage_index.fqn)} is not a tensor")
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
            refuse(file.path, f"its tensor {shown(name)} is not the one that {TENSORS} describes")
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
                named = isinstance(chunk["name"], str) and RANK_FILE.fullmatch(chunk["file"])
                if not within or not named or index in places:
                    raise ValueError(f"a part of {fqn!r} at {offsets} of {sizes} in {chunk['file']!r}")
                places[index] = (chunk["file"], chunk["name"], sizes)
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                volume += torch.Size(sizes).numel()
            if volume != torch.Size(size).numel():
                raise ValueError(f"the parts of {fqn!r} do not fill it")
            tensors[fqn] = TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(size), chunks)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        refuse(file, f"it does not describe tensors ({shown(str(error))})")
    return Metadata(tensors, storage_data=places)
