"""Tags: a row is a text, prediction and target {"tags": N rows of class numbers, one a word}.

Named entities are judged whole, as by conlleval (Tjong Kim Sang and De Meulder 2003): an entity counts as found where its
first word, its last and its type are right. A word that was not read has no prediction, and is wrong; class -1 is a tag
that training never saw: always wrong, and each run of them is an entity that nobody finds.
"""

# N rows, C classes

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dougong.data.columns import Columns, Ragged
from dougong.metrics.metric import Metric, mean_of_defined, ratio

OUTSIDE = "O"
UNSEEN = "?"
Entity = tuple[int, int, str]
"""First word, the word behind the last, type."""


def is_bio(classes: Sequence[str]) -> bool:
    """Whether the tags mark entities: B-TYPE where one begins, I-TYPE within, O outside."""
    marks = [name for name in classes if name != OUTSIDE]
    return bool(marks) and all(name[:2] in ("B-", "I-") and name[2:] for name in marks)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags mark. I- after O or after another type begins one, too, as conlleval reads it."""
    found: list[Entity] = []
    start, kind = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, of = tag.partition("-") if tag != OUTSIDE else (OUTSIDE, "", "")
        if kind and (mark != "I" or of != kind):
            found.append((start, place, kind))
            kind = ""
        if not kind and mark != OUTSIDE:
            start, kind = place, of
    return found


class EntityF1(Metric):
    """F1, precision or recall of whole entities, over all rows at once."""

    share = True

    def __init__(self, classes: Sequence[str], name: Literal["f1", "precision", "recall"] = "f1"):
        self.name, self.names = name, [*classes, f"I-{UNSEEN}"]  # the last is that of -1, too

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        rows = []
        for predicted, actual in pairs(prediction, target):
            found = {*entities([self.names[tag] for tag in predicted])}
            right = {*entities([self.names[tag] for tag in actual])}
            rows.append([len(found & right), len(found), len(right)])
        return np.array(rows, dtype=np.float64).reshape(-1, 3)  # (N, 3)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, found, right = np.moveaxis(sums, -1, 0)
        over = {"precision": found, "recall": right, "f1": (found + right) / 2}[self.name]
        return ratio(hits, over)


class TagAccuracy(Metric):
    """Share of words with the right tag."""

    name = "accuracy"
    share = True

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        rows = [(agree(predicted, actual).sum(), len(actual)) for predicted, actual in pairs(prediction, target)]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)  # (N, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class TagF1(Metric):
    """F1 of each tag, averaged alike over the tags that stand in the targets or in the predictions."""

    name = "f1_macro"
    share = True

    def __init__(self, classes: int):
        self.classes = classes

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        rows = []
        for predicted, actual in pairs(prediction, target):
            hits = predicted[agree(predicted, actual[: len(predicted)])]
            rows.append([np.bincount(tags, minlength=self.classes) for tags in (hits, predicted, actual[actual >= 0])])
        return np.array(rows, dtype=np.float64).reshape(-1, 3 * self.classes)  # (N, 3 C)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, found, right = np.split(sums, 3, axis=-1)  # (..., C) each
        return mean_of_defined(ratio(2 * hits, found + right))


def pairs(prediction: Columns, target: Columns) -> list[tuple[np.ndarray, np.ndarray]]:
    """The tags of each row: those predicted, as far as the text was read, and those that are right."""
    found, right = prediction["tags"], target["tags"]
    assert isinstance(found, Ragged)
    assert isinstance(right, Ragged)
    rows = ((found.row(index), right.row(index)) for index in range(len(right)))
    return [(predicted[: len(actual)], actual) for predicted, actual in rows]


def agree(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Where two rows of tags, of which the first may end earlier, agree: bool, as long as the first."""
    return predicted == actual[: len(predicted)]
