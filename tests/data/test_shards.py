"""Shards are read where they lie, without a copy, and many of them read like one."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.core.artefacts import Written
from dougong.core.errors import ArtefactError
from dougong.data.columns import Columns, Ragged
from dougong.data.shards import Split, Stream, read_shard, write_shard
from tests.clear_error import clear_error


def columns_of(lengths: list[int], seed: int = 0) -> Columns:
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 60_000, length).astype(np.uint16) for length in lengths]
    count = len(lengths)
    return {
        "t.tokens": Ragged.of(rows, np.uint16),
        "t.bytes": np.arange(count, dtype=np.int64) + 100 * seed,
        "n.value": random.normal(size=count).astype(np.float32),
        "i.pixels": random.integers(0, 256, (count, 3, 2, 1), dtype=np.uint8),
        "l.indicators": random.integers(0, 2, (count, 4), dtype=np.uint8),
    }


def split_of(folder: Path, shards: list[list[int]]) -> Split:
    paths = [folder / f"part-{number:05d}.arrow" for number in range(len(shards))]
    counts = [
        write_shard(path, columns_of(lengths, seed))
        for seed, (path, lengths) in enumerate(zip(paths, shards, strict=False))
    ]
    return Split("train", paths, counts)


def test_rows_of_vectors_come_back_as_they_were(tmp_path: Path) -> None:
    boxes = Ragged(np.arange(12, dtype=np.float32).reshape(3, 4), np.array([0, 2, 2, 3]))
    none = Ragged(np.zeros((0, 4), dtype=np.float32), np.zeros(4, dtype=np.int64))
    write_shard(tmp_path / "part.arrow", {"b.boxes": boxes, "b.none": none})
    found = read_shard(tmp_path / "part.arrow")
    for name, wanted in (("b.boxes", boxes), ("b.none", none)):
        column = found[name]
        assert isinstance(column, Ragged)
        assert column.values.dtype == np.float32
        assert column.values.tolist() == wanted.values.tolist()
        assert column.values.shape == wanted.values.shape
        assert column.offsets.tolist() == wanted.offsets.tolist()


def written(path: Path) -> Written:
    data = path.read_bytes()
    return Written(len(data), hashlib.sha256(data).hexdigest())


SHARDS = [[3, 1, 4], [1], [5, 9, 2, 6], [5, 3]]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return split_of(tmp_path, SHARDS)


def whole(shards: list[list[int]] = SHARDS) -> dict[str, list[np.ndarray]]:
    """All rows of every column, plainly."""
    rows: dict[str, list[np.ndarray]] = {}
    for seed, lengths in enumerate(shards):
        for name, column in columns_of(lengths, seed).items():
            pieces = [column.row(i) for i in range(len(column))] if isinstance(column, Ragged) else list(column)
            rows.setdefault(name, []).extend(pieces)
    return rows


def test_a_shard_gives_back_values_types_and_shapes(tmp_path: Path) -> None:
    columns = columns_of([3, 1, 4])
    assert write_shard(tmp_path / "a.arrow", columns) == 3
    read = read_shard(tmp_path / "a.arrow")
    assert read.keys() == columns.keys()
    for name, column in columns.items():
        again = read[name]
        if isinstance(column, Ragged):
            assert isinstance(again, Ragged)
            assert again.values.dtype == column.values.dtype
            assert (again.values == column.values).all()
            assert (again.offsets == column.offsets).all()
        else:
            assert isinstance(again, np.ndarray)
            assert (again.dtype, again.shape) == (column.dtype, column.shape)
            assert (again == column).all()


def test_a_shard_is_mapped_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_shard(path, columns_of([1000] * 50))
    arrays = [a for c in read_shard(path).values() for a in ([c.values, c.offsets] if isinstance(c, Ragged) else [c])]
    places = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    ]
    assert places
    for array in arrays:
        address = array.__array_interface__["data"][0]
        assert any(start <= address < stop for start, stop in places), f"{array.dtype} {array.shape} is a copy"
        assert not array.flags.writeable


@given(order=st.lists(st.integers(0, 9), min_size=1, max_size=20))
@settings(max_examples=60)
def test_take_gives_any_rows_in_any_order_over_all_shards(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    split, rows = cached_split(tmp_path_factory), whole()
    taken = split.take(np.array(order))
    for name, column in taken.items():
        assert len(column) == len(order)
        for place, row in enumerate(order):
            got = column.row(place) if isinstance(column, Ragged) else column[place]
            assert np.array_equal(got, rows[name][row])


_split: list[Split] = []


def cached_split(factory: pytest.TempPathFactory) -> Split:
    if not _split:
        _split.append(split_of(factory.mktemp("shards"), SHARDS))
    return _split[0]


def test_lengths_and_names_are_those_of_all_shards(split: Split) -> None:
    assert split.rows == 10
    assert split.lengths("t.tokens").tolist() == [length for lengths in SHARDS for length in lengths]
    assert split.names == list(columns_of([1]))


@given(
    shards=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=4),
    places=st.lists(st.integers(0, 10**6), min_size=2, max_size=2),
)
@settings(max_examples=100)
def test_a_stream_reads_like_the_joined_rows_and_knows_its_documents(
    shards: list[list[int]], places: list[int]
) -> None:
    rows = whole(shards)["t.tokens"]
    flat, owners = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    stream = Stream([columns_of(lengths, seed) for seed, lengths in enumerate(shards)], "t.tokens")
    assert len(stream) == len(flat)
    if not len(flat):
        return
    start, stop = sorted(place % (len(flat) + 1) for place in places)
    if start < stop:
        assert np.array_equal(stream.read(start, stop), flat[start:stop])
    assert np.array_equal(stream.document_of(np.arange(len(flat))), owners)


def test_a_split_travels_to_another_process_without_its_data(split: Split) -> None:
    split.take(np.arange(10))
    split.lengths("t.tokens")
    sent = pickle.dumps(split)
    assert len(sent) < 2000
    again = pickle.loads(sent)
    assert np.array_equal(again.lengths("t.tokens"), split.lengths("t.tokens"))


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"x" * 100])
def test_D11_what_is_no_shard_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part-00000.arrow"
    path.write_bytes(content)
    with clear_error("part-00000.arrow", error=ArtefactError):
        read_shard(path)


def test_D11_a_shard_that_was_cut_or_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.arrow"
    write_shard(path, columns_of([4, 5]))
    data = path.read_bytes()
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        with clear_error("part-00000.arrow", error=ArtefactError):
            read_shard(path)
    path.unlink()
    with clear_error("part-00000.arrow", error=ArtefactError):
        read_shard(path)


def test_D11_every_flipped_bit_of_a_shard_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "train" / "part-00000.arrow"
    path.parent.mkdir()
    count = write_shard(path, columns_of([4, 5]))
    good, was = path.read_bytes(), written(path)
    choose = random.Random(0)
    for _ in range(100):
        damaged = bytearray(good)
        damaged[choose.randrange(len(good))] ^= 1 << choose.randrange(8)
        path.write_bytes(damaged)
        with clear_error("part-00000.arrow", "sha256", f"delete {tmp_path}; it is prepared", error=ArtefactError):
            Split("train", [path], [count], [was]).take(np.arange(1))
    path.write_bytes(good)
    assert Split("train", [path], [count], [was]).take(np.arange(1))


def test_D11_a_shard_is_hashed_once_a_process_and_again_when_it_was_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_of(tmp_path, [[3, 1], [2]])
    known = [written(path) for path in split.paths]
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: hashed.append(file.name) or digest(file, kind))
    for _ in range(3):
        Split("train", split.paths, [2, 1], known).take(np.arange(3))
    assert len(hashed) == 2
    os.utime(split.paths[0], ns=(1, 1))
    Split("train", split.paths, [2, 1], known).take(np.arange(3))
    assert len(hashed) == 3


def cut(path: Path) -> None:
    os.truncate(path, 100)


def rewrite(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:  # the file that is mapped, not another one of its name
        file.write(data)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    stat = path.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "has 100"),
    "rewritten": (rewrite, "written again"),
    "replaced": (replace, "another file took its place"),
    "deleted": (Path.unlink, "it is gone"),
}
READS: dict[str, Callable[[Split, Stream], object]] = {
    "take": lambda split, stream: split.take(np.arange(9, -1, -1)),
    "stream": lambda split, stream: stream.read(0, len(stream)),
    "documents": lambda split, stream: stream.document_of(np.arange(len(stream))),
    "lengths": lambda split, stream: split.lengths("t.tokens"),
}


@pytest.mark.parametrize("damage", ["rewritten", "replaced", "deleted"])
@pytest.mark.parametrize("read", READS)
def test_D11_a_shard_that_changes_while_a_job_reads_it_is_refused_by_name(
    tmp_path: Path, damage: str, read: str
) -> None:
    check_damage(tmp_path, damage, read)


def test_D11_a_shard_that_is_cut_while_a_job_reads_it_is_an_error_and_no_signal(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from tests.data.test_shards import READS, check_damage\n"
        f"for read in READS: check_damage(Path({str(tmp_path)!r}) / read, 'cut', read)"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 0, f"{child.returncode}: {child.stderr}"


def check_damage(folder: Path, damage: str, read: str) -> None:
    folder.mkdir(exist_ok=True)
    damaging, said = DAMAGES[damage]
    split = split_of(folder, SHARDS)
    stream = split.stream("t.tokens")
    if read != "lengths":  # they are kept once they are known
        READS[read](split, stream)
    damaging(split.paths[2])
    with clear_error("part-00002.arrow", said, error=ArtefactError):
        READS[read](split, stream)
