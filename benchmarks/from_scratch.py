"""What a recipe that begins with another run's weights has to beat: itself, from scratch.

    python benchmarks/from_scratch.py recipes/masked-lm-classification.yaml

Everything else stays, the tokenizer too: the run NAME-from-scratch differs in `model.init` alone. Printed last is the
metric that the recipe's header names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import dougong
from dougong import recipe as recipes
from dougong.core.errors import bad_field


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    path = parser.parse_args().recipe
    print(json.dumps({"from scratch": from_scratch(path, metric_of(path))}))


def metric_of(path: Path) -> str:
    found = re.search(r"^# asks: +(\S+)", path.read_text(encoding="utf-8"), re.M)
    if found is None:
        raise SystemExit(f"{path}: write '# asks: output.metric >= baseline' into its header")
    return found[1]


def from_scratch(path: Path, metric: str) -> float:
    """The metric on the held-out rows of the recipe's model, all of whose weights begin anew."""
    recipe = recipes.load(path)
    if recipe.model.init is None:
        raise bad_field("model.init", None, "a run that the recipe begins with", "name a recipe that has one")
    anew = dataclasses.replace(
        recipe, name=f"{recipe.name}-from-scratch", model=dataclasses.replace(recipe.model, init=None)
    )
    run = dougong.train(anew.resolved(), fresh=True)  # resolved: `tokenizer: init` is a file there
    measured = next(iter(run.metrics().values()))
    return float(measured[metric]["value"])


if __name__ == "__main__":
    main()
