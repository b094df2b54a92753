"""Composed scenes: emoji (Google's, Apache-2.0) pasted on photographs (MATE's backgrounds) -> scenes-train, -test.parquet.

    python recipes/data/scenes.py        # on Debian or Ubuntu, whose package mate-backgrounds holds the photographs

Columns: `image`, a JPEG of 128 x 128 pixels, and `boxes`, JSON of [x_min, y_min, x_max, y_max, name] of each emoji: ten signs
and parts of the body, one to five in a scene, each turned, mirrored, and of 24 to 56 pixels. The scenes of the test show
other skin tones before other photographs.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import fetch
import numpy as np
import tables
from PIL import Image, ImageOps

EMOJI = ("emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438")
PHOTOGRAPHS = ("mate-backgrounds", "1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04")
NAMES = {  # code point -> label
    "1F44D": "thumb up", "270C": "victory", "270A": "fist", "1F44C": "ok", "1F9B6": "foot", "1F919": "call me",
    "1F442": "ear", "1F443": "nose", "1F44B": "wave", "1F4AA": "biceps",
}  # fmt: skip
TONES = {"train": ("", "1F3FB", "1F3FD", "1F3FF"), "test": ("1F3FC", "1F3FE")}  # the second: between those of the first
TEST_PHOTOGRAPHS = ("Garden", "LadyBird", "Dune")
SCENES = {"train": 4_000, "test": 500}
SIDE = 128  # pixels of a scene
SMALLEST, LARGEST = 24, 56  # pixels of the longer side of an emoji
MOST_COVERED = 0.1  # of an emoji, by another one


def main() -> None:
    pictures = fetch.npm(*EMOJI, keep="package/img/google/64/*.png") / "package/img/google/64"
    photographs = fetch.debian(*PHOTOGRAPHS, keep="*/backgrounds/mate/nature/*.jpg")
    found = {path.stem: Image.open(path).convert("RGB") for path in sorted(photographs.rglob("*.jpg"))}
    for split, count in SCENES.items():
        shown = [photo for name, photo in found.items() if (name in TEST_PHOTOGRAPHS) == (split == "test")]
        emoji = {name: [read(pictures, code, tone) for tone in TONES[split]] for code, name in NAMES.items()}
        random = np.random.default_rng(count)
        tables.write_parquet(f"scenes-{split}.parquet", [scene(random, shown, emoji) for _ in range(count)])


def read(pictures: Path, code: str, tone: str) -> Image.Image:
    """An emoji in one skin tone; some carry a mark that asks for colour where they have none."""
    names = [f"{code}-{tone}"] if tone else [code, f"{code}-FE0F"]
    path = next(path for path in (pictures / f"{name.lower()}.png" for name in names) if path.is_file())
    return Image.open(path).convert("RGBA")


def scene(
    random: np.random.Generator, photographs: list[Image.Image], emoji: dict[str, list[Image.Image]]
) -> dict[str, object]:
    """One picture and what stands in it."""
    shown = background(random, photographs[random.integers(len(photographs))])
    boxes: list[list[object]] = []
    taken = np.zeros((SIDE, SIDE), dtype=bool)
    for _ in range(random.integers(1, 6)):
        name = list(emoji)[random.integers(len(emoji))]
        cut = changed(random, emoji[name][random.integers(len(emoji[name]))])
        x, y = (int(random.integers(0, SIDE - size + 1)) for size in cut.size)
        place = slice(y, y + cut.height), slice(x, x + cut.width)
        if taken[place].mean() <= MOST_COVERED:
            shown.paste(cut, (x, y), cut)
            taken[place] = True
            boxes.append([x, y, x + cut.width, y + cut.height, name])
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=90)
    return {"image": stream.getvalue(), "boxes": json.dumps(boxes)}


def background(random: np.random.Generator, photograph: Image.Image) -> Image.Image:
    """A square of a photograph, at any scale."""
    side = int(random.integers(SIDE, min(photograph.size) + 1))
    x, y = (int(random.integers(0, size - side + 1)) for size in photograph.size)
    return photograph.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (x, y, x + side, y + side), reducing_gap=2.0)


def changed(random: np.random.Generator, emoji: Image.Image) -> Image.Image:
    """Turned by up to 25 degrees, mirrored or not, scaled, and cut to what is not transparent."""
    turned = emoji.rotate(float(random.uniform(-25, 25)), Image.Resampling.BICUBIC, expand=True)
    turned = ImageOps.mirror(turned) if random.integers(2) else turned
    seen = turned.crop(turned.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox())
    scale = random.uniform(SMALLEST, LARGEST) / max(seen.size)
    return seen.resize(tuple(max(1, round(side * scale)) for side in seen.size), Image.Resampling.BILINEAR)


if __name__ == "__main__":
    main()
