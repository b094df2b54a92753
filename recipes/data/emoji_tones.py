"""Emoji as Google draws them (Apache-2.0) -> emoji-tones-train.parquet, emoji-tones-test.parquet: combinations held out.

    python recipes/data/emoji_tones.py

Columns: `image`, a PNG of 64 x 64 pixels, and `name`, as Unicode has it, with the skin tone. Of each emoji that comes in skin
tones one of five of its tones (of two people's: one of five pairs) stands in the test rows: which, is a hash of its name. So of
each name in the test rows both halves are known, the emoji from its other tones, the tone from other emoji; not both
together.
"""

from __future__ import annotations

import json
from collections import defaultdict

import emoji
import fetch
import tables

HELD_OUT = 5  # one of so many


def main() -> None:
    package = ("emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438")
    told = json.loads((fetch.npm(*package, keep="package/emoji.json") / "package/emoji.json").read_text("utf-8"))
    pictures = fetch.npm(*package, keep="package/img/google/64/*.png") / "package/img/google/64"
    bases = {
        str(each["name"]): [{"image": row["image"], "name": str(row["name"])} for row in emoji.rows(each, pictures)]
        for each in told
        if each["category"] != "Component"
    }
    train, test = split(bases)
    tables.write_parquet("emoji-tones-train.parquet", train)
    tables.write_parquet("emoji-tones-test.parquet", test)


def split(bases: dict[str, list[dict[str, object]]]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Training and test rows; a test row's emoji and its tone both stand in training rows."""
    sides: dict[bool, list[dict[str, object]]] = defaultdict(list)
    for rows in bases.values():
        toned = sorted((row for row in rows if ":" in str(row["name"])), key=lambda row: tables.place(str(row["name"])))
        held_out = {str(row["name"]) for row in toned[: len(toned) // HELD_OUT]}
        for row in rows:
            sides[str(row["name"]) in held_out].append(row)
    return sides[False], sides[True]


if __name__ == "__main__":
    main()
