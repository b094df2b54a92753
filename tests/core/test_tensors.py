"""Safetensors files: exact, deterministic, readable by others; every hostile header is refused unbelieved (A2)."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dougong.core.errors import ArtefactError, DougongError
from dougong.core.tensors import DTYPES, HEADER_BYTES, TensorFile, load_tensors, save_tensors

SHARE = int(os.environ.get("DOUGONG_NIGHTLY", "1"))  # `make nightly` multiplies every count of these tests


def examples() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, dtype in DTYPES.items():
        raw = torch.randint(
            0, 2 if dtype == torch.bool else 256, (2, 3, dtype.itemsize), generator=generator, dtype=torch.uint8
        )
        tensors[name] = raw.view(dtype).reshape(2, 3) if dtype.itemsize > 1 else raw.view(dtype)[:, :, 0]
    return tensors | {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "part": torch.arange(100)[10:90:7],
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = examples()
    save_tensors(tmp_path / "a.safetensors", tensors, {"step": "3"})
    loaded = load_tensors(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(loaded[name]) == bits(tensor)
    with TensorFile(tmp_path / "a.safetensors") as file:
        assert file.metadata == {"step": "3"}


def test_the_safetensors_library_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in examples().items()}
    save_tensors(tmp_path / "ours", tensors)
    theirs = safetensors.torch.load_file(tmp_path / "ours")
    safetensors.torch.save_file(tensors, tmp_path / "theirs")
    ours = load_tensors(tmp_path / "theirs")
    for name, tensor in tensors.items():
        assert bits(theirs[name]) == bits(ours[name]) == bits(tensor)


def test_equal_content_gives_equal_bytes_whatever_the_order(tmp_path: Path) -> None:
    tensors = examples()
    one = save_tensors(tmp_path / "one", tensors, {"a": "1", "b": "2"})
    two = save_tensors(tmp_path / "two", dict(reversed(tensors.items())), {"b": "2", "a": "1"})
    assert one == two
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert one.bytes == (tmp_path / "one").stat().st_size


def test_rows_are_read_without_the_rest(tmp_path: Path) -> None:
    tensor = torch.arange(60.0).reshape(10, 2, 3)
    save_tensors(tmp_path / "a", {"x": tensor})
    with TensorFile(tmp_path / "a") as file:
        assert torch.equal(file.read("x", 3, 7), tensor[3:7])
        assert torch.equal(file.read("x", 8), tensor[8:])
        assert file.read("x", 4, 4).shape == (0, 2, 3)
        with pytest.raises(ArtefactError, match="there is no tensor 'y'"):
            file.read("y")


def test_what_the_format_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    for tensor in (torch.zeros(2, dtype=torch.complex128), torch.eye(2).to_sparse()):
        with pytest.raises(DougongError, match=r"tensor w = .*: expected a dense tensor of F64, .*Fix: convert it"):
            save_tensors(tmp_path / "a", {"w": tensor})
    with pytest.raises(DougongError, match="tensor __metadata__"):
        save_tensors(tmp_path / "a", {"__metadata__": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write(path: Path, header: object, data: int = 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + b"\1" * data)
    return path


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": entry(shape=(3,))}, r"tensor 'w': F32 \[3\] does not fill 8 bytes"),
        ({"w": entry(offsets=(0, 12))}, r"tensor 'w': F32 \[2\] does not fill 12 bytes"),
        ({"w": entry(offsets=(4, 12))}, r"tensor 'w' begins at byte .* \(a gap or an overlap\)"),
        ({"w": entry(offsets=(8, 0))}, r"tensor 'w' has the data_offsets \[8, 0\]"),
        ({"w": entry(shape=(1,), offsets=(0, 4))}, r"the tensors end at byte .* of"),
        ({"v": entry(), "w": entry()}, r"tensor '[vw]' begins at byte .* \(a gap or an overlap\)"),
        ({"v": entry(), "w": entry(offsets=(8, 16))}, r"the tensors end at byte"),
        ({"w": entry(dtype="F4")}, r"tensor 'w' has the unknown dtype 'F4'"),
        ({"w": entry(dtype=["F32"])}, r"tensor 'w' has the unknown dtype"),
        ({"w": entry(shape=(-2, -1))}, r"tensor 'w' has the shape"),
        ({"w": entry(shape=(True, 2))}, r"tensor 'w' has the shape"),
        ({"w": entry(shape=(2.0,))}, r"tensor 'w' has the shape"),
        ({"w": entry(shape=[1] * 65)}, r"tensor 'w' has the shape"),
        ({"w": entry(shape=(0, 2**62, 8), offsets=(0, 0))}, r"tensor 'w' has the shape"),
        ({"w": entry(shape=(2**32, 2**32, 2**32))}, r"tensor 'w' has the shape"),
        ({"w": entry(dtype="BOOL", shape=(8,)) | {"extra": 1}}, r"tensor 'w' does not have just"),
        ({"w": [1]}, r"tensor 'w' does not have just"),
        ({"w": entry(), "__metadata__": {"a": 1}}, r"__metadata__ is not a mapping of text to text"),
        (b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "w": 1}', r"the key 'w' stands twice"),
        (b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, NaN]}}', r"NaN is not a JSON number"),
        (b"[1]", r"the header does not begin with {"),
        (b'{"w": ' + b"[" * 100000, r"nested deeper than 4 levels"),
        (b"{\xff}", r"invalid start byte"),
        (b"", r"the header does not begin with {"),
    ],
)
def test_a2_a_hostile_header_is_refused_with_the_name_of_the_tensor(
    tmp_path: Path, header: object, message: str
) -> None:
    with pytest.raises(ArtefactError, match=message + r".*Fix: "):
        load_tensors(write(tmp_path / "a", header))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, HEADER_BYTES + 1, 10**6])
def test_a2_a_header_longer_than_the_file_or_the_limit_is_not_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(ArtefactError, match=r"a header of [\d,]+ bytes in a file of"):
        load_tensors(write(tmp_path / "a", {"w": entry()}, length=length))


def test_a2_a_100_mb_limit_holds_even_where_the_file_is_larger(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"w": entry()}, length=HEADER_BYTES + 1)
    os.truncate(path, 10**10)
    with pytest.raises(ArtefactError, match="at most 100,000,000"):
        load_tensors(path)


def test_a2_short_files_links_and_folders_are_refused(tmp_path: Path) -> None:
    for size in range(8):
        (tmp_path / "a").write_bytes(b"\0" * size)
        with pytest.raises(ArtefactError, match="too few for a header"):
            load_tensors(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for path in (tmp_path / "link", tmp_path / "none", tmp_path):
        with pytest.raises(ArtefactError):
            load_tensors(path)


def test_a2_bool_bytes_other_than_0_and_1_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {"w": entry("BOOL", (8,))}, data=0)
    path.write_bytes(path.read_bytes() + bytes([0, 1, 0, 1, 2, 0, 0, 0]))
    with pytest.raises(ArtefactError, match="tensor 'w' is BOOL but holds other bytes than 0 and 1"):
        load_tensors(path)


def test_a2_mutated_headers_are_refused_or_read_as_what_they_say_and_never_crash(tmp_path: Path) -> None:
    """Whatever passes must also pass the reference library, with the same tensors: we are at least as strict."""
    rng = random.Random(2)
    save_tensors(
        tmp_path / "good",
        {"a": torch.arange(6).reshape(2, 3), "b": torch.zeros(4, dtype=torch.bool), "c": torch.ones(())},
    )
    good = (tmp_path / "good").read_bytes()
    length = int.from_bytes(good[:8], "little")
    messages: list[str] = []
    for _ in range(2000 * SHARE):
        (tmp_path / "bad").write_bytes(mutate(rng, good, length))
        try:
            ours = load_tensors(tmp_path / "bad")
        except ArtefactError as error:
            messages.append(str(error))
            continue
        theirs = safetensors.torch.load_file(tmp_path / "bad")
        assert {name: (t.dtype, t.shape, bits(t)) for name, t in ours.items()} == {
            name: (t.dtype, t.shape, bits(t)) for name, t in theirs.items()
        }
    assert len(messages) > 1500 * SHARE
    assert all(str(tmp_path / "bad") in message and len(message) < 600 for message in messages)


TOKENS = [
    b"0",
    b"-1",
    b"18446744073709551615",
    b"1e3",
    b"[]",
    b"{}",
    b"null",
    b'"F32"',
    b'"BOOL"',
    b'"a":',
    b",",
    b"\xff",
    b"\0",
]


def mutate(rng: random.Random, good: bytes, length: int) -> bytes:
    """Change the header or its length: flip bits, cut, double, or swap in a token that a parser might choke on."""
    header, data = bytearray(good[8 : 8 + length]), good[8 + length :]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(header))
        kind = rng.randrange(5)
        if kind == 0:
            header[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del header[at : at + rng.randint(1, 8)]
        elif kind == 2:
            header[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            header[at : at + rng.randint(1, 3)] = rng.choice(TOKENS)
        else:
            header[at:at] = header[at : at + rng.randint(1, 60)]
        header = header or bytearray(b"{")
    claimed = len(header) if rng.random() < 0.9 else rng.choice([0, 1, length, 2**63, len(header) + len(data)])
    return (
        claimed.to_bytes(8, "little")
        + bytes(header)
        + data[: len(data) if rng.random() < 0.9 else rng.randrange(len(data))]
    )
