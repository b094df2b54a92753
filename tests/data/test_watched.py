"""Source files: what changed, came or went since they were hashed is named (D11)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dougong.core.errors import DataError
from dougong.data import tokenizers
from dougong.data.prepare import Used
from dougong.data.watched import GONE, SourceFiles, State
from dougong.fields import category, image, text
from tests.clear_error import clear_error


@pytest.fixture
def table(tmp_path: Path) -> SourceFiles:
    """A table that names three pictures, of which one does not exist, and a tokenizer."""
    for name in ("1.png", "2.png", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a.csv").write_text("photo,word,label\n" + "".join(f"{row}.png,x,a\n" for row in (1, 2, 3)))
    kind = tokenizers.FileTokenizer(path=str(tmp_path / "tokenizer.json"))
    used = [
        Used("photo", image.Config(), False, image),
        Used("word", text.Config(tokenizer=kind), False, text),
        Used("label", category.Config(), True, category),
    ]
    return SourceFiles({"train": [tmp_path / "a.csv"]}, used, "paragraph")


def again(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


@pytest.mark.parametrize("name", ["a.csv", "1.png", "2.png", "tokenizer.json"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (again, "it was written again"),
        (lambda path: path.write_text("other one"), "bytes and has 9"),
        (Path.unlink, "it is gone"),
        (lambda path: path.replace(path.with_name("x")), "it is gone"),
    ],
    ids=["again", "size", "gone", "renamed"],
)
def test_D11_every_kind_of_file_is_named_with_what_happened_to_it(
    tmp_path: Path, table: SourceFiles, name: str, change: Callable[[Path], object], said: str
) -> None:
    before = table.digest()
    table.unchanged()
    assert table.digest() == before
    change(tmp_path / name)
    with clear_error(str(tmp_path / name), said, "run it again", error=DataError):
        table.unchanged()


def test_D11_a_picture_that_comes_late_is_another_input(tmp_path: Path, table: SourceFiles) -> None:
    before = table.digest()
    (tmp_path / "3.png").write_text("3")
    with clear_error("3.png", "it was not there before", error=DataError):
        table.unchanged()
    assert table.digest() != before


def test_D11_files_that_come_or_go_in_a_folder_are_told(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "all" / label).mkdir(parents=True)
        (tmp_path / "all" / label / "1.txt").write_text(label)
    files = SourceFiles({"train": [tmp_path / "all"]}, [], "paragraph")
    last, first = tmp_path / "all" / "b" / "2.txt", tmp_path / "all" / "a" / "0.txt"
    for path in (last, first):
        before = files.digest()
        path.write_text("new")
        with clear_error(str(path.parent), "files came or went", error=DataError):
            files.unchanged()
        assert files.digest() != before
        path.unlink()
        with clear_error("files came or went", error=DataError):
            files.unchanged()


def test_D11_a_file_of_the_same_size_and_time_is_told_by_its_inode(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    for each in (path, other):
        each.write_text("same size")
        os.utime(each, ns=(1, 1))
    before = State.of(path)
    other.replace(path)
    assert before.change(State.of(path)) == "another file took its place"
    assert State.of(tmp_path / "nothing") == State.of(Path("\0")) == GONE
