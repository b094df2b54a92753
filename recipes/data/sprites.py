"""The units of the game Battle for Wesnoth as they act -> sprites-{train,test}.parquet.

    python recipes/data/sprites.py       # fetches 50 MB, out of which it keeps the pictures of units

Out of Debian's package wesnoth-1.16-data (GPL-2: fetched, never shipped): `units/…/NAME-ACTION-1.png`, `…-2.png` and so on
are the frames of a clip, each put in the middle of a white field of 96 x 96 pixels. Its label is the last word of the name that
ACTIONS knows; a clip without any is left out and counted.
Split by unit: what begins with the same word, such as all mages called white, stands on one side. Columns: `clip`, the
frames as PNG files, `action`, `unit`.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import fetch
import pyarrow as pa
import pyarrow.parquet as pq
import tables
import wesnoth
from PIL import Image

ACTIONS = {
    "attack": (
        "attack",
        "melee",
        "sword",
        "staff",
        "blade",
        "spear",
        "pierce",
        "impact",
        "kick",
        "mace",
        "axe",
        "hammer",
    ),
    "shoot": ("ranged", "bow", "throw", "javelin", "crossbow", "fire"),
    "magic": ("magic", "lightning", "halo", "teleport"),
    "defend": ("defend",),
    "die": ("die", "dying", "death"),
    "idle": ("idle", "bob", "stand", "standing"),
    "fly": ("fly", "flying", "takeoff"),
}
SIDE = 96
WORDS = {word: action for action, words in ACTIONS.items() for word in words}


def main() -> None:
    folder = fetch.debian("wesnoth-1.16-data", wesnoth.VERSION, wesnoth.PACKAGES["data"], keep="*/images/units/*.png")
    files = {str(path).partition("/images/units/")[2]: path for path in folder.rglob("*.png")}
    rows, left_out = clips(files)
    print(f"{len(rows)} clips; left out: {left_out} that say no action")
    for split, test in (("train", False), ("test", True)):
        write(
            f"sprites-{split}.parquet", [row for row in rows if tables.in_test(row["unit"], share=0.25) == test], files
        )


def clips(names: Iterable[str]) -> tuple[list[dict[str, object]], int]:
    """The clips that file names tell of, in order, and how many say no action. A clip has two frames or more."""
    frames: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name in sorted(names):
        if found := re.fullmatch(r"(.+)-(\d+)\.png", name):
            frames[found[1]][int(found[2])] = name
    rows = []
    left_out = 0
    for clip, numbered in frames.items():
        words = clip.rpartition("/")[2].split("-")
        action = next((WORDS[word] for word in reversed(words) if word in WORDS), None)
        left_out += action is None
        if action and len(numbered) > 1:
            unit = f"{clip.partition('/')[0]}/{words[0].partition('+')[0]}"
            rows.append({"frames": [numbered[key] for key in sorted(numbered)], "action": action, "unit": unit})
    return rows, left_out


def write(name: str, rows: list[dict[str, object]], files: dict[str, Path]) -> None:
    pictures = [[framed(files[frame]) for frame in row["frames"]] for row in rows]
    table = {
        "clip": pa.array(pictures, pa.list_(pa.binary())),
        "action": pa.array([row["action"] for row in rows]),
        "unit": pa.array([row["unit"] for row in rows]),
    }
    with tables.writing(name) as path:
        pq.write_table(pa.table(table), path)
    tables.tell(name, len(rows))


def framed(path: Path) -> bytes:
    """A picture in the middle of the field, at its own scale; what stands out of it is cut off."""
    with Image.open(path) as picture:
        field = Image.new("RGB", (SIDE, SIDE), "white")
        unit = picture.convert("RGBA")
        field.paste(unit, ((SIDE - unit.width) // 2, (SIDE - unit.height) // 2), unit)
    stream = io.BytesIO()
    field.save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    main()
