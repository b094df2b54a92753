"""Scenes that are composed and tiles that are cut: boxes lie where things are. No network."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dougong.data.boxes import placed, read
from tests.scripts import load

fetch = load("recipes/data/fetch.py")
tables = load("recipes/data/tables.py")
scenes = load("recipes/data/scenes.py")
crowns = load("recipes/data/crowns.py")


def emoji(colour: tuple[int, int, int]) -> Image.Image:
    """A disc in the middle of what is transparent."""
    y, x = np.mgrid[:64, :64]
    alpha = ((x - 32) ** 2 + (y - 32) ** 2 < 400).astype(np.uint8) * 255
    return Image.fromarray(np.dstack([np.full((64, 64, 3), colour, dtype=np.uint8), alpha]), "RGBA")


def test_a_scene_has_boxes_around_what_was_pasted() -> None:
    random = np.random.default_rng(0)
    photograph = Image.new("RGB", (300, 200))
    kinds = {"red": [emoji((255, 0, 0))], "green": [emoji((0, 255, 0))]}
    for _ in range(20):
        row = scenes.scene(random, [photograph], kinds)
        pixels = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB")).astype(int)
        boxes = json.loads(row["boxes"])
        placed(read(boxes), (scenes.SIDE, scenes.SIDE))
        assert 1 <= len(boxes) <= 5
        seen = np.zeros(pixels.shape[:2], dtype=bool)
        for x, y, right, low, name in boxes:
            middle = pixels[(y + low) // 2, (x + right) // 2]
            assert middle.argmax() == ("red", "green").index(name)
            seen[y:low, x:right] = True
        assert pixels[~seen].max() < 100  # but for what JPEG smears


@pytest.mark.parametrize("tone", ["", "1F3FB"])
def test_an_emoji_is_found_with_or_without_the_mark_of_colour(tone: str, tmp_path: Path) -> None:
    for name in ("270c-fe0f.png", "270c-1f3fb.png"):
        emoji((1, 2, 3)).save(tmp_path / name)
    assert scenes.read(tmp_path, "270C", tone).size == (64, 64)


def test_tiles_hold_the_crowns_that_are_mostly_in_them(tmp_path: Path) -> None:
    inside, half, outside = (10, 10, 50, 50), (390, 100, 410, 120), (700, 10, 740, 50)
    objects = "".join(
        f"<object><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in (inside, half, outside)
    )
    (tmp_path / "photo.xml").write_text(f"<annotation>{objects}</annotation>")
    Image.new("RGB", (850, 400)).save(tmp_path / "photo.png")
    rows = list(crowns.tiles(tmp_path, "photo", 0, 850, 400))
    assert [json.loads(row["boxes"]) for row in rows] == [
        [[10, 10, 50, 50, "tree"], [390, 100, 400, 120, "tree"]],
        [[0, 100, 10, 120, "tree"], [300, 10, 340, 50, "tree"]],
    ]
    assert all(Image.open(io.BytesIO(row["image"])).size == (400, 400) for row in rows)
    assert crowns.within([399, 0, 439, 40], 0, 0) is None
