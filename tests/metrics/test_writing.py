from __future__ import annotations

import re

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from dougong.data.columns import Columns
from dougong.metrics.intervals import Accumulator
from dougong.metrics.metric import Metric
from dougong.metrics.writing import BLEU, CHRF, ExactMatch, RougeL, WordF1, longest_common, text_column, texts

RIGHT = ["the cat sat on the mat", "there is a tavern in the town", "guten Tag", "一只猫坐在垫子上", "", "same same"]
WRITTEN = ["a cat sat on the mat!", "there is the tavern in a town", "guten Abend", "猫坐在垫子上", "not empty", ""]


def column(values: list[str]) -> Columns:
    return {"text": text_column(values)}


def value(metric: Metric, written: list[str], right: list[str]) -> float:
    accumulator = Accumulator([metric], replicates=0)
    for start in range(0, len(written), 2):  # in pieces: a figure of all rows is none of means
        rows = np.arange(start, min(start + 2, len(written)))
        accumulator.update(rows, column(written[start : start + 2]), column(right[start : start + 2]))
    return accumulator.results()[metric.name].value


@pytest.mark.parametrize("tokenize", ["13a", "zh", "char"])
def test_bleu_is_sacrebleus(tokenize: str) -> None:
    expected = sacrebleu.corpus_bleu(WRITTEN, [RIGHT], tokenize=tokenize).score
    assert value(BLEU(tokenize), WRITTEN, RIGHT) == pytest.approx(expected)
    assert expected > 5
    assert f"tok:{tokenize}" in BLEU(tokenize).signature


def test_chrf_is_sacrebleus() -> None:
    assert value(CHRF(), WRITTEN, RIGHT) == pytest.approx(sacrebleu.corpus_chrf(WRITTEN, [RIGHT]).score)
    assert "chrF2" in sacrebleu.corpus_chrf(WRITTEN, [RIGHT]).format()


@given(st.lists(st.text("ab ", max_size=12), min_size=2, max_size=2))
def test_rouge_l_is_that_of_its_reference(pair: list[str]) -> None:
    expected = RougeScorer(["rougeL"]).score(*pair)["rougeL"].fmeasure
    assert value(RougeL(), pair[1:], pair[:1]) == pytest.approx(expected)


def test_rouge_l_knows_characters_of_scripts_without_spaces() -> None:
    assert value(RougeL(), ["猫坐"], ["猫不坐"]) == pytest.approx(2 * 2 / 5)


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert longest_common(first, second) == table[-1][-1]


def test_exact_match_and_f1_are_those_of_squad() -> None:
    written, right = ["The cat!", "a big dog", "", "no"], ["cat", "the small dog", "", "yes"]
    assert value(ExactMatch(), written, right) == pytest.approx(2 / 4)
    assert value(WordF1(), written, right) == pytest.approx((1 + 2 * (1 / 2) * (1 / 2) / (1 / 2 + 1 / 2) + 1 + 0) / 4)


def test_texts_come_back_as_they_were() -> None:
    assert texts(column([*RIGHT, "\ud800 alone"])) == [*RIGHT, "? alone"]


def test_a_missing_package_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(Exception, match=re.escape("pip install 'dougong[text]'")):
        value(BLEU(), WRITTEN, RIGHT)
