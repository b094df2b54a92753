"""Emoji as Google draws them (Apache-2.0) -> emoji-train, -test.parquet, and emoji-plain-train, -test without skin tones.

    python recipes/data/emoji.py

Columns: `image`, a PNG of 64 x 64 pixels; `name`, as Unicode has it, with the skin tone; `category`, one of nine; `version`,
in which it was added; `code`, its first code point, and `codes`, how many it has. All skin tones of an emoji stand on one
side: which, is a hash of its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fetch
import tables

TONES = {
    "1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"
}  # fmt: skip


def main() -> None:
    package = ("emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438")
    told = json.loads((fetch.npm(*package, keep="package/emoji.json") / "package/emoji.json").read_text("utf-8"))
    pictures = fetch.npm(*package, keep="package/img/google/64/*.png") / "package/img/google/64"
    found = [
        (emoji["name"], row) for emoji in told if emoji["category"] != "Component" for row in rows(emoji, pictures)
    ]
    plain = [(base, row) for base, row in found if "skin tone" not in str(row["name"])]
    for stem, kept in (("emoji", found), ("emoji-plain", plain)):
        for part, test in (("train", False), ("test", True)):
            tables.write_parquet(f"{stem}-{part}.parquet", [row for base, row in kept if tables.in_test(base) == test])


def rows(emoji: dict[str, object], pictures: Path) -> Iterator[dict[str, object]]:
    """A row for an emoji, and one for each of its skin tones."""
    variations = emoji.get("skin_variations")
    kinds = {"": emoji} | (variations if isinstance(variations, dict) else {})
    for tones, kind in kinds.items():
        codes = str(kind["unified"]).split("-")
        picture = pictures / str(kind["image"])
        if picture.is_file():
            yield {
                "image": picture.read_bytes(),
                "name": named(str(emoji["name"]), tones),
                "category": str(emoji["category"]),
                "version": float(str(kind["added_in"])),
                "code": float(int(codes[0], 16)),
                "codes": float(len(codes)),
            }


def named(name: str, tones: str) -> str:
    """`WOMAN SURFING`, `1F3FF` -> `woman surfing: dark skin tone`."""
    said = [TONES[tone] for tone in tones.split("-") if tone]
    return name.lower() + (f": {' and '.join(said)} skin tone" if said else "")


if __name__ == "__main__":
    main()
