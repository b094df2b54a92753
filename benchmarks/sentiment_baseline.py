"""What a sentiment model has to reach: TF-IDF of words and pairs of words, logistic regression, by scikit-learn.

    python recipes/data/sentiment.py && python benchmarks/sentiment_baseline.py

The strength of the regularization is chosen by cross-validation on the training rows, as a careful user would.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

PREPARED = Path(__file__).resolve().parents[1] / "recipes" / "data" / "prepared"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=PREPARED / "sentiment-train.csv")
    parser.add_argument("--test", type=Path, default=PREPARED / "sentiment-test.csv")
    parser.add_argument("--text", default="review", help="column of the text")
    parser.add_argument("--label", default="label", help="column of the class")
    arguments = parser.parse_args()
    train = read(arguments.train, arguments.text, arguments.label)
    test = read(arguments.test, arguments.text, arguments.label)
    print(json.dumps(accuracy(train, test)))


def read(path: Path, text: str, label: str) -> tuple[list[str], list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row[text] for row in rows], [row[label] for row in rows]


def accuracy(train: tuple[list[str], list[str]], test: tuple[list[str], list[str]]) -> dict[str, float]:
    """Accuracy on the test rows, with scikit-learn's default strength and with one chosen on the training rows."""
    default = pipeline().fit(*train)
    chosen = GridSearchCV(pipeline(), {"classify__C": [0.3, 1, 3, 10, 30, 100]}, cv=5).fit(*train)
    print(f"{len(train[0]):,} rows to train on, {len(test[0]):,} to test on; chosen: {chosen.best_params_}")
    return {
        "TF-IDF and logistic regression": default.score(*test),
        "the same, regularized as cross-validation says": chosen.score(*test),
    }


def pipeline() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return Pipeline([("words", words), ("classify", LogisticRegression(max_iter=1000))])


if __name__ == "__main__":
    main()
