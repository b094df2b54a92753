"""The stamps of Tux Paint (GPL-2): pictures with a sentence that says what they show -> stamps-train, -test.parquet.

    python recipes/data/stamps.py        # on Debian or Ubuntu, whose package tuxpaint-stamps-default holds them

Columns: `image`, a PNG of at most 96 pixels a side, what is transparent white, and `caption`, in English. Stamps whose
captions differ in nothing but digits and capitals are one row: there are alphabets and coins among them. A row's side is a
hash of its caption.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import fetch
import tables
from PIL import Image

SIDE = 96
FOLDER = "usr/share/tuxpaint/stamps"


def main() -> None:
    version, sha256 = "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
    pictures, said = (
        fetch.debian("tuxpaint-stamps-default", version, sha256, keep=f"{FOLDER}/*.{ending}")
        for ending in ("png", "txt")
    )
    rows = list(distinct(captioned(pictures / FOLDER, said / FOLDER)))
    for part, test in (("train", False), ("test", True)):
        found = [row for row in rows if tables.in_test(normal(str(row["caption"]))) == test]
        tables.write_parquet(f"stamps-{part}.parquet", found)


def captioned(pictures: Path, said: Path) -> Iterator[dict[str, object]]:
    """A row for each picture that has a caption of its own: its first line, those below it are other languages."""
    for text in sorted(said.rglob("*.txt")):
        picture = pictures / text.relative_to(said).with_suffix(".png")
        caption = text.read_text(encoding="utf-8").split("\n")[0].strip()
        if picture.is_file() and caption:
            yield {"image": smaller(picture.read_bytes()), "caption": caption}


def distinct(rows: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
    seen = set()
    for row in rows:
        if (key := normal(str(row["caption"]))) not in seen:
            seen.add(key)
            yield row


def normal(caption: str) -> str:
    """A caption without what tells members of a series apart."""
    return re.sub(r"[\W\d_]+", " ", caption.lower()).strip()


def smaller(data: bytes) -> bytes:
    picture = Image.open(io.BytesIO(data), formats=("PNG",)).convert("RGBA")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    square = Image.new("RGBA", (SIDE, SIDE), "white")  # all of one shape: a snake is long
    square.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    stream = io.BytesIO()
    square.convert("RGB").save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    main()
