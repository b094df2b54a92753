"""Tokenization word by word: what stands in texts again and again is cut into tokens once.

Exact for tokenizers that first cut a text into words, each with the one space before it, so that no token spans a space
and what stands before it. Where white space beside a space leaves open which word that belongs to, the whole text is
tokenized as it is.
"""

# N texts, W words in them

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from dougong.data.columns import Ragged

MOST = 1 << 18  # words remembered; some 50 MB
LONGEST = 64  # characters of one
UNCLEAR = -1

Tokenize = Callable[[list[str]], list[list[int]]]


class Words:
    """Texts -> token ids, each text closed by `end`. Remembers the tokens of the words that it has seen."""

    def __init__(self, tokenize: Tokenize, end: int, dtype: np.dtype | type):
        self.tokenize, self.dtype = tokenize, dtype
        self.closing = Ragged.of([np.array([end], dtype)], dtype)
        self.forget()

    def forget(self) -> None:
        self.numbers: dict[str, int] = {}  # of a word behind a space
        self.firsts: dict[str, int] = {}  # of a word that a text begins with
        self.tokens = self.closing  # by number; 0 closes a text

    def encode(self, texts: Sequence[str]) -> Ragged:
        """The tokens of N texts."""
        if len(self.tokens) > MOST:
            self.forget()
        words = [text.split(" ") for text in texts]
        counts = np.array([len(said) for said in words], dtype=np.int64)  # (N,)
        numbers = self.number(list(chain.from_iterable(words)), np.cumsum(counts) - counts)  # (W,)
        unclear = np.zeros(len(texts), dtype=bool)
        unclear[np.repeat(np.arange(len(texts)), counts)[numbers == UNCLEAR]] = True
        if not unclear.any():
            return self.joined(numbers, counts)
        clear = self.joined(numbers[np.repeat(~unclear, counts)], counts[~unclear])
        whole = iter(self.tokenize([text for text, odd in zip(texts, unclear, strict=True) if odd]))
        others = (clear.row(index) for index in range(len(clear)))
        end = self.closing.values
        return Ragged.of(
            [np.append(np.array(next(whole), self.dtype), end) if odd else next(others) for odd in unclear], self.dtype
        )

    def number(self, words: list[str], starts: np.ndarray) -> np.ndarray:  # (N,) which words begin a text -> (W,) int64
        """The number of each word; those not known yet are learnt."""
        found = list(map(self.numbers.get, words))
        for start in starts.tolist():
            found[start] = self.firsts.get(words[start])
        if None in found:
            first = set(starts.tolist())
            missing = [place for place, number in enumerate(found) if number is None]
            self.learn({words[place] for place in missing if place in first}, self.firsts, "")
            self.learn({words[place] for place in missing if place not in first}, self.numbers, " ")
            for place in missing:
                found[place] = (self.firsts if place in first else self.numbers).get(words[place], UNCLEAR)
        return np.array(found, dtype=np.int64)

    def learn(self, words: set[str], numbers: dict[str, int], before: str) -> None:
        """Remember words, and what stands `before` them, but those that are too long, or unclear."""
        clear = sorted(word for word in words if len(word) <= LONGEST and not (before and word[:1].strip() == ""))
        rows = [np.array(row, self.dtype) for row in self.tokenize([before + word for word in clear])]
        numbers.update(zip(clear, range(len(self.tokens), len(self.tokens) + len(clear)), strict=True))
        self.tokens = Ragged.concat([self.tokens, Ragged.of(rows, self.dtype)])

    def joined(self, numbers: np.ndarray, counts: np.ndarray) -> Ragged:  # (W,), (N,) words of each text
        """The tokens of the numbered words, text by text."""
        ends = np.cumsum(counts)
        numbers = np.insert(numbers, ends, 0)  # (W + N,)
        lengths = self.tokens.lengths[numbers]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.tokens.offsets[numbers] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.tokens.values[places], offsets[np.concatenate([[0], ends + np.arange(1, len(ends) + 1)])])
