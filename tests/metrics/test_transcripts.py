"""Errors of words and characters: as jiwer counts them, over all rows at once, so that intervals can be drawn."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest

from dougong.data.columns import Columns
from dougong.metrics.transcripts import CharacterErrorRate, ErrorRate, WordErrorRate
from dougong.metrics.writing import text_column

RIGHT = ["turn on the lamp", "open", "a b c d", "hello world"]
SAID = ["turn off the lamp please", "open", "", "helo world"]


def rate(metric: ErrorRate, said: list[str], right: list[str]) -> float:
    statistics = metric.statistics({"text": text_column(said)}, {"text": text_column(right)})
    assert statistics.shape == (len(said), 2)
    return float(metric.value(statistics.sum(0)))


def test_rates_are_those_of_jiwer_over_all_rows() -> None:
    assert rate(WordErrorRate(), SAID, RIGHT) == pytest.approx(jiwer.wer(RIGHT, SAID))
    assert rate(CharacterErrorRate(), SAID, RIGHT) == pytest.approx(jiwer.cer(RIGHT, SAID))
    assert rate(WordErrorRate(), RIGHT, RIGHT) == 0
    assert rate(WordErrorRate(), SAID, RIGHT) == pytest.approx(7 / 11)  # 2, 0, 4 and 1 of 4 + 1 + 4 + 2 words


def test_more_than_was_said_is_more_than_one() -> None:
    assert rate(WordErrorRate(), ["a b c d"], ["x"]) == 4


def test_where_nothing_was_said_all_is_put_in() -> None:
    assert WordErrorRate().row("", "two words") == (2.0, 0.0)
    assert CharacterErrorRate().row(" ", "abc") == (3.0, 0.0)
    assert np.isnan(rate(WordErrorRate(), [""], [""]))
    assert rate(WordErrorRate(), ["a", "b"], ["", "b"]) == 1.0


def test_no_rows_are_no_statistics() -> None:
    assert WordErrorRate().statistics({"text": text_column([])}, {"text": text_column([])}).shape == (0, 2)


def test_texts_may_be_read_another_way() -> None:
    def told(columns: Columns) -> list[str]:
        return [str(word) for word in np.asarray(columns["words"])]

    found = WordErrorRate(told).statistics({"words": np.array(["a b"])}, {"words": np.array(["a c"])})
    assert found.tolist() == [[1.0, 2.0]]


def test_lower_is_better() -> None:
    assert not WordErrorRate.higher_is_better
    assert (WordErrorRate.name, CharacterErrorRate.name) == ("wer", "cer")
