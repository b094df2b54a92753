"""Sheets: the same few pictures at every validation of a training, and a grid of them at its end."""

# B rows that are shown

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dougong import assembly
from dougong.core.artefacts import make_folder, write_file
from dougong.data import pictures
from dougong.data.loader import Batch, collate
from dougong.data.shards import Split
from dougong.fields import Field
from dougong.inference import making
from dougong.model import Model

FOLDER = "samples"  # in a run folder
SHOWN = 10  # pictures of a line, each of other inputs where there are so many
LINES = 6  # of the grid at the end
LOOKED_AMONG = 2_000  # rows, for different inputs
SHORT = 24  # characters of what a picture was made of


def asked(split: Split, inputs: Sequence[Field]) -> tuple[Batch, list[str]]:
    """A few rows of a split that differ in their inputs, and what these say; without inputs as many that say nothing."""
    rows = np.arange(min(LOOKED_AMONG, split.rows))
    own = [name for name in split.names if any(name.startswith(f"{field.name}.") for field in inputs)]
    if not inputs:
        return collate({}, np.arange(SHOWN), {}), [""] * SHOWN
    columns = split.take(rows, own)
    told = [_of(columns, field) for field in inputs if field.config.type != "image"]
    said = ["\n".join(map(str, each)) for each in zip(*told, strict=True)] if told else list(map(str, rows))
    different = sorted(np.unique(said, return_index=True)[1].tolist())
    chosen = np.array(different)[np.linspace(0, len(different) - 1, min(SHOWN, len(different))).astype(np.int64)]
    if len(different) <= SHOWN:
        chosen = np.array(sorted(chosen, key=lambda row: said[row]))
    limits = assembly.limits_of(inputs)
    return collate(split.take(chosen, own), chosen, limits), [said[row] for row in chosen]


def _of(columns: Any, field: Field) -> list[Any]:
    own = {name.split(".", 1)[1]: column for name, column in columns.items() if name.startswith(f"{field.name}.")}
    return list(field.codec.decode(own))


def watcher(folder: Path, model: Model, split: Split, autocast: Any) -> Callable[[int], None]:
    """What keeps the pictures of a step: of the same inputs and from the same noise each time."""
    made = model.made
    assert made is not None
    batch, _ = asked(split, model.inputs)

    def keep(step: int) -> None:
        for path in kept(folder):
            if step_of(path) > step:  # of steps that were lost, and are taken again
                path.unlink()
        arrays = making.make(model, batch, range(len(batch["row"])), precise=autocast)
        make_folder(folder / FOLDER)
        line = pictures.sheet([made.codec.decode(arrays)])
        write_file(folder / FOLDER / f"step-{step:08}.png", made.codec.file(line))

    return keep


def kept(folder: Path) -> list[Path]:
    """The sheets of a run, in the order of their steps."""
    return sorted((folder / FOLDER).glob("step-*.png"))


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def grid(model: Model, split: Split, autocast: Any) -> tuple[bytes, list[str]]:
    """A PNG with a column for each of a few inputs, the pictures in it from different noise; and what the inputs say."""
    made = model.made
    assert made is not None
    batch, said = asked(split, model.inputs)
    count = len(said)
    many = {key: value.repeat(LINES, *[1] * (value.ndim - 1)) for key, value in batch.items()}
    arrays = making.make(model, many, range(LINES * count), precise=autocast)
    found = made.codec.decode(arrays)
    lines = [found[line * count : (line + 1) * count] for line in range(LINES)]
    return made.codec.file(pictures.sheet(lines)), said
