"""Clip art (Open Clip Art, public domain) and emoji (Apache-2.0), each with its name -> pictures.parquet.

    python recipes/data/clipart.py       # on Debian or Ubuntu, whose package openclipart-png holds them

Columns: `image`, a PNG of 96 x 96 pixels, what is transparent white, and `caption`: of clip art the last folder that it stands
in and the words of its file's name (some name their artist, too), of emoji the name that Unicode gives it. Icons, buttons, stars
and colour gradients are left out. Nothing of it is a stamp of recipes/data/stamps.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import emoji_tones
import fetch
import stamps
import tables

FOLDER = "usr/share/openclipart/png"
LEFT_OUT = {"computer", "shapes", "special", "buttons", "logos"}
MAX_BYTES = 100_000  # of a file: some are of 600 million pixels


def main() -> None:
    version, sha256 = "1:0.18+dfsg-19", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02"
    art = fetch.debian("openclipart-png", version, sha256, keep=f"{FOLDER}/*.png") / FOLDER
    drawn = [row for rows in emoji_tones.bases().values() for row in rows if ":" not in str(row["name"])]
    named = [{"image": stamps.smaller(row["image"]), "caption": str(row["name"])} for row in drawn]
    tables.write_parquet("pictures.parquet", [*clips(art), *named])


def clips(folder: Path) -> Iterator[dict[str, object]]:
    """`food/fruit/lemon1.png` -> `fruit: lemon`."""
    for path in sorted(folder.rglob("*.png")):
        place = path.relative_to(folder)
        if place.parts[0] not in LEFT_OUT and path.stat().st_size <= MAX_BYTES:
            words = re.sub(r"[\W\d_]+", " ", place.stem).strip()
            yield {
                "image": stamps.smaller(path.read_bytes()),
                "caption": f"{place.parent.name.replace('_', ' ')}: {words}",
            }


if __name__ == "__main__":
    main()
