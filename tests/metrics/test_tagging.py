from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from dougong.data.columns import Columns, Ragged
from dougong.metrics.metric import Metric
from dougong.metrics.tagging import EntityF1, TagAccuracy, TagF1, entities, is_bio

CLASSES = ["B-loc", "B-per", "I-loc", "I-per", "O"]
ROWS = st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=9), min_size=1, max_size=4)


def column(rows: list[list[int]]) -> Columns:
    return {"tags": Ragged.of([np.array(row, dtype=np.int32) for row in rows], np.int32)}


def value(metric: Metric, predicted: list[list[int]], actual: list[list[int]]) -> float:
    return float(metric.value(metric.statistics(column(predicted), column(actual)).sum(0)))


def by_hand(tags: list[str]) -> set[tuple[int, int, str]]:
    """The definition, word by word: an entity is a longest run that nothing begins anew."""
    begins = [
        tag != "O" and (tag[0] == "B" or place == 0 or tags[place - 1] == "O" or tags[place - 1][2:] != tag[2:])
        for place, tag in enumerate(tags)
    ]
    found = set()
    for first, begin in enumerate(begins):
        last = first + 1
        while begin and last < len(tags) and tags[last] != "O" and not begins[last]:
            last += 1
        found |= {(first, last, tags[first][2:])} if begin else set()
    return found


@given(st.lists(st.sampled_from(CLASSES), max_size=12))
def test_entities_are_the_runs_that_conlleval_reads(tags: list[str]) -> None:
    assert {*entities(tags)} == by_hand(tags)


def test_entities_by_example() -> None:
    tags = ["B-per", "I-per", "O", "I-loc", "I-per", "B-per", "B-per"]
    assert entities(tags) == [(0, 2, "per"), (3, 4, "loc"), (4, 5, "per"), (5, 6, "per"), (6, 7, "per")]


@given(ROWS)
def test_f1_precision_and_recall_count_whole_entities(rows: list[list[tuple[int, int]]]) -> None:
    predicted, actual = [[a for a, _ in row] for row in rows], [[b for _, b in row] for row in rows]
    found = [by_hand([CLASSES[tag] for tag in row]) for row in predicted]
    right = [by_hand([CLASSES[tag] for tag in row]) for row in actual]
    hits = sum(len(a & b) for a, b in zip(found, right, strict=True))
    many, wanted = sum(map(len, found)), sum(map(len, right))
    expected = {"precision": (hits, many), "recall": (hits, wanted), "f1": (2 * hits, many + wanted)}
    for name, (over, under) in expected.items():
        one = over / under if under else np.nan
        assert value(EntityF1(CLASSES, name), predicted, actual) == pytest.approx(one, nan_ok=True)  # type: ignore[arg-type]


@given(ROWS)
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(rows: list[list[tuple[int, int]]]) -> None:
    predicted, actual = [[a for a, _ in row] for row in rows], [[b for _, b in row] for row in rows]
    flat = [pair for row in rows for pair in row]
    if not flat:
        assert np.isnan(value(TagAccuracy(), predicted, actual))
        return
    first, second = zip(*flat, strict=True)
    assert value(TagAccuracy(), predicted, actual) == pytest.approx(np.mean(np.array(first) == np.array(second)))
    assert value(TagF1(5), predicted, actual) == pytest.approx(f1_score(second, first, average="macro"))


def test_what_was_not_read_and_what_is_unseen_is_wrong() -> None:
    assert value(TagAccuracy(), [[1, 3]], [[1, 3, 4, -1]]) == pytest.approx(0.5)
    assert value(TagAccuracy(), [[1, 4]], [[1, -1]]) == pytest.approx(0.5)
    assert value(EntityF1(CLASSES, "recall"), [[1, 4, 4]], [[1, -1, -1]]) == pytest.approx(0.5)
    assert value(EntityF1(CLASSES, "recall"), [[1]], [[1, 4, 0]]) == pytest.approx(0.5)
    assert value(EntityF1(CLASSES, "precision"), [[1]], [[1, 4, 0]]) == pytest.approx(1.0)
    assert np.isnan(value(EntityF1(CLASSES), [[4]], [[4]]))


def test_which_tags_mark_entities() -> None:
    assert is_bio(CLASSES)
    assert is_bio(["B-x"])
    assert not is_bio(["O"])
    assert not is_bio(["NOUN", "VERB"])
    assert not is_bio(["B-", "O"])
