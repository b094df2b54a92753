"""The scripts that make the tables of the recipes with pictures. No network."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.scripts import load

fetch = load("recipes/data/fetch.py")  # what the others import
tables = load("recipes/data/tables.py")
visual_questions = load("recipes/data/visual_questions.py")
stamps = load("recipes/data/stamps.py")
emoji = load("recipes/data/emoji.py")
captions_baseline = load("benchmarks/captions_baseline.py")


def saved(size: tuple[int, int], colour: str = "red", mode: str = "RGBA") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_questions_stand_beside_their_picture(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in (0, 1):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"picture %d" % number)
    asked = [["what shape?", "circle", 0], ["is it red?", "no", 1], ["is it blue?", "yes", 0]]
    (tmp_path / "questions.json").write_text(json.dumps(asked))
    found = visual_questions.rows(tmp_path)
    assert [number for number, _ in found] == [0, 1, 0]
    assert found[1][1] == {"image": b"picture 1", "question": "is it red?", "answer": "no"}


def test_a_stamp_has_the_first_line_of_its_text_and_of_a_series_only_one_is_taken(tmp_path: Path) -> None:
    for name, caption in (("a", "The letter 'A'."), ("b1", "One cent (1)."), ("b2", "One cent (2)."), ("none", "")):
        (tmp_path / f"{name}.txt").write_text(f"{caption}\nfr.utf8=autre chose\n")
        (tmp_path / f"{name}.png").write_bytes(saved((20, 10)))
    (tmp_path / "alone.txt").write_text("No picture.\n")
    rows = list(stamps.distinct(stamps.captioned(tmp_path, tmp_path)))
    assert [row["caption"] for row in rows] == ["The letter 'A'.", "One cent (1)."]


@pytest.mark.parametrize("size", [(300, 100), (10, 200), (5, 5)])
def test_a_stamp_stands_in_the_middle_of_a_white_square(size: tuple[int, int]) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(stamps.smaller(saved(size)))))
    assert pixels.shape == (stamps.SIDE, stamps.SIDE, 3)
    assert pixels[stamps.SIDE // 2, stamps.SIDE // 2].tolist() == [255, 0, 0]
    assert pixels[0 if size[0] > size[1] or size == (5, 5) else stamps.SIDE // 2, 0].tolist() == [255, 255, 255]


def test_an_emoji_has_a_row_for_each_skin_tone_all_on_one_side(tmp_path: Path) -> None:
    told = {
        "name": "WOMAN SURFING", "unified": "1F3C4-200D", "image": "a.png", "category": "People & Body", "added_in": "4.0",
        "skin_variations": {
            "1F3FF": {"unified": "1F3C4-1F3FF", "image": "b.png", "added_in": "4.0"},
            "1F3FB-1F3FC": {"unified": "1F3C4-1F3FB-1F3FC", "image": "c.png", "added_in": "13.1"},
            "1F3FD": {"unified": "1F3C4-1F3FD", "image": "missing.png", "added_in": "4.0"},
        },
    }  # fmt: skip
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(saved((4, 4)))
    rows = list(emoji.rows(told, tmp_path))
    assert [row["name"] for row in rows] == [
        "woman surfing", "woman surfing: dark skin tone", "woman surfing: light and medium-light skin tone"
    ]  # fmt: skip
    assert [(row["code"], row["codes"], row["version"]) for row in rows] == [
        (0x1F3C4, 2, 4),
        (0x1F3C4, 2, 4),
        (0x1F3C4, 3, 13.1),
    ]


def test_pictures_among_other_values_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PREPARED", tmp_path)
    tables.write_parquet("x.parquet", [{"image": b"\x89", "name": "é"}, {"image": b"", "name": ""}])
    assert pq.read_table(tmp_path / "x.parquet").to_pylist()[0] == {"image": b"\x89", "name": "é"}


def test_the_nearest_picture_is_found_also_mirrored() -> None:
    known = np.zeros((2, 4, 4, 3), dtype=np.float32)
    known[0, :, 0], known[1, 0] = 1, 1
    asked = known[[1, 0]][:, :, ::-1]
    assert captions_baseline.nearest(asked, known).tolist() == [1, 0]
    told = captions_baseline.baselines(
        (known, ["a left line", "a line above"]), (asked, ["a line above", "a left line"])
    )
    assert list(told.values()) == pytest.approx([100.0])
