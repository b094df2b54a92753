"""MovieLens-100k (Harper and Konstan 2015, doi:10.1145/2827872): what 943 people rated, in the order of time.

    python recipes/data/movielens.py

Whoever rated a film chose it, whatever the stars. Rows are users: `user`, `history` (the films before, oldest first), `item`
(the next one) and `timestamp`, of that. Of films: movielens-items.jsonl, `item`, `title`, `year`, `genres`.

movielens-{train,validation,test}.jsonl     leave one out: of each user the last film tests, the one before it validates;
                                            what training sees ends before both
movielens-cold-{train,validation,test}.jsonl    a fifth of the films, by a hash, is known to no training row: of each user the
                                            last of these tests; of another tenth the last validates; histories hold none of them

As recbole ships it. GroupLens allows research and no redistribution: fetched, never shipped.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

import fetch
import tables

Choice = tuple[float, str]  # when, what
Row = dict[str, object]
FEWEST = 5  # films that somebody must have rated
COLD, HELD = 0.2, 0.1  # shares of the films that test, and that validate


def main() -> None:
    folder = fetch.pypi(
        "recbole",
        "1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        keep="recbole/dataset_example/ml-100k/*",
    )
    folder = folder / "recbole/dataset_example/ml-100k"
    films = list(map(film, read(folder / "ml-100k.item")))
    tables.write_jsonl("movielens-items.jsonl", films)
    chosen = histories(read(folder / "ml-100k.inter"))
    for name, rows in leave_one_out(chosen).items():
        tables.write_jsonl(f"movielens-{name}.jsonl", rows)
    for name, rows in cold(chosen, [str(each["item"]) for each in films]).items():
        tables.write_jsonl(f"movielens-cold-{name}.jsonl", rows)


def read(path: Path) -> list[dict[str, str]]:
    """A file of recbole: columns are called name:type."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{name.split(":")[0]: value for name, value in row.items()} for row in rows]


def film(row: dict[str, str]) -> Row:
    known = {"title": row["movie_title"], "year": row["release_year"], "genres": row["class"].split()}
    return {"item": row["item_id"], **{name: value or None for name, value in known.items()}}


def histories(rows: Iterable[dict[str, str]]) -> dict[str, list[Choice]]:
    """What each user chose, in the order of time; what has the same second in that of the file."""
    chosen: dict[str, list[Choice]] = defaultdict(list)
    for row in rows:
        chosen[row["user_id"]].append((float(row["timestamp"]), row["item_id"]))
    return {user: sorted(found, key=lambda each: each[0]) for user, found in chosen.items() if len(found) >= FEWEST}


def leave_one_out(chosen: dict[str, list[Choice]]) -> dict[str, list[Row]]:
    ends = {"train": -3, "validation": -2, "test": -1}
    return {name: [row(user, found[:end], found[end]) for user, found in chosen.items()] for name, end in ends.items()}


def cold(chosen: dict[str, list[Choice]], films: Collection[str]) -> dict[str, list[Row]]:
    place = {item: tables.place(f"film {item}") for item in films}
    sides = {
        "test": {item for item in films if place[item] < COLD},
        "validation": {item for item in films if COLD <= place[item] < COLD + HELD},
    }
    new = sides["test"] | sides["validation"]
    rows: dict[str, list[Row]] = {"train": []}
    for user, found in chosen.items():
        warm = [each for each in found if each[1] not in new]
        if len(warm) >= FEWEST:
            rows["train"].append(row(user, warm[:-1], warm[-1]))
    for name, side in sides.items():
        last = {user: [each for each in found if each[1] in side][-1:] for user, found in chosen.items()}
        rows[name] = [
            row(user, [each for each in chosen[user] if each[0] <= time and each[1] not in new], (time, item))
            for user, ending in last.items()
            for time, item in ending
        ]
    return rows


def row(user: str, before: Iterable[Choice], choice: Choice) -> Row:
    return {"user": user, "history": [item for _, item in before], "item": choice[1], "timestamp": int(choice[0])}


if __name__ == "__main__":
    main()
