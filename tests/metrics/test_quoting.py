"""Quoted answers: the figures are those that the evaluation scripts of SQuAD 1.1 and 2.0 give, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dougong.data.columns import Columns
from dougong.metrics.quoting import BestOf, given, golds
from dougong.metrics.thresholds import best_refusal
from dougong.metrics.writing import ExactMatch, WordF1, text_column

# What is written, whether it is given, the right answers; its exact match, its F1.
CASES = [
    ("The Eiffel Tower", True, ["Eiffel tower!"], 1, 1),
    ("in Paris, France", True, ["Paris", "Paris, France"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # 3 words, 2 in common
    ("a big dog", True, ["the small dog"], 0, 1 / 2),
    ("dog dog", True, ["dog"], 0, 2 * (1 / 2) * 1 / (1 / 2 + 1)),
    ("Paris", False, ["Paris"], 0, 0),  # the best answer, but not likely enough against none
    ("Paris", False, [], 1, 1),
    ("Paris", True, [], 0, 0),
    ("", True, [], 1, 1),
    ("", True, ["Paris"], 0, 0),
    ("", True, ["The"], 1, 1),  # nothing is left of it: as in SQuAD 2.0, no right answer
    ("1,000", True, ["1000"], 1, 1),
    ("北京市", True, ["北京"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # without spaces each character is a word
    ("巴黎", True, ["北京"], 0, 0),
]


def columns(cases: list[tuple[str, bool, list[str], float, float]]) -> tuple[Columns, Columns]:
    margin = np.array([1.0 if each[1] else -1.0 for each in cases], dtype=np.float32)
    prediction = {"text": text_column([each[0] for each in cases]), "margin": margin, "threshold": np.zeros(len(cases))}
    return prediction, {"gold": text_column([json.dumps(each[2], ensure_ascii=False) for each in cases])}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}/{case[2]}")
def test_a_row_is_worth_what_the_best_right_answer_gives_it(case: tuple[str, bool, list[str], float, float]) -> None:
    for metric, expected in ((BestOf(ExactMatch()), case[3]), (BestOf(WordF1()), case[4])):
        assert metric.statistics(*columns([case])).tolist() == [[pytest.approx(expected), 1.0]]


def test_over_rows_it_is_the_mean() -> None:
    prediction, target = columns(CASES)
    assert golds(target) == [case[2] for case in CASES]
    assert given(prediction).tolist() == [case[1] and bool(case[0]) for case in CASES]
    for metric, place in ((BestOf(ExactMatch()), 3), (BestOf(WordF1()), 4)):
        value = metric.value(metric.statistics(prediction, target).sum(0))
        assert value == pytest.approx(np.mean([float(case[place]) for case in CASES]))
    assert [BestOf(ExactMatch()).name, BestOf(WordF1()).name] == ["exact_match", "f1"]


def test_the_margin_with_the_best_score_is_chosen() -> None:
    """Compared with trying each of the rows' own margins."""
    generator = np.random.default_rng(0)
    margin = generator.normal(1.5, 3, 500)
    worth = np.where(generator.random(500) < 1 / (1 + np.exp(2 - margin)), generator.random(500), 0.0)
    nothing = np.where(worth == 0, (generator.random(500) < 0.7).astype(float), 0.0)
    chosen = best_refusal([(margin[:200], worth[:200], nothing[:200]), (margin[200:], worth[200:], nothing[200:])])

    def score(threshold: float) -> float:
        return float(np.where(margin >= threshold, worth, nothing).mean())

    assert score(chosen) == pytest.approx(max(score(each) for each in [*margin, -99.0, 99.0]), abs=2e-3)
    assert score(chosen) > score(0.0)
    assert best_refusal([]) == 0.0
