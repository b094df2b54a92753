"""Which of the sanity neighbours, chosen before anything was trained, a run's vectors of words hold.

python benchmarks/word_neighbours.py word-vectors      # after dougong train recipes/word-vectors.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dougong

CHOSEN = Path(__file__).parents[1] / "recipes" / "word-vectors-neighbours.txt"
TOP = 10


def chosen(text: str) -> dict[str, set[str]]:
    """Word -> the words of which one must be near it."""
    lines = (line.partition(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {word: set(others.replace(",", " ").split()) for word, _, others in lines}


def holding(run: str, wanted: dict[str, set[str]]) -> dict[str, tuple[list[str], bool]]:
    """Word -> the TOP words that are nearest to it, and whether one of those wanted is among them."""
    answers = dougong.predict(run, list(wanted), top=TOP)
    near = [[str(each["value"]) for each in next(iter(answer.values()))["nearest"]] for answer in answers]
    return {word: (found, not wanted[word].isdisjoint(found)) for word, found in zip(wanted, near, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="word-vectors")
    found = holding(parser.parse_args().run, chosen(CHOSEN.read_text(encoding="utf-8")))
    for word, (near, holds) in found.items():
        print(f"{'holds' if holds else 'fails'}  {word}: {', '.join(near)}")
    print(f"{sum(holds for _, holds in found.values())} of {len(found)} hold")


if __name__ == "__main__":
    main()
