"""Step 1: chunks are bounded by what their rows take, and every row of a chunk is accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dougong.core.config import read
from dougong.data import duplicates, rows
from dougong.data.prepare import Config
from dougong.data.rows import Chunk, Cleaned, Cleaner, Used, chunked
from dougong.fields import category, image, number, pairing, text

REVIEW = [Used("review", text.Config(), False, text), Used("label", category.Config(), True, category)]


def cleaned_of(file: Path, used: list[Used]) -> Cleaned:
    config = Config(train=str(file))
    ((split, piece),) = chunked({"train": [file]}, "paragraph", used)
    return Cleaner(config, used, file.parent).clean(Chunk(0, split, piece))


def test_only_the_columns_that_fields_use_are_in_a_chunk(tmp_path: Path) -> None:
    table = pa.table({"review": ["a"] * 50, "label": ["b"] * 50, "vector": [[0.5] * 768] * 50})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"review": "a", "label": "b", "vector": [0.5] * 768}) + "\n")
    (tmp_path / "a.csv").write_text("vector,review,label\n0.5,a,b\n")
    for name in ("a.parquet", "a.jsonl", "a.csv"):
        for _, piece in chunked({"train": [tmp_path / name]}, "paragraph", REVIEW):
            assert set(piece.columns) == {"review", "label"}


def test_a_list_counts_for_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK_BYTES", 10_000)
    (tmp_path / "a.jsonl").write_text((json.dumps({"review": ["word"] * 500, "label": "b"}) + "\n") * 20)
    sizes = [len(piece.numbers) for _, piece in chunked({"train": [tmp_path / "a.jsonl"]}, "paragraph", REVIEW)]
    assert max(sizes) <= 6
    assert sum(sizes) == 20


def test_a_picture_counts_for_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK_BYTES", 100_000)
    Image.new("RGB", (100, 100)).save(tmp_path / "flat.png")  # a few hundred bytes, 30,000 once it is read
    (tmp_path / "a.csv").write_text("photo\n" + "flat.png\n" * 20)
    for size, most in (({}, 4), ({"size": [200, 200]}, 1), ({"size": [8, 8]}, 20)):
        used = [Used("photo", read(image.Config, size)[0], False, image)]
        pieces = [piece for _, piece in chunked({"train": [tmp_path / "a.csv"]}, "paragraph", used)]
        assert max(len(piece.numbers) for piece in pieces) == most


def test_two_fields_may_read_one_column_each_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("stars\n1\n2.5\n")
    used = [
        Used("amount", number.Config(column="stars"), True, number),
        Used("grade", category.Config(column="stars"), True, category),
    ]
    cleaned = cleaned_of(tmp_path / "a.csv", used)
    assert cleaned.kept.select(["amount", "grade"]).to_pydict() == {"amount": [1.0, 2.5], "grade": ["1", "2.5"]}
    assert {name: column.kind for name, column in cleaned.report.columns.items()} == {
        "amount": "number",
        "grade": "category",
    }


def test_D5_one_input_stands_on_one_side_whatever_its_answers(tmp_path: Path) -> None:
    lines = [f"review {row},{label}" for row in range(200) for label in ("good", "bad")]
    (tmp_path / "a.csv").write_text("\n".join(["review,label", *lines]))
    kept = cleaned_of(tmp_path / "a.csv", REVIEW).kept.to_pydict()
    splits: dict[str, set[int]] = {}
    for review, split in zip(kept["review"], kept["_split"], strict=True):
        splits.setdefault(review, set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(set(kept["_hash"])) == 400
    assert len(set(kept["_inputs"])) == 200


def test_D1_rows_read_are_rows_kept_and_rows_refused_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("review,label\ngood,1\n,2\nthree,fields,here\nfine,\nlast,5\n")
    cleaned = cleaned_of(tmp_path / "a.csv", REVIEW)
    assert cleaned.kept["_row"].to_pylist() == [1, 5]
    assert [(line["row"], line["bad"]) for line in cleaned.refused] == [(2, False), (3, True), (4, False)]
    assert [line["reason"] for line in cleaned.refused][::2] == ["empty", "missing label"]
    assert cleaned.report.rows_read == 5
    assert np.array(cleaned.kept["_file"].to_pylist()).tolist() == [str(tmp_path / "a.csv")] * 2


def test_a_field_without_a_column_gets_the_hashes_of_the_inputs_and_asks_for_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"b": "one", "a": 1}\n{"b": "one", "a": null}\n{"b": "two", "a": 1}\n')
    used = [
        Used("a", number.Config(), False, number),
        Used("b", category.Config(), False, category),
        Used("match", pairing.Config(), True, pairing),
    ]
    cleaned = cleaned_of(tmp_path / "a.jsonl", used)
    first, second = cleaned.kept.column("match").to_pylist()
    assert first == [int(duplicates.value_hashes([1.0])[0]), int(duplicates.value_hashes(["one"])[0])]
    assert (first[0] == second[0], first[1] == second[1]) == (True, False)
    assert [(record["reason"], record["bad"]) for record in cleaned.refused] == [("missing a", False)]
    assert cleaned.report.dropped == {"missing a": 1}
    plain = cleaned_of(tmp_path / "a.jsonl", used[:2]).kept
    with_it = cleaned.kept.column("_hash").to_pylist()
    assert [plain.column("_hash")[row].as_py() for row in (0, 2)] == with_it  # rows are told apart by what they hold
