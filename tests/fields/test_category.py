"""Categories: the classes of the training rows, in a fixed order; what is unseen is counted and costs no loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from dougong.core.config import read
from dougong.core.errors import DataError
from dougong.data import class_names
from dougong.fields import category
from dougong.fields.category import UNSEEN, Codec, Config, Head
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from tests.clear_error import clear_error


def test_classes_are_sorted_and_do_not_depend_on_the_order_of_rows() -> None:
    first, second = (Codec.fit(Config(), values) for values in (["b", "a", None, "b"], ["a", "b", "b"]))
    assert first.classes == second.classes == ["a", "b"]
    assert first.counts == second.counts == [1, 2]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("  yes ", "yes"), ("", None), ("   ", None), (None, None), (3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "true"),
        ("3.0", "3"), (" 3.00 ", "3"), ("-3.0", "-3"), ("3.10", "3.10"), ("3.", "3."), ("1.0.0", "1.0.0"), ("v1.0", "v1.0"),
        ("True", "true"), ("FALSE", "false"), ("truest", "truest"),
        (math.nan, None), ("none", "none"), (10**30, str(10**30)),
    ],
)  # fmt: skip
def test_a_class_is_named_as_people_would_write_it(value: object, name: str | None) -> None:
    assert Codec.parse(value) == name


def test_D6_missing_and_unseen_values_are_told_apart_and_counted() -> None:
    codec = Codec.fit(Config(), ["a", "b"])
    columns, counts = codec.encode(["b", None, "c", "a", "d"])
    assert np.asarray(columns["index"]).tolist() == [1, UNSEEN, UNSEEN, 0, UNSEEN]
    assert counts == {"missing": 1, "unseen values": 2}
    assert codec.decode(columns) == ["b", None, None, "a", None]


def test_rare_values_count_as_unseen() -> None:
    codec = Codec.fit(Config(min_count=2), ["a", "a", "b"])
    assert codec.classes == ["a"]
    assert codec.encode(["b"])[1]["unseen values"] == 1


def test_listed_classes_keep_their_order_also_those_that_no_row_has() -> None:
    codec = Codec.fit(Config(classes=("z", "a", "never")), ["a", "z", "other"])
    assert codec.classes == ["z", "a", "never"]
    assert codec.counts == [1, 1, 0]


@pytest.mark.parametrize("values", [["yes", "no", None], ["Good", "bad"], []])
def test_listed_classes_that_the_rows_do_not_hold_are_refused_with_those_that_they_do(values: list[str | None]) -> None:
    """Else every target would be unseen, and the model would learn from nothing."""
    held = ", ".join(repr(value) for value in values if value) or "nothing"
    with clear_error("'mood'", "['good', 'bad']", "at least 2", f"which hold {held}", error=DataError):
        Codec.fit(Config(column="mood", classes=("good", "bad")), values)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"classes": []},
            "outputs.y.classes = []: expected at least 2 names. Fix: leave it out: the training rows tell.",
        ),
        ({"classes": ["a"]}, "outputs.y.classes = ['a']: expected at least 2 names."),
        ({"classes": ["a", "b", "a"]}, "outputs.y.classes = 'a': expected each name once. Fix: remove one."),
        ({"classes": ["a", "2.0"]}, "outputs.y.classes = '2.0': expected a name as values are read. Fix: write '2'."),
        ({"classes": ["a", " "]}, "outputs.y.classes = ' ': expected a name as values are read. Fix: remove it."),
        ({"classes": ["a", "b"], "min_count": 2}, "outputs.y.min_count = 2: expected 1 beside listed classes"),
        ({"dropout": 1.0}, "outputs.y.dropout = 1.0: expected a number from 0 and below 1."),
    ],
)
def test_a_list_of_classes_that_cannot_be_meant_is_refused(given: dict[str, object], said: str) -> None:
    config, problems = read(Config, given, "outputs.y")
    assert config is None
    assert str(problems[0]).startswith(said)


def test_a_column_of_names_is_no_category(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_names, "MAX_CLASSES", 100)
    with clear_error("'id'", "category", error=DataError):
        Codec.fit(Config(column="id"), (str(row) for row in range(1000)))


def head_of(config: Config, codec: Codec) -> Head:
    head = Head(config, codec, 4, Loss())
    torch.nn.init.normal_(head.readout.linear.weight)
    return head


def test_D6_an_unseen_target_costs_nothing_and_is_not_counted() -> None:
    codec = Codec.fit(Config(), ["a", "b", "c"])
    head = head_of(Config(), codec)
    values = torch.randn(4, 2, 4)
    features = Features(values, torch.ones(4, 2, dtype=torch.bool))
    known = Features(values[:2], torch.ones(2, 2, dtype=torch.bool))
    with_unseen = head.loss(features, {"y.index": torch.tensor([0, 2, UNSEEN, UNSEEN])}, "y")
    without = head.loss(known, {"y.index": torch.tensor([0, 2])}, "y")
    assert torch.allclose(with_unseen, without)
    assert head.count({"y.index": torch.tensor([0, 2, UNSEEN, UNSEEN])}, "y") == 2
    alone = head.loss(features, {"y.index": torch.full((4,), UNSEEN)}, "y")
    assert alone == 0


def test_balance_weighs_classes_by_the_inverse_of_their_share() -> None:
    codec = Codec.fit(Config(balance=True), ["a"] * 9 + ["b"])
    head = Head(Config(balance=True), codec, 4, Loss())
    head.readout.reset_parameters()
    features = Features(torch.randn(2, 1, 4), torch.ones(2, 1, dtype=torch.bool))
    one = Features(features.values[:1], features.mask[:1])
    rare, usual = (head.loss(one, {"y.index": torch.tensor([index])}, "y").item() for index in (1, 0))
    assert rare / usual == pytest.approx(9)
    weights = torch.tensor(head.balance)
    assert float((weights * torch.tensor([0.9, 0.1])).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_balanced_loss_is_what_a_hand_computes(smoothing: float) -> None:
    """Each target's loss times total / (classes × rows of its class), as scikit-learn's "balanced" has it; smoothed ones too."""
    names = ["a"] * 7 + ["b"] * 2 + ["c"]
    config = Config(balance=True, classes=("a", "b", "c", "never"))
    codec = Codec.fit(config, names)
    head = Head(config, codec, 4, Loss(label_smoothing=smoothing))
    torch.nn.init.normal_(head.readout.linear.weight)
    weights = [*compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(names)), 1.0]
    assert weights[:3] == pytest.approx([10 / 21, 10 / 6, 10 / 3])
    assert head.balance == pytest.approx(weights)
    assert sum(codec.counts[i] * weights[i] for i in range(3)) == pytest.approx(10)
    features = Features(torch.randn(4, 1, 4), torch.ones(4, 1, dtype=torch.bool))
    index = [0, 2, 1, 0]
    logs = head.readout(features).log_softmax(-1).tolist()
    expected = 0.0
    for row, right in zip(logs, index, strict=True):
        expected -= (1 - smoothing) * weights[right] * row[right]
        expected -= smoothing / 4 * sum(weight * log for weight, log in zip(weights, row, strict=True))
    assert head.loss(features, {"y.index": torch.tensor(index)}, "y").item() == pytest.approx(expected, rel=1e-5)


def test_the_first_prediction_is_uniform() -> None:
    codec = Codec.fit(Config(), ["a", "b", "c", "d"])
    head = Head(Config(), codec, 4, Loss())
    head.readout.reset_parameters()
    features = Features(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    assert torch.allclose(head.predict(features, {}, "y")["probabilities"], torch.full((2, 4), 0.25))


def test_answers_name_the_best_class_and_the_three_likeliest() -> None:
    codec = Codec.fit(Config(), ["a", "b", "c", "d"])
    answer = codec.answers({"probabilities": np.array([[0.1, 0.5, 0.3, 0.1]])})[0]
    assert answer["value"] == "b"
    assert answer["probability"] == 0.5
    assert answer["top"] == {"b": 0.5, "c": 0.3, "a": 0.1}


def test_balance_sqrt_lies_between_none_and_whole() -> None:
    codec = Codec.fit(Config(), ["a"] * 64 + ["b"] * 4)
    whole, root = (category._balance(codec, power) for power in (1.0, 0.5))
    assert whole[1] / whole[0] == pytest.approx(16)
    assert root[1] / root[0] == pytest.approx(4)
    for weights in (whole, root):
        assert np.average(weights, weights=codec.counts) == pytest.approx(1)


def test_a_focal_loss_is_asked_for_by_its_kind() -> None:
    codec = Codec.fit(Config(), ["a", "b"])
    batch = {"y.index": torch.tensor([0, 1, -1])}
    features = Features(torch.randn(3, 1, 4), torch.ones(3, 1, dtype=torch.bool))
    focal, plain = (Head(Config(), codec, 4, Loss(kind=kind)) for kind in ("focal", "cross_entropy"))
    for head in (focal, plain):
        head.readout.reset_parameters()
    assert float(focal.loss(features, batch, "y")) == pytest.approx(float(plain.loss(features, batch, "y")) / 4)


@pytest.mark.parametrize(("classes", "told"), [(10, False), (11, True)])
def test_of_many_classes_it_is_told_how_often_the_right_one_is_among_five(classes: int, told: bool) -> None:
    codec = category.Codec.fit(category.Config(), [f"class {index}" for index in range(classes)])
    assert ("top_5_accuracy" in [metric.name for metric in category.METRICS(category.Config(), codec)]) == told
