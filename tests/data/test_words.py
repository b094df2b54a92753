from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dougong.data import words
from dougong.data.words import Words
from dougong.fields import text

CODEC = text.Codec.fit(
    text.Config(tokenizer=text.BPETokenizer(vocab_size=300)),
    ["to be or not to be", "春眠不覺曉", "12345", "it's a\n\nb"],
)
PIECES = ["a", "b", " ", "  ", "\t", "\n", "1", "234", "春", "。", "'s", "\u3000", "İ", "Σ", "\x1c", "\u00a0", "\u0085"]


def expected(texts: list[str]) -> list[list[int]]:
    return [[*ids, CODEC.end] for ids in CODEC.ids(texts)]


def encoded(texts: list[str], known: Words) -> list[list[int]]:
    tokens = known.encode(texts)
    return [tokens.row(index).tolist() for index in range(len(tokens))]


@given(st.lists(st.one_of(st.lists(st.sampled_from(PIECES)).map("".join), st.text(max_size=20)), max_size=8))
@example(["a\t \nb", "a\t ", "a   b", " a", "", "a \t\tb", "a\t \tb"])
@settings(max_examples=300)
def test_words_are_cut_as_the_whole_text_would_be(texts: list[str]) -> None:
    known = Words(CODEC.ids, CODEC.end, np.uint16)
    for _ in range(2):  # the second time every word is known
        assert encoded(texts, known) == expected(texts)


def test_a_word_is_tokenized_once() -> None:
    asked: list[str] = []

    def tokenize(texts: list[str]) -> list[list[int]]:
        asked.extend(texts)
        return CODEC.ids(texts)

    known = Words(tokenize, CODEC.end, np.uint16)
    assert encoded(["to be or not to be", "or be not"], known) == expected(["to be or not to be", "or be not"])
    assert sorted(asked) == [" be", " not", " or", " to", "or", "to"]
    encoded(["to be"], known)
    assert len(asked) == 6


@pytest.mark.parametrize(("most", "longest"), [(2, 64), (1 << 18, 1)])
def test_memory_is_bounded(most: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST", most)
    monkeypatch.setattr(words, "LONGEST", longest)
    known = Words(CODEC.ids, CODEC.end, np.uint16)
    for text_ in ["a bb ccc", "x yy zzz", "a bb"]:
        assert encoded([text_], known) == expected([text_])
        assert len(known.tokens) <= 4
