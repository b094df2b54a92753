"""What a tagger has to beat: each word's most frequent tag. Accuracy on the test sentences of the People's Daily.

    python recipes/data/peoples_daily.py && python benchmarks/tags_baseline.py

A word that the training sentences do not hold gets the tag that is most frequent among those that they hold once.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

PREPARED = Path(__file__).resolve().parents[1] / "recipes" / "data" / "prepared"
Rows = list[dict[str, list[str]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=PREPARED / "peoples-daily-train.jsonl")
    parser.add_argument("--test", type=Path, default=PREPARED / "peoples-daily-test.jsonl")
    arguments = parser.parse_args()
    print(json.dumps({"accuracy of the most frequent tag": accuracy(read(arguments.train), read(arguments.test))}))


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def accuracy(train: Rows, test: Rows) -> float:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word, tag in zip(row["words"], row["tags"], strict=True):
            counts[word][tag] += 1
    usual = {word: found.most_common(1)[0][0] for word, found in counts.items()}
    once = Counter(usual[word] for word, found in counts.items() if found.total() == 1)
    rare = once.most_common(1)[0][0] if once else ""
    right = [usual.get(word, rare) == tag for row in test for word, tag in zip(row["words"], row["tags"], strict=True)]
    return sum(right) / len(right)


if __name__ == "__main__":
    main()
