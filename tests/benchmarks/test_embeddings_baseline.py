"""BM25 as the baseline of search: scores by its formula, and ranks as a pairing counts them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dougong.inference.neighbours import ranks as searched
from tests.scripts import ROOT, load

baseline = load("benchmarks/embeddings_baseline.py")
PASSAGES = ["a bridge of wood and wood", "a roof", "the roof of a bridge, of stone and of wood", "nothing at all"]


def by_hand(query: str, passage: str) -> float:
    """Robertson & Zaragoza 2009, word by word."""
    lengths = [len(baseline.words(each)) for each in PASSAGES]
    mean, length, total = sum(lengths) / len(lengths), len(baseline.words(passage)), 0.0
    for word in baseline.words(query):
        holding = sum(word in baseline.words(each) for each in PASSAGES)
        times = baseline.words(passage).count(word)
        rarity = math.log(1 + (len(PASSAGES) - holding + 0.5) / (holding + 0.5))
        total += rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))
    return total


@pytest.mark.parametrize("query", ["wood bridge", "Roof of stone", "wood wood", "unseen", ""])
def test_scores_are_those_of_the_formula(query: str) -> None:
    expected = [by_hand(query, passage) for passage in PASSAGES]
    assert baseline.BM25(PASSAGES).scores(query).tolist() == pytest.approx(expected)


def test_ranks_are_counted_as_the_metrics_of_a_pairing_count_them() -> None:
    """The same scores, as products of vectors, have the same ranks: repeated passages and queries, and ties."""
    queries = ["wood", "roof", "stone", "roof", "wood", "nothing here", "unseen"]
    passages = [PASSAGES[index] for index in (0, 1, 2, 2, 0, 3, 1)]
    index = baseline.BM25(list(dict.fromkeys(passages)))
    scores = np.stack([index.scores(query) for query in queries])  # (N, P)
    found = np.eye(scores.shape[1])[[list(dict.fromkeys(passages)).index(passage) for passage in passages]]
    hashes = np.array([[hash(pair[0]), hash(pair[1])] for pair in zip(queries, passages, strict=True)])
    assert baseline.ranks(queries, passages).tolist() == searched(scores, found, hashes).tolist()
    assert (
        baseline.ranks(queries, passages).tolist()[-1] == 4
    )  # a word that nobody has seen: all are equal, all go before


def test_the_figures_are_printed_last_and_the_recipe_asks_for_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"synopsis": query, "description": passage} for query, passage in zip(["wood", "roof"], PASSAGES, strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "benchmarks/embeddings_baseline.py", "--test", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"recall_10": 1.0, "recall_1": 1.0, "mrr": 1.0}
    assert max(found, key=lambda name: found[name]) == "recall_10"  # never below the other two
