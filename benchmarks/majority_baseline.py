"""What one gets who always says the most frequent class of the training rows: the share of the test rows that are of it.

python benchmarks/majority_baseline.py recipes/video-sprites.yaml     # {"majority": 0.33}
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from dougong import recipe as recipes
from dougong.data import sources


def main(path: Path) -> None:
    recipe = recipes.load(path)
    (column,) = (config.column or name for name, config in recipe.outputs.items() if config.type == "category")
    train, test = ([row.values[column] for row in rows(file)] for file in (recipe.data.train, recipe.data.test))
    print(json.dumps({"majority": majority(train, test)}))


def rows(files: str | list[str]) -> list[sources.Row]:
    found = sources.find_files(files, Path.cwd())
    return [row for file in found for row in sources.read_rows(file) if isinstance(row, sources.Row)]


def majority(train: list[str], test: list[str]) -> float:
    """Of equally frequent classes the first by name."""
    counts = Counter(train)
    most = min(counts, key=lambda name: (-counts[name], name))
    return test.count(most) / len(test)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
