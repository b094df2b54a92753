"""Sentences from product, film and restaurant reviews, each positive or negative -> sentiment{,-train,-test}.csv.

    python recipes/data/sentiment.py

Kotzias et al. 2015, "From Group to Individual Labels Using Deep Features", 3 x 1,000 sentences, CC BY 4.0; taken out
of the npm package `sentiment` 5.0.2, which tests itself with them. A sentence found twice falls on one side.
"""

from __future__ import annotations

import json

import fetch
import tables

SOURCES = ("amazon", "imdb", "yelp")
LABELS = {0: "negative", 1: "positive"}


def main() -> None:
    folder = fetch.npm(
        "sentiment",
        "5.0.2",
        "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f",
        keep="package/test/fixtures/*.json",
    )
    rows = []
    for source in SOURCES:
        for entry in json.loads((folder / "package/test/fixtures" / f"{source}.json").read_bytes()):
            if entry["class"] is None:  # each file ends with one empty entry
                continue
            rows.append((entry["text"].strip(), LABELS[entry["class"]]))
    tables.split_csv("sentiment", ("review", "label"), rows, key=lambda row: row[0])


if __name__ == "__main__":
    main()
