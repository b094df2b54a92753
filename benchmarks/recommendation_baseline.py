"""What a recommender has to reach on the same split: popularity, and ALS and BPR by `implicit`, in an environment of its own.

    benchmarks/setup.sh && python recipes/data/movielens.py && python benchmarks/recommendation_baseline.py

ALS: Hu, Koren and Volinsky 2008; BPR: Rendle et al. 2009 (arXiv:1205.2618); implicit 0.7, Ben Frederickson. Factors,
regularization and the rest are chosen on the validation items, as a careful user would; then all that comes before the
test item is learnt, also the validation item, which our model only reads. Ranks as ours are: among all items that the
training rows hold and the history does not; an item that no row holds is never found.

Reached, NDCG@10 of a full ranking (2026-11-29): popularity 0.0439, ALS 0.0747 (64 factors, regularization 10, alpha 1), BPR 0.0650.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

PREPARED = Path(__file__).resolve().parents[1] / "recipes" / "data" / "prepared"
OWN = Path(__file__).resolve().parent / ".venv-implicit" / "bin" / "python"
Rows = list[dict[str, Any]]
SETTINGS = {
    "ALS": {"factors": [32, 64, 128], "regularization": [3.0, 10.0, 30.0], "alpha": [1.0, 3.0], "iterations": [15]},
    "BPR": {
        "factors": [64, 128],
        "regularization": [0.02, 0.05, 0.1],
        "learning_rate": [0.01, 0.03],
        "iterations": [300],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="ndcg_10", help="ndcg_10 or hit_rate_10, of a full ranking")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:  # implicit brings its own numpy and scipy
        if not OWN.exists():
            raise SystemExit(f"{OWN} is not there. Fix: benchmarks/setup.sh")
        command = [str(OWN), __file__, "--inside", "--metric", arguments.metric]
        raise SystemExit(subprocess.run(command).returncode)
    train, validation, test = (read(f"movielens-{name}.jsonl") for name in ("train", "validation", "test"))
    found = {"popularity": mean(popularity(test), arguments.metric)}
    for name, settings in SETTINGS.items():
        tried = [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
        best = max(tried, key=lambda each: mean(ranks(name, each, validation), "ndcg_10"))
        seeds = [mean(ranks(name, best, test, seed), arguments.metric) for seed in range(3)]
        print(f"{name}: {best}; {arguments.metric} of three seeds {', '.join(f'{seed:.4f}' for seed in seeds)}")
        found[f"implicit {name}"] = sum(seeds) / len(seeds)
    assert len(train) == len(test)
    print(json.dumps(found))


def read(name: str) -> Rows:
    with (PREPARED / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def popularity(rows: Rows) -> list[int]:
    """The place of each row's item among all, by how many histories hold it."""
    often = Counter(item for row in rows for item in row["history"])
    return [
        1 + sum(often[each] >= often[row["item"]] for each in often.keys() - set(row["history"]) - {row["item"]})
        if row["item"] in often
        else 0
        for row in rows
    ]


def ranks(name: str, settings: dict[str, Any], rows: Rows, seed: int = 0) -> list[int]:
    """The place of each row's item by what was learnt of all histories; 0 where none holds it."""
    import implicit
    import numpy as np
    import scipy.sparse

    items = {item: number for number, item in enumerate(sorted({item for row in rows for item in row["history"]}))}
    pairs = np.array([(user, items[item]) for user, row in enumerate(rows) for item in row["history"]])
    chosen = scipy.sparse.csr_matrix((np.ones(len(pairs), np.float32), pairs.T), (len(rows), len(items)))
    kind = {"ALS": implicit.als.AlternatingLeastSquares, "BPR": implicit.bpr.BayesianPersonalizedRanking}[name]
    model = kind(**settings, random_state=seed, num_threads=1)
    model.fit(chosen, show_progress=False)
    scores = model.user_factors @ model.item_factors.T  # (users, items)
    result = []
    for user, row in enumerate(rows):
        if row["item"] not in items:
            result.append(0)
            continue
        right = scores[user, items[row["item"]]]
        rivals = np.delete(scores[user], [items[item] for item in row["history"]] + [items[row["item"]]])
        result.append(1 + int((rivals >= right).sum()))
    return result


def mean(places: list[int], metric: str) -> float:
    worth = {"ndcg_10": lambda place: 1 / math.log2(1 + place), "hit_rate_10": lambda place: 1.0}[metric]
    return sum(worth(place) for place in places if 0 < place <= 10) / len(places)


if __name__ == "__main__":
    sys.exit(main())
