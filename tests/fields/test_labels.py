"""Labels: any number of names at once, however a file writes them down."""

from __future__ import annotations

import numpy as np
import pytest

from dougong.core.config import read
from dougong.core.errors import DataError
from dougong.fields.labels import Codec, Config
from tests.clear_error import clear_error


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a|b", ["a", "b"]), (" b | a ", ["a", "b"]), ("a||", ["a"]), ("", []), ("|", []), (None, None), ([], []),
        (["b", "a", "b"], ["a", "b"]), ('["b", " a"]', ["a", "b"]), ("[]", []), ([3, "x"], ["3", "x"]),
        (["3.0", 3, True, "True"], ["3", "true"]),
        (["", " ", "a"], ["a"]), ('["", "a"]', ["a"]),
    ],
)  # fmt: skip
def test_labels_as_people_write_them(value: object, names: list[str] | None) -> None:
    assert Codec.parse(value, Config()) == names


def test_the_separator_of_the_recipe_is_used() -> None:
    assert Codec.parse("a;b|c", Config(separator=";")) == ["a", "b|c"]
    assert read(Config, {"separator": ""})[1][0].key == "separator"


@pytest.mark.parametrize("value", ["[1, 2", "[" * 100_000, '[["a"]]', "[null]", '[{"a": 1}]', 3, {"a": 1}, [None]])
def test_D1_D4_what_is_no_list_of_names_is_refused_whatever_its_depth(value: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a (JSON )?list of names"):
        Codec.parse(value, Config())


def test_D6_unseen_labels_are_left_out_and_counted() -> None:
    codec = Codec.fit(Config(), [["a"], None, ["b", "a"]])
    assert codec.classes == ["a", "b"]
    columns, counts = codec.encode([["a", "new", "newer"], None, [], ["b"]])
    assert np.asarray(columns["indicators"]).tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]
    assert np.asarray(columns["unseen"]).tolist() == [2, 0, 0, 0]
    assert counts == {"missing": 1, "unseen values": 2}
    assert codec.decode(columns) == [["a"], [], [], ["b"]]


def test_rare_and_listed_labels() -> None:
    rows = [["a", "b"], ["a"], ["c"]]
    assert Codec.fit(Config(min_count=2), rows).classes == ["a"]
    assert Codec.fit(Config(classes=("c", "x")), rows).classes == ["c", "x"]
    with clear_error("'tags'", "['x', 'y']", "at least 1", "'a', 'b', 'c'", error=DataError):
        Codec.fit(Config(column="tags", classes=("x", "y")), rows)
    for given, said in (
        ({"classes": []}, "at least one name"),
        ({"classes": ["a"], "min_count": 2}, "1 beside listed"),
    ):
        assert said in read(Config, given)[1][0].expected


def test_more_labels_than_a_row_has_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Codec, "MOST", 3)
    rows = [["a", "b"], ["a", "b", "c"], ["d"]]
    assert Codec.fit(Config(min_count=2), rows).classes == ["a", "b"]
    with clear_error("'tags'", "4 labels", "at most 3", "min_count", error=DataError):
        Codec.fit(Config(column="tags"), rows)


def test_a_label_is_given_from_its_threshold_on() -> None:
    codec = Codec.fit(Config(threshold=0.3), [["a", "b", "c"]])
    answer = codec.answers({"probabilities": np.array([[0.29, 0.3, 0.9]]), "threshold": np.array([[0.3]])})[0]
    assert answer["value"] == ["b", "c"]
    assert list(answer["probabilities"]) == ["a", "b", "c"]
    assert answer["threshold"] == 0.3
    codec = Codec.fit(Config(threshold="per_label"), [["a", "b", "c"]])
    answer = codec.answers({"probabilities": np.array([[0.2, 0.3, 0.9]]), "threshold": np.array([[0.1, 0.4, 0.8]])})[0]
    assert answer["value"] == ["a", "c"]
    assert answer["thresholds"] == {"a": 0.1, "b": 0.4, "c": 0.8}
