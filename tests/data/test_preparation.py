"""Preparation: codecs see a sample of all rows, leaks are of inputs, and what rows resemble is more than their texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dougong.core.config import read
from dougong.core.errors import DataError
from dougong.data import preparation, prepare, quarantine, tokenizers
from dougong.data.prepare import Config, Prepared, Used
from dougong.fields import category, number, text

WORDS = [
    Used("text", read(text.Config, {"tokenizer": {"kind": "char"}})[0], False, text),
    Used("label", category.Config(), True, category),
]


def prepared_of(folder: Path, file: Path, used: list[Used] = WORDS, **more: Any) -> Prepared:
    config, problems = read(Config, {"train": str(file), "cache": str(folder / "prepared"), **more})
    assert not problems
    return prepare.prepare(config, used)


def test_a_codec_that_wants_few_rows_sees_some_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def fit(config: text.Config, values: Any) -> text.Codec:
        seen.extend(values)
        return text.Codec(config, tokenizers.train(config.tokenizer, seen))

    monkeypatch.setattr(text.Codec, "fit", fit)
    monkeypatch.setattr(text.Codec, "SAMPLE_CHARACTERS", 2_000)
    for name, letter in (("a.csv", "a"), ("b.csv", "b")):
        lines = "".join(f"{letter}{row:04d},{'xy'[row % 2]}\n" for row in range(1000))
        (tmp_path / name).write_text("text,label\n" + lines)
    prepared_of(tmp_path, tmp_path / "*.csv")
    assert 300 < len(seen) < 500  # 2,000 characters of 5 each
    assert 100 < sum(value.startswith("a") for value in seen) < 300


def test_D5_an_input_of_test_that_stands_in_train_leaks_whatever_its_label(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"row {row},{'xy'[row % 2]}\n" for row in range(40)))
    (tmp_path / "test.csv").write_text("text,label\nrow 0,y\nrow 1,x\nnew,x\n")
    prepared = prepared_of(tmp_path, tmp_path / "a.csv", test=str(tmp_path / "test.csv"), split={"validation": 0.0})
    assert (prepared.report.leaked["test"], prepared.report.compared["test"]) == (2, 3)


def test_D5_near_duplicates_have_the_same_other_inputs_and_a_text(tmp_path: Path) -> None:
    used = [*WORDS, Used("size", number.Config(), False, number)]
    long = "the same long question about the size of something"
    rows = [(long, 1), (long, 2), (f"{long}!", 1), (f"{long}!", 1), ("", 1), ("", 2), (long, 1)]
    lines = "".join(f"{said},{size},{'xy'[row % 2]}\n" for row, (said, size) in enumerate(rows))
    (tmp_path / "a.csv").write_text("text,size,label\n" + lines)
    cleaning = {"near_duplicates": "drop", "empty": "keep", "near_threshold": 0.7}
    report = prepared_of(tmp_path, tmp_path / "a.csv", used, cleaning=cleaning, split={"validation": 0.0}).report
    assert report.dropped["near_duplicates"] == 2  # those with "!"; an exact copy is another rule's business
    assert report.used["train"] == 5


def test_D1_a_file_that_is_wrong_altogether_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "ENOUGH", 40)
    monkeypatch.setattr("dougong.data.rows.CHUNK_ROWS", 20)
    monkeypatch.setattr("dougong.data.sources.BLOCK_ROWS", 20)
    (tmp_path / "a.csv").write_text("text,label\ngood,x\n" + "one field\n" * 1000)
    with pytest.raises(DataError, match="39 of 40 rows"):
        prepared_of(tmp_path, tmp_path / "a.csv")


def test_pictures_that_rows_name_count_for_the_size_of_the_data(tmp_path: Path) -> None:
    from dougong.fields import image

    (tmp_path / "a.png").write_bytes(b"x" * 50_000)
    (tmp_path / "a.csv").write_text("photo\n" + "a.png\n" * 1000)
    used = [Used("photo", image.Config(), False, image)]
    size = preparation._size(tmp_path / "a.csv", used, "paragraph")
    assert size == pytest.approx(50_000_000, rel=0.05)


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert preparation._cores() == 1
