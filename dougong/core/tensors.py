"""Tensors on disk: the safetensors format, its header distrusted until every number in it has been checked.

save_tensors(path, {"weight": w}, {"step": "12"})        # equal content gives equal bytes
tensors = load_tensors(path)
with TensorFile(path) as file:                           # a part of one tensor, without reading the rest
    rows = file.read("weight", 10, 20)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from dougong.core.artefacts import Written, open_regular, write_file
from dougong.core.errors import ArtefactError, bad_field, shown
from dougong.core.strict_json import parse_json

HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMS = 64
MAX_COUNT = 2**63 - 1  # torch counts elements and bytes in int64
ALIGN = 8
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Written:
    """Write a safetensors file, complete or not at all; return its size and sha256."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    order = sorted(
        tensors, key=lambda name: (-tensors[name].element_size(), name)
    )  # widest first: every tensor is aligned
    offset = 0
    for name in order:
        tensor = tensors[name]
        if name == "__metadata__" or tensor.dtype not in DTYPE_NAMES or tensor.layout != torch.strided:
            what = f"{tensor.dtype}, {tensor.layout}"
            raise bad_field(
                f"tensor {name}", what, f"a dense tensor of {', '.join(DTYPES)}", "convert it before saving"
            )
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGN)
    if len(text) > HEADER_BYTES:
        raise bad_field("tensors", f"{len(text):,} bytes of names", f"at most {HEADER_BYTES:,}", "write several files")

    def pieces() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in order:
            yield _bytes_of(tensors[name].detach().cpu().contiguous())  # one at a time: no second model in host memory

    return write_file(path, pieces(), 8 + len(text) + offset)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, by name in sorted order."""
    with TensorFile(path) as file:
        return {name: file.read(name) for name in sorted(file.entries)}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes `start` to `end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFile:
    """An open safetensors file whose header holds: what it names lies in the file, once, with the size it claims."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = open_regular(path)
        except OSError as error:
            raise ArtefactError(f"{path}: cannot be read ({error.strerror}). Fix: check the path.") from error
        try:
            self.entries, self.metadata = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """A tensor, or its rows `first` to `last` along the first dimension."""
        if name not in self.entries:
            self._refuse(f"there is no tensor {shown(name)}")
        entry = self.entries[name]
        shape, start, end = entry.shape, entry.start, entry.end
        if shape and (first, last) != (0, None):
            last = shape[0] if last is None else last
            row = (end - start) // max(shape[0], 1)
            shape, start, end = (last - first, *shape[1:]), start + first * row, start + last * row
        tensor = torch.empty(shape, dtype=entry.dtype)
        self._file.seek(start)
        self._fill(_bytes_of(tensor), f"tensor {shown(name)}")
        if entry.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            self._refuse(f"tensor {shown(name)} is BOOL but holds other bytes than 0 and 1")
        return tensor

    def _fill(self, buffer: memoryview, part: str) -> None:
        while buffer:
            count = self._file.readinto(buffer)  # type: ignore[attr-defined]
            if not count:
                self._refuse(f"the file ends within {part}")
            buffer = buffer[count:]

    def _read_header(self) -> tuple[dict[str, Entry], dict[str, str]]:
        size = os.fstat(self._file.fileno()).st_size
        if size < 8:
            self._refuse(f"{size} bytes are too few for a header")
        length = int.from_bytes(self._exactly(8), "little")
        if length > min(HEADER_BYTES, size - 8):
            self._refuse(f"a header of {length:,} bytes in a file of {size:,} (at most {HEADER_BYTES:,})")
        text = self._exactly(length)
        if not text.startswith(b"{"):
            self._refuse("the header does not begin with {")
        header = parse_json(text, str(self.path), depth=4)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            self._refuse("__metadata__ is not a mapping of text to text")
        entries = {name: self._entry(name, value, 8 + length) for name, value in header.items()}
        at = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
            if entry.start != at:
                self._refuse(
                    f"tensor {shown(name)} begins at byte {entry.start:,} where {at:,} is due (a gap or an overlap)"
                )
            at = entry.end
        if at != size:
            self._refuse(f"the tensors end at byte {at:,} of {size:,}")
        return entries, metadata

    def _entry(self, name: str, value: object, base: int) -> Entry:
        if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
            self._refuse(f"tensor {shown(name)} does not have just dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._refuse(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
        if not _counts(shape) or len(shape) > MAX_DIMS:
            self._refuse(f"tensor {shown(name)} has the shape {shown(shape)}")
        if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self._refuse(f"tensor {shown(name)} has the data_offsets {shown(offsets)}")
        width = DTYPES[dtype].itemsize
        if (
            math.prod(side for side in shape if side) * width > MAX_COUNT
        ):  # zeros left out: torch multiplies strides too
            self._refuse(f"tensor {shown(name)} has the shape {shown(shape)}")
        if math.prod(shape) * width != offsets[1] - offsets[0]:
            self._refuse(
                f"tensor {shown(name)}: {dtype} {shown(shape)} does not fill {offsets[1] - offsets[0]:,} bytes"
            )
        return Entry(DTYPES[dtype], tuple(shape), base + offsets[0], base + offsets[1])

    def _exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        self._fill(memoryview(buffer), "its header")
        return bytes(buffer)

    def _refuse(self, damage: str) -> NoReturn:
        raise ArtefactError(f"{self.path}: {damage}. Fix: do not use this file; get it again from where it came.")


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= MAX_COUNT for item in value)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, as bytes."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy arrays are buffers
