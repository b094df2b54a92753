"""Comparisons are paired, corrected, and refuse runs that did not see the same rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest, spearmanr

from dougong.core.errors import DataError, FieldError
from dougong.evaluation import comparison
from dougong.evaluation.comparison import compare_estimates, holm
from dougong.metrics.classification import AUC, Accuracy
from dougong.metrics.regression import RMSE, Spearman


def run(right: np.ndarray, size: int = 64, order: np.ndarray | None = None, ids: np.ndarray | None = None):
    """Batches of a run that is right on these rows (N,) bool; the right class is always 1."""
    order = np.arange(len(right)) if order is None else order
    ids = np.arange(len(right)) if ids is None else ids
    for start in range(0, len(right), size):
        part = order[start : start + size]
        yield (
            ids[part],
            {"probabilities": np.eye(2)[right[part].astype(int)]},
            {"index": np.ones(len(part), dtype=np.int64)},
        )


def rights(rows: int, *accuracies: float, seed: int = 0) -> list[np.ndarray]:
    """Runs whose rights and wrongs go together: rows are as hard for one as for the other."""
    rng = np.random.default_rng(seed)
    hardness = rng.random(rows)
    return [(hardness + 0.1 * rng.normal(size=rows)) < accuracy for accuracy in accuracies]


def test_a_clear_difference_is_named_with_its_interval():
    a, b = rights(600, 0.75, 0.84)
    found = compare_estimates({"a": run(a), "b": run(b)}, Accuracy())
    (pair,) = found.pairs
    assert pair.difference == pytest.approx(b.mean() - a.mean())
    assert pair.low < pair.difference < pair.high
    points = f"{100 * pair.difference:.1f}"
    assert pair.verdict.startswith(f"b is better than a by {points} points of accuracy (95 % interval ")
    assert "on 600 rows this is unlikely to be chance (p = 0.000" in pair.verdict


def test_a_small_difference_cannot_be_told_apart():
    a, b = rights(200, 0.80, 0.81)
    (pair,) = compare_estimates({"a": run(a), "b": run(b)}, Accuracy()).pairs
    assert pair.p > 0.05
    assert pair.verdict.startswith("a and b cannot be told apart on 200 rows: a is ahead by 0.5 points of accuracy")
    assert "may well be chance" in pair.verdict


def test_the_same_predictions_are_the_same():
    (a,) = rights(100, 0.8)
    (pair,) = compare_estimates({"a": run(a), "b": run(a)}, Accuracy()).pairs
    assert (pair.difference, pair.low, pair.high, pair.p) == (0, 0, 0, 1)
    assert "they have the same accuracy" in pair.verdict


def test_pairing_narrows_the_interval():
    a, b = rights(600, 0.75, 0.80)
    found = compare_estimates({"a": run(a), "b": run(b)}, Accuracy())
    (pair,) = found.pairs
    unpaired = math.hypot(*(each.high - each.low for each in found.estimates.values()))
    assert pair.high - pair.low < 0.8 * unpaired


def test_the_p_value_is_near_that_of_the_sign_test():
    a, b = rights(400, 0.75, 0.79, seed=3)
    (pair,) = compare_estimates({"a": run(a), "b": run(b)}, Accuracy()).pairs
    exact = binomtest(int((b & ~a).sum()), int((a != b).sum())).pvalue  # McNemar's test, exact
    assert pair.p == pytest.approx(exact, abs=0.05)


def test_runs_without_a_difference_are_rarely_called_different():
    false_alarms = 0
    for seed in range(100):
        a, b = rights(150, 0.8, 0.8, seed=seed)
        (pair,) = compare_estimates({"a": run(a), "b": run(b)}, Accuracy(), replicates=400, seed=seed).pairs
        false_alarms += pair.p < 0.05
    assert false_alarms <= 11  # 5 expected


def test_order_and_batch_sizes_do_not_matter():
    a, b = rights(300, 0.7, 0.75)
    order = np.random.default_rng(0).permutation(300)
    one = compare_estimates({"a": run(a), "b": run(b)}, Accuracy(), replicates=500)
    other = compare_estimates({"a": run(a, 7, order), "b": run(b, 300)}, Accuracy(), replicates=500)
    assert one == other


def test_lower_is_better_where_the_metric_says_so():
    actual = np.random.default_rng(0).normal(size=300)
    errors = np.random.default_rng(1).normal(size=300)

    def predict(scale):
        yield np.arange(300), {"value": actual + scale * errors}, {"value": actual}

    (pair,) = compare_estimates({"coarse": predict(1.0), "fine": predict(0.5)}, RMSE()).pairs
    assert pair.difference < 0
    assert pair.verdict.startswith("fine is better than coarse by 0.")
    assert "in rmse" in pair.verdict


def test_many_pairs_are_corrected():
    runs = rights(500, 0.70, 0.75, 0.80)
    found = compare_estimates({name: run(right) for name, right in zip("abc", runs, strict=True)}, Accuracy())
    assert len(found.pairs) == 3
    assert all(pair.p_corrected >= pair.p for pair in found.pairs)
    assert all("corrected for 3 comparisons" in pair.verdict for pair in found.pairs)


def test_holm_multiplies_by_the_number_of_hypotheses_left():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    corrected = holm([0.02, math.nan])
    assert corrected[0] == 0.02
    assert math.isnan(corrected[1])


def test_runs_on_other_rows_are_refused_with_the_number_shared():
    a, b = rights(100, 0.8, 0.8)
    shifted = np.arange(100) + 40
    with pytest.raises(DataError, match=r"'a' \(100 rows\) and 'b' \(100 rows\) share 60 rows: expected the same rows"):
        compare_estimates({"a": run(a), "b": run(b, ids=shifted)}, Accuracy(), replicates=10)


def test_rows_that_stand_twice_and_no_rows_are_refused():
    (a,) = rights(10, 0.8)
    with pytest.raises(DataError, match="run 'b': 9 of 10 row ids stand twice"):
        compare_estimates({"a": run(a), "b": run(a, ids=np.zeros(10, dtype=np.int64))}, Accuracy(), replicates=10)
    with pytest.raises(DataError, match="run 'b': no rows"):
        compare_estimates({"a": run(a), "b": iter(())}, Accuracy(), replicates=10)


def test_one_run_alone_is_refused():
    with pytest.raises(FieldError, match="at least two runs"):
        compare_estimates({"a": iter(())}, Accuracy())


def test_a_metric_that_says_nothing_gives_no_verdict():
    a, b = rights(50, 0.8, 0.7)
    found = compare_estimates({"a": run(a), "b": run(b)}, AUC(2), replicates=50)
    assert "cannot be compared: auc is not defined" in found.pairs[0].verdict
    assert found.to_json()["pairs"][0]["p"] is None


def many_classes(quality: float, classes: int = 12, rows: int = 300):
    """Predictions of as many classes as have no room for all replicates at once; better ones with more quality."""
    rng = np.random.default_rng(3)
    index = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + quality * np.eye(classes)[index]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    yield np.arange(rows), {"probabilities": probabilities}, {"index": index}


def test_replicates_that_do_not_fit_at_once_are_made_in_blocks(monkeypatch):
    def compared():
        runs = {"a": many_classes(0.3), "b": many_classes(1.5)}
        return compare_estimates(runs, AUC(12), replicates=203)

    whole = compared()
    monkeypatch.setattr(comparison, "SUMS_BYTES", 11 * 8 * 2 * 12 * 512)  # 10 replicates and the plain sums
    monkeypatch.setattr(comparison, "PASSES", 30)
    assert compared() == whole
    (pair,) = whole.pairs
    assert pair.p == 2 / 204
    assert pair.verdict.startswith("b is better than a by")
    monkeypatch.setattr(comparison, "PASSES", 5)
    (pair,) = compared().pairs  # 50 replicates: enough for a verdict, not for as small a p
    assert pair.p == 2 / 51


def test_too_few_replicates_are_said_to_be_too_few_and_not_called_chance(monkeypatch):
    monkeypatch.setattr(comparison, "SUMS_BYTES", 2 * 8 * 2 * 12 * 512)
    found = compare_estimates({"a": many_classes(0.3), "b": many_classes(1.5)}, AUC(12))
    (pair,) = found.pairs
    assert pair.verdict == (
        "Whether a or b is better cannot be told: auc could be computed in only 25 resamples of these 300 rows. "
        "Look at another metric."
    )
    assert found.to_json()["pairs"][0]["p"] is None


def test_text_and_json_say_the_same():
    a, b = rights(300, 0.7, 0.9)
    found = compare_estimates({"a": run(a), "b": run(b)}, Accuracy(), replicates=500)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["runs"]["b"]["value"] == found.estimates["b"].value
    assert plain["pairs"][0]["verdict"] == found.pairs[0].verdict
    lines = found.text().splitlines()
    assert lines[0] == "accuracy (higher is better)"
    assert lines[1].startswith("  b  0.")
    assert lines[2].startswith("  a  0.")
    assert lines[3] == found.pairs[0].verdict


def test_a_metric_of_ranks_is_compared_as_any_other():
    rng = np.random.default_rng(0)
    actual = rng.normal(size=300)
    runs = {
        name: [(np.arange(300), {"value": actual + noise * rng.normal(size=300)}, {"value": actual})]
        for name, noise in (("near", 0.3), ("far", 2.0))
    }
    found = compare_estimates(runs, Spearman(), replicates=400)
    (pair,) = found.pairs
    values = {name: spearmanr(batches[0][1]["value"], actual).statistic for name, batches in runs.items()}
    assert pair.difference == pytest.approx(values["far"] - values["near"])
    assert pair.low < pair.difference < pair.high < 0
    assert pair.verdict.startswith("near is better than far by ")
    assert found.estimates["near"].rows == 300
