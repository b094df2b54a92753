"""What a recipe for a table has to reach: histogram gradient boosting (scikit-learn) on the same rows.

    python benchmarks/tabular_baseline.py recipes/tabular-votes.yaml

It reads the recipe's columns as their types say: numbers with their missing values, categories as categories, dates as
year, month, day, day of the year, weekday and hour. Its settings are chosen from a small grid by cross-validation on the
training rows, as a careful user would; so is whether it learns a number or its logarithm. It prints its R² of the first output
that is a number, or its accuracy of the first that is a category (`--output NAME` names another).
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import GridSearchCV, KFold

from dougong import recipe as recipes
from dougong.data import cleaning, dates

GRID = {"learning_rate": [0.03, 0.1], "max_leaf_nodes": [7, 15, 31]}
MOST = 10_000  # training rows that settings are compared on; those chosen then learn from all
EARLY = {"max_iter": 1000, "early_stopping": True, "n_iter_no_change": 20, "random_state": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--output", help="which output is told; the first unless said")
    arguments = parser.parse_args()
    print(json.dumps(scores(recipes.load(arguments.recipe), arguments.output)))


def scores(recipe: Any, output: str | None = None) -> dict[str, float]:
    """R² or accuracy on the test rows, with the default settings and with those that cross-validation chose."""
    name = output or next(iter(recipe.outputs))
    told = recipe.outputs[name]
    number = told.type == "number"
    known = [path for path in (recipe.data.train, recipe.data.validation) if path]
    train, test = (rows_with(read(paths), told.column or name) for paths in (known, [recipe.data.test]))
    columns = [
        each for field, config in recipe.inputs.items() for each in columns_of(config, config.column or field, train)
    ]
    X_train, X_test = (np.array([[of(row) for of in columns] for row in rows], dtype=float) for rows in (train, test))
    y_train, y_test = ([row[told.column or name] for row in rows] for rows in (train, test))
    if number:
        y_train, y_test = ([float(value) for value in values] for values in (y_train, y_test))
    categories = [getattr(of, "classes", 0) > 0 for of in columns]
    default = model(number, False, categories).fit(X_train, y_train)
    few = np.random.default_rng(0).permutation(len(X_train))[:MOST]
    ways = {False, number and min(y_train) > 0}
    tried = [(log, chosen(number, log, categories, X_train[few], [y_train[row] for row in few])) for log in ways]
    log, found = max(tried, key=lambda each: each[1].best_score_)
    best_settings = {name.removeprefix("regressor__"): value for name, value in found.best_params_.items()}
    print(f"{len(train):,} rows to train on, {len(test):,} to test on; chosen: {best_settings | {'log': log}}")
    best = model(number, log, categories, **EARLY, **best_settings).fit(X_train, y_train)
    return {
        "histogram gradient boosting": default.score(X_test, y_test),
        "the same, settings chosen by cross-validation": best.score(X_test, y_test),
    }


def model(number: bool, log: bool, categories: list[bool], **settings: Any) -> BaseEstimator:
    kind = HistGradientBoostingRegressor if number else HistGradientBoostingClassifier
    found = kind(categorical_features=categories, **{"random_state": 0, **settings})
    return TransformedTargetRegressor(found, func=np.log, inverse_func=np.exp) if log else found


def chosen(number: bool, log: bool, categories: list[bool], X: Any, y: Any) -> GridSearchCV:
    grid = {f"regressor__{key}" if log else key: values for key, values in GRID.items()}
    folds = KFold(3, shuffle=True, random_state=0)
    return GridSearchCV(model(number, log, categories, **EARLY), grid, cv=folds, refit=False).fit(X, y)


def read(paths: list[str]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for path in paths:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    return rows


def rows_with(rows: list[dict[str, str]], column: str) -> list[dict[str, str]]:
    """Those that have an answer."""
    return [row for row in rows if row[column]]


def columns_of(config: Any, name: str, train: list[dict[str, str]]) -> Iterator[Callable[[dict[str, str]], float]]:
    """What one input is to the trees: functions of a row."""
    if config.type == "number":
        yield lambda row: np.nan if (value := cleaning.to_number(row[name])) is None else value
    elif config.type == "category":
        index = {value: place for place, value in enumerate(sorted({row[name] for row in train if row[name]}))}

        def category(row: dict[str, str]) -> float:
            return index.get(row[name], np.nan)

        category.classes = len(index)  # type: ignore[attr-defined]
        yield category
    elif config.type == "date":
        parts = ("year", "month", "day", "hour")
        for of in [*map(attrgetter, parts), datetime.weekday, day_of_year]:
            yield lambda row, of=of: of(moment(row[name], config.order)) if row[name] else np.nan  # type: ignore[misc]
    else:
        raise SystemExit(f"inputs.{name}: a {config.type} is nothing that trees can look at")


def moment(value: str, order: str) -> datetime:
    day_first, month_first = dates.ways(str(dates.read(value)))
    return datetime.fromisoformat(str(month_first if order == "mdy" else day_first))


def day_of_year(moment: datetime) -> float:
    return moment.timetuple().tm_yday


if __name__ == "__main__":
    main()
