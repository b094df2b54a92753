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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dougong.core.artefacts import (
    Manifest,
    begin_folder,
    discard,
    disk_errors,
    make_folder,
    need_space,
    read_json,
    read_manifest,
    remove_folder,
    restore_replaced,
    verify_folder,
)
from dougong.core.errors import ArtefactError, bad_field, shown
from dougong.training.layout import KIND, RANK_FILE, STATE, STEP, TENSORS, refuse
from dougong.training.ranks import gather, on_first_rank, rank

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
    temporary = on_first_rank(lambda: _begin(final, tensors))
    states = gather(dict(state))
    meta = {"step": step, "best": best, "parent": _newest_name(folder)}
    try:
        storage().write(temporary, final, tensors, meta, states)
    except BaseException:
        if rank() == 0:
            discard(temporary)
        raise
    on_first_rank(lambda: prune(folder, keep))
    return final


def load(path: Path, tensors: Mapping[str, Tensor], *, only: str = "") -> dict[str, Any]:
    """Verify a checkpoint, fill `tensors` in place, return the state. `only="model."`: just the names that begin so."""
    on_first_rank(lambda: verify(path))
    storage().read(path, tensors, only)
    return read_state(path)


def storage() -> Any:
    """The reader and writer under torch's planner, whose import takes as long as torch's own: only when it is used."""
    from dougong.training import storage

    return storage


def read_state(path: Path) -> dict[str, Any]:
    """The state that was saved beside the tensors: this rank's, or the first rank's if the ranks were fewer then."""
    states = read_json(path / STATE)
    if not isinstance(states, list) or not states or not all(isinstance(state, dict) for state in states):
        refuse(path / STATE, "it does not hold one state a rank")
    return dict(states[rank()] if rank() < len(states) else states[0])


def verify(path: Path) -> Manifest:
    """Check every byte of a checkpoint. Raises ArtefactError that names the damaged file."""
    restore_replaced(path.parent, path.name)
    manifest = read_manifest(path)
    for name in sorted(manifest.files):  # before any of them is opened
        if name not in (STATE, TENSORS) and not RANK_FILE.fullmatch(name):
            refuse(path / name, "checkpoints hold no such file")
    step = _step_of(path)
    if step is not None and manifest.meta.get("step") != step:
        refuse(path, f"it holds step {shown(manifest.meta.get('step'))}, not that of its name")
    return verify_folder(path, KIND)


def _begin(final: Path, tensors: Mapping[str, Tensor]) -> Path:
    with disk_errors(final):
        make_folder(final.parent)
    need_space(final.parent, SLACK + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
    return begin_folder(final)


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


def find_best(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest one saved with `best=True` that verifies, and why others do not; None if there never was one.

    Where none of them is good any more it is the newest good one of all. ArtefactError if there is not even that.
    """
    restore_replaced(folder)
    refused: list[str] = []
    for path in _steps(folder):
        try:
            if read_manifest(path).meta.get("best") is not True:
                continue
            verify(path)
        except ArtefactError as error:  # whose manifest is damaged may have been the best
            refused.append(str(error))
            continue
        return path, refused
    return (find_latest(folder)[0] if refused else None), refused


def best(folder: Path) -> Path | None:
    """`find_best`, with what was refused said in the log."""
    path, refused = find_best(folder)
    for reason in refused:
        log.warning("best checkpoint refused, another one is used: %s", reason)
    return path


def drop_from(folder: Path, step: int) -> Path | None:
    """Remove those of `step` and later, newest first, but for the best, which were measured; return the newest left."""
    for path in _steps(folder):
        if int(path.name[5:]) >= step and not _is_best(path):
            remove_folder(path)
    return next(iter(_steps(folder)), None)


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


def _steps(folder: Path) -> list[Path]:
    """All checkpoints by step, newest first. Never by time: clocks jump."""
    with disk_errors(folder):
        found = [path for path in folder.iterdir() if STEP.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _step_of(path: Path) -> int | None:
    match = STEP.fullmatch(path.name)
    return int(match[1]) if match else None


def _newest_name(folder: Path) -> str | None:
    paths = _steps(folder)
    return paths[0].name if paths else None
