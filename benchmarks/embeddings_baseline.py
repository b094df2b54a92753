"""What search by embeddings has to reach: BM25 over the words of the passages (Robertson & Zaragoza 2009).

    python recipes/data/descriptions.py && python benchmarks/embeddings_baseline.py

k1 = 1.2 and b = 0.75, as is usual. Searched is as `recall_1`, `recall_10` and `mrr` of a pairing search: each query among
the different passages of the whole file, each once; a passage that stands beside an equal query is right as well, the best
of the right ones counts, and a wrong one with an equal score goes before it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PREPARED = Path(__file__).resolve().parents[1] / "recipes" / "data" / "prepared"
K1, B = 1.2, 0.75
WORDS = re.compile(r"\w+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", type=Path, default=PREPARED / "descriptions-test.jsonl")
    parser.add_argument("--query", default="synopsis", help="column of what is asked")
    parser.add_argument("--passage", default="description", help="column of what is looked through")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.test.read_text(encoding="utf-8").splitlines()]
    print(json.dumps(figures([row[arguments.query] for row in rows], [row[arguments.passage] for row in rows])))


def figures(queries: Sequence[str], passages: Sequence[str]) -> dict[str, float]:
    rank = ranks(queries, passages)
    return {
        "recall_10": float((rank <= 10).mean()),
        "recall_1": float((rank <= 1).mean()),
        "mrr": float((1 / rank).mean()),
    }


def ranks(queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
    """At which place, from 1, each query finds the passage of its row."""
    places = {passage: place for place, passage in enumerate(dict.fromkeys(passages))}  # each once
    right = defaultdict(set)
    for query, passage in zip(queries, passages, strict=True):
        right[query].add(places[passage])
    index = BM25(list(places))
    result = []
    for query in queries:
        scores = index.scores(query)
        answers = sorted(right[query])
        best = scores[answers].max()
        scores[answers] = -math.inf
        result.append(1 + int((scores >= best).sum()))
    return np.array(result)


class BM25:
    """How well passages answer a query: for each of its words idf · tf (k1 + 1) / (tf + k1 (1 − b + b · length / mean))."""

    def __init__(self, passages: Sequence[str]):
        counts = [Counter(words(passage)) for passage in passages]
        self.lengths = np.array([count.total() for count in counts], dtype=np.float64)
        self.norm = K1 * (1 - B + B * self.lengths / max(self.lengths.mean(), 1.0))  # (P,)
        postings = defaultdict(list)
        for place, count in enumerate(counts):
            for word, times in count.items():
                postings[word].append((place, times))
        self.postings = {word: tuple(map(np.array, zip(*held, strict=True))) for word, held in postings.items()}

    def scores(self, query: str) -> np.ndarray:  # (P,)
        result = np.zeros(len(self.lengths))
        for word in words(query):
            if word in self.postings:
                places, times = self.postings[word]
                idf = math.log(1 + (len(self.lengths) - len(places) + 0.5) / (len(places) + 0.5))
                result[places] += idf * times * (K1 + 1) / (times + self.norm[places])
        return result


def words(text: str) -> list[str]:
    return WORDS.findall(text.lower())


if __name__ == "__main__":
    main()
