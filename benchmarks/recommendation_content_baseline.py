"""What is known of films that nobody has chosen yet, without learning: chance, how popular their genres are, the user's genres.

    python recipes/data/movielens.py && python benchmarks/recommendation_content_baseline.py

Ranked are all films that no training row holds. Of each the popularity of its genres is the mean, over them, of how often a
film of that genre was chosen in the training rows; the user's taste is the cosine between its genres and those of all films
in the history, each genre weighed by how rare it is. Of equal scores the right one comes last, as in our own metrics; films
of the same genres are many.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

PREPARED = Path(__file__).resolve().parents[1] / "recipes" / "data" / "prepared"
Rows = list[dict[str, Any]]
Genres = dict[str, list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test")
    split = parser.parse_args().split
    genres: Genres = {row["item"]: row["genres"] or [] for row in read("movielens-items.jsonl")}
    print(json.dumps(baselines(genres, read("movielens-cold-train.jsonl"), read(f"movielens-cold-{split}.jsonl"))))


def read(name: str) -> Rows:
    with (PREPARED / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def baselines(genres: Genres, train: Rows, rows: Rows) -> dict[str, float]:
    """hit_rate_10 of each."""
    often = Counter(item for row in train for item in [*row["history"], row["item"]])
    new = [item for item in genres if item not in often]
    liked = by_genre(genres, often)
    popular = {item: sum(liked[genre] for genre in genres[item]) / max(len(genres[item]), 1) for item in new}
    rare = {
        genre: math.log(len(genres) / count)
        for genre, count in Counter(g for each in genres.values() for g in each).items()
    }
    by_taste = (rank({item: fits(genres, row["history"], item, rare) for item in new}, row["item"]) for row in rows)
    return {
        "chance": 10 / len(new),
        "popularity of the genres": hits(rank(popular, row["item"]) for row in rows),
        "the user's genres": hits(by_taste),
    }


def by_genre(genres: Genres, often: Counter[str]) -> dict[str, float]:
    """How often a film of each genre was chosen, in the mean."""
    found: dict[str, list[int]] = defaultdict(list)
    for item, count in often.items():
        for genre in genres[item]:
            found[genre].append(count)
    return defaultdict(float, {genre: sum(counts) / len(counts) for genre, counts in found.items()})


def fits(genres: Genres, history: list[str], item: str, rare: dict[str, float]) -> float:
    """The cosine between a film's genres and those of a history."""
    taste = Counter(genre for each in history for genre in genres[each])
    product = sum(taste[genre] * rare[genre] ** 2 for genre in genres[item])
    length = math.sqrt(sum(rare[genre] ** 2 for genre in genres[item]))
    return product / length if length else 0.0


def rank(scores: dict[str, float], right: str) -> int:
    return sum(score >= scores[right] for score in scores.values())


def hits(ranks: Any) -> float:
    found = list(ranks)
    return sum(place <= 10 for place in found) / len(found)


if __name__ == "__main__":
    main()
