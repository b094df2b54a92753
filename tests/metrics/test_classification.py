"""Every classification metric equals its reference implementation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from dougong.core.errors import ArtefactError, FieldError
from dougong.metrics.classification import (
    AUC,
    F1,
    Accuracy,
    AveragePrecision,
    CalibrationError,
    Confusion,
    LabelsAccuracy,
    LabelsAUC,
    LabelsF1,
    LogLoss,
    TopKAccuracy,
)
from dougong.metrics.metric import Metric

SEEDS = (0, 1, 2)


def value_of(metric: Metric, prediction: dict, target: dict) -> float:
    return float(metric.value(metric.statistics(prediction, target).sum(axis=0)))


def classes(seed: int, rows: int = 800, count: int = 7, sharpness: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) float32 that lean to the right class, and the right classes (N,)."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, count, rows)
    logits = rng.normal(size=(rows, count))
    logits[np.arange(rows), index] += sharpness
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), index


def labels(seed: int, rows: int = 700, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    indicators = (rng.random((rows, count)) < 0.3).astype(np.uint8)
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=(rows, count)) + 2 * indicators - 1)))
    return probabilities.astype(np.float32), indicators


def labelled(probabilities, indicators, threshold=0.5, unseen=0) -> tuple[dict, dict]:
    """Prediction and target as the type labels gives them: with the thresholds, and what training never saw."""
    rows = len(probabilities)
    thresholds = np.broadcast_to(np.asarray(threshold, dtype=np.float32), (rows, np.size(threshold)))
    target = {"indicators": indicators, "unseen": np.broadcast_to(unseen, rows)}
    return {"probabilities": probabilities, "threshold": thresholds}, target


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracies_f1_and_balanced_accuracy_equal_scikit_learn(seed):
    probabilities, index = classes(seed)
    chosen = probabilities.argmax(axis=1)
    expected = {
        Accuracy(): sk.accuracy_score(index, chosen),
        TopKAccuracy(3): sk.top_k_accuracy_score(index, probabilities, k=3),
        F1("macro"): sk.f1_score(index, chosen, average="macro"),
        F1("weighted"): sk.f1_score(index, chosen, average="weighted"),
        Confusion(): sk.balanced_accuracy_score(index, chosen),
    }
    for metric, reference in expected.items():
        assert value_of(metric, {"probabilities": probabilities}, {"index": index}) == pytest.approx(
            reference, abs=1e-12
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_log_loss_equals_scikit_learn(seed):
    probabilities, index = classes(seed)
    probabilities[0] = np.eye(7, dtype=np.float32)[(index[0] + 1) % 7]  # a probability of exactly 0 stays finite
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn on float32 rows that sum to 1 ± 1e-7
        reference = sk.log_loss(index, probabilities)
    ours = value_of(LogLoss(), {"probabilities": probabilities}, {"index": index})
    assert ours == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_error_equals_torchmetrics(seed):
    probabilities, index = classes(seed, sharpness=0.5)
    reference = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(index), num_classes=7, n_bins=15, norm="l1"
    )
    ours = value_of(CalibrationError(), {"probabilities": probabilities}, {"index": index})
    assert ours == pytest.approx(float(reference), abs=1e-6)


def test_calibration_curve_gives_confidence_accuracy_and_rows_of_each_bin_that_is_not_empty():
    metric = CalibrationError(bins=2)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    sums = metric.statistics({"probabilities": probabilities}, {"index": np.array([0, 1, 1])}).sum(axis=0)
    confidence, accuracy, rows = metric.curve(sums)
    assert confidence.tolist() == [pytest.approx(0.8)]
    assert accuracy.tolist() == [pytest.approx(2 / 3)]
    assert rows.tolist() == [3]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_binary_auc_is_within_1e_4_of_scikit_learn(seed, sharpness):
    probabilities, index = classes(seed, rows=3000, count=2, sharpness=sharpness)
    ours = value_of(AUC(2), {"probabilities": probabilities}, {"index": index})
    assert ours == pytest.approx(sk.roc_auc_score(index, probabilities[:, 1]), abs=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e-6])
def test_auc_tells_scores_near_0_apart(scale):
    rng = np.random.default_rng(0)
    index = rng.integers(0, 2, 2000)
    scores = scale * rng.random(2000) * (1 + index)
    ours = value_of(AUC(2), {"probabilities": np.stack([1 - scores, scores], axis=1)}, {"index": index})
    assert ours == pytest.approx(sk.roc_auc_score(index, scores), abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [3, 10, 40])
def test_one_against_rest_auc_is_within_1e_3_of_scikit_learn(seed, count):
    probabilities, index = classes(seed, rows=1500, count=count)
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    ours = value_of(AUC(count), {"probabilities": probabilities}, {"index": index})
    assert ours == pytest.approx(sk.roc_auc_score(index, probabilities, multi_class="ovr"), abs=1e-3)


def test_auc_of_one_class_only_is_nan():
    probabilities, _ = classes(0, count=2)
    zeros = np.zeros(len(probabilities), dtype=np.int64)
    assert np.isnan(value_of(AUC(2), {"probabilities": probabilities}, {"index": zeros}))
    assert np.isnan(value_of(AUC(1), {"probabilities": np.ones((5, 1))}, {"index": zeros[:5]}))


@pytest.mark.parametrize("seed", SEEDS)
def test_confusion_matrix_equals_scikit_learn(seed):
    probabilities, index = classes(seed)
    metric = Confusion()
    sums = metric.statistics({"probabilities": probabilities}, {"index": index}).sum(axis=0)
    matrix = metric.matrix(sums)
    assert matrix.shape == (8, 7)
    assert np.array_equal(matrix[:-1], sk.confusion_matrix(index, probabilities.argmax(axis=1)))
    assert not matrix[-1].any()


def test_confusion_refuses_a_matrix_that_would_not_fit_in_memory():
    with pytest.raises(FieldError, match=r"classes = 3000: expected at most 2,000"):
        Confusion().cells({"probabilities": np.zeros((1, 3000))}, {"index": np.array([0])})


def test_absent_classes_follow_scikit_learn():
    index = np.array([0, 0, 1, 1, 1])  # classes 3 and 4 stand nowhere, class 2 only in the predictions
    chosen = np.array([0, 2, 1, 1, 0])
    prediction = {"probabilities": np.eye(5)[chosen]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for average in ("macro", "weighted"):
            reference = sk.f1_score(index, chosen, average=average)
            assert value_of(F1(average), prediction, {"index": index}) == pytest.approx(reference)
        assert value_of(Confusion(), prediction, {"index": index}) == sk.balanced_accuracy_score(index, chosen)


def test_a_class_never_seen_in_training_is_wrong_in_accuracy_and_left_out_of_loss_and_auc():
    probabilities, index = classes(3, count=3)
    unseen = np.arange(len(index)) < 80
    prediction, target = {"probabilities": probabilities}, {"index": np.where(unseen, -1, index)}
    known = {"probabilities": probabilities[~unseen]}, {"index": index[~unseen]}
    kept = 1 - 80 / len(index)
    assert value_of(Accuracy(), prediction, target) == pytest.approx(value_of(Accuracy(), *known) * kept)
    assert value_of(TopKAccuracy(3), prediction, target) == pytest.approx(kept)
    assert value_of(LogLoss(), prediction, target) == pytest.approx(value_of(LogLoss(), *known))
    assert value_of(AUC(3), prediction, target) == pytest.approx(value_of(AUC(3), *known))
    assert value_of(F1(), prediction, target) < value_of(F1(), *known)
    assert Confusion().matrix(Confusion().statistics(prediction, target).sum(axis=0))[-1].sum() == 80
    for metric in (LogLoss(), AUC(3)):
        assert metric.counted(metric.statistics(prediction, target).sum(axis=0), len(index)) == len(index) - 80


@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_of_labels_equal_scikit_learn(seed):
    probabilities, indicators = labels(seed)
    prediction, target = labelled(probabilities, indicators)
    chosen = probabilities >= 0.5
    assert value_of(LabelsF1("micro"), prediction, target) == pytest.approx(
        sk.f1_score(indicators, chosen, average="micro")
    )
    assert value_of(LabelsF1("macro"), prediction, target) == pytest.approx(
        sk.f1_score(indicators, chosen, average="macro")
    )
    assert value_of(LabelsAccuracy(), prediction, target) == pytest.approx(sk.accuracy_score(indicators, chosen))
    assert value_of(LabelsAUC(6), prediction, target) == pytest.approx(
        sk.roc_auc_score(indicators, probabilities), abs=1e-3
    )


def test_a_label_that_stands_nowhere_is_left_out_of_the_mean():
    probabilities, indicators = labels(0, count=3)
    probabilities[:, 2], indicators[:, 2] = 0.1, 0
    ours = value_of(LabelsF1("macro"), *labelled(probabilities, indicators))
    reference = sk.f1_score(indicators, probabilities >= 0.5, average="macro", zero_division=np.nan)
    assert ours == pytest.approx(reference)


@pytest.mark.parametrize(
    "metric", [F1(), CalibrationError(), AUC(7), Confusion(), Accuracy(), LogLoss()], ids=lambda metric: metric.name
)
def test_accumulate_equals_weights_times_statistics(metric):
    probabilities, index = classes(0, rows=133)
    index[:5] = -1
    prediction, target = {"probabilities": probabilities}, {"index": index}
    weights = np.random.default_rng(0).poisson(1, size=(9, 133)).astype(np.float64)
    expected = weights @ metric.statistics(prediction, target)
    assert np.allclose(metric.accumulate(prediction, target, weights), expected, rtol=1e-12)
    assert np.allclose(metric.accumulate(prediction, target, weights, expected.copy()), 2 * expected, rtol=1e-12)


def test_predictions_that_are_nan_are_refused():
    probabilities = np.array([[0.5, 0.5], [np.nan, np.nan]])
    with pytest.raises(ArtefactError, match=r"probabilities = nan in 1 of 2 rows.*earlier checkpoint"):
        Accuracy().statistics({"probabilities": probabilities}, {"index": np.array([0, 1])})


def test_an_unknown_average_is_refused():
    with pytest.raises(FieldError, match="expected macro or weighted"):
        F1("micro")
    with pytest.raises(FieldError, match="expected micro or macro"):
        LabelsF1("weighted")


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_of_each_class_equal_scikit_learn_also_of_absent_classes(seed):
    probabilities, index = classes(seed, rows=200, count=6)
    probabilities[:, 5] = 0  # class 5 is never predicted, and class 4 never right
    index = np.where(index == 4, 0, index)
    chosen = probabilities.argmax(axis=1)
    metric = F1("macro")
    found, unseen = metric.by_class(metric.statistics({"probabilities": probabilities}, {"index": index}).sum(axis=0))
    expected = sk.precision_recall_fscore_support(index, chosen, labels=range(6), zero_division=np.nan)
    for key, reference in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert np.allclose(found[key], reference, equal_nan=True), key
    assert np.isnan(found["precision"][5])
    assert np.isnan(found["recall"][4])
    assert unseen == 0
    index[:7] = -1
    sums = metric.statistics({"probabilities": probabilities}, {"index": index}).sum(axis=0)
    found, unseen = metric.by_class(sums)
    assert unseen == 7
    labels_and_unseen = sk.precision_recall_fscore_support(index, chosen, labels=range(6), zero_division=np.nan)
    assert np.allclose(found["precision"], labels_and_unseen[0], equal_nan=True)  # a false alarm of what was predicted


@pytest.mark.parametrize("seed", SEEDS)
def test_f1_weighted_and_auc_with_absent_classes_equal_scikit_learn(seed):
    probabilities, index = classes(seed, rows=900, count=5)
    index = np.where(index == 3, 0, index)  # class 3 is not in the rows
    prediction, target = {"probabilities": probabilities}, {"index": index}
    chosen = probabilities.argmax(axis=1)
    for average in ("macro", "weighted"):
        expected = sk.f1_score(index, chosen, average=average)
        assert value_of(F1(average), prediction, target) == pytest.approx(expected, abs=1e-12)
    rest = [sk.roc_auc_score(index == each, probabilities[:, each]) for each in (0, 1, 2, 4)]
    assert value_of(AUC(5), prediction, target) == pytest.approx(np.mean(rest), abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_have_thresholds_of_their_own_and_scores_as_in_scikit_learn(seed):
    probabilities, indicators = labels(seed)
    thresholds = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7], dtype=np.float32)
    prediction, target = labelled(probabilities, indicators, thresholds)
    chosen = probabilities >= thresholds
    metric = LabelsF1("macro")
    found, unseen = metric.by_class(metric.statistics(prediction, target).sum(axis=0))
    expected = sk.precision_recall_fscore_support(indicators, chosen, zero_division=np.nan)
    for key, reference in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert np.allclose(found[key], reference, equal_nan=True), key
    assert unseen == 0
    assert value_of(LabelsAccuracy(), prediction, target) == pytest.approx(sk.accuracy_score(indicators, chosen))


def test_labels_that_training_never_saw_are_missed_in_f1_and_never_an_exact_match():
    """As scikit-learn has it with one more column for each: right, and never predicted."""
    probabilities, indicators = labels(0, rows=50, count=3)
    unseen = np.zeros(50, dtype=np.int32)
    unseen[:20] = 1
    prediction, target = labelled(probabilities, indicators, unseen=unseen)
    actual = np.concatenate([indicators, unseen[:, None]], axis=1)
    chosen = np.concatenate([probabilities >= 0.5, np.zeros((50, 1), dtype=bool)], axis=1)
    assert value_of(LabelsF1("micro"), prediction, target) == pytest.approx(
        sk.f1_score(actual, chosen, average="micro")
    )
    assert value_of(LabelsAccuracy(), prediction, target) == pytest.approx(sk.accuracy_score(actual, chosen))
    metric = LabelsF1("macro")
    sums = metric.statistics(prediction, target).sum(axis=0)
    assert metric.by_class(sums)[1] == 20
    of_known = sk.f1_score(indicators, probabilities >= 0.5, average="macro")
    assert metric.value(sums) == pytest.approx(of_known)


@pytest.mark.parametrize("classes", [2, 4])
def test_average_precision_equals_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    index = rng.choice(classes, size=3000, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = rng.normal(size=(3000, classes)) + 1.5 * np.eye(classes)[index]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    columns = [1] if classes == 2 else range(classes)
    wanted = np.mean([sk.average_precision_score(index == column, probabilities[:, column]) for column in columns])
    ours = value_of(AveragePrecision(classes), {"probabilities": probabilities}, {"index": index})
    assert ours == pytest.approx(wanted, abs=2e-3)


def test_average_precision_of_chance_is_the_share_of_the_class() -> None:
    index = np.array([0] * 90 + [1] * 10)
    same = np.full((100, 2), 0.5)
    assert value_of(AveragePrecision(2), {"probabilities": same}, {"index": index}) == pytest.approx(0.1)
    assert np.isnan(value_of(AveragePrecision(2), {"probabilities": same}, {"index": index * 0}))
