"""Vocabularies of whole words: how a text is cut into words, and which of them are the most frequent.

A word is a run of letters, their marks and digits, with apostrophes within. Of Chinese and Japanese, which put no spaces
between words, each character is a word of its own: Han, Hiragana and Katakana.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, pre_tokenizers

MOST = 1 << 20  # different words that are counted at once; some 100 MB

_PLAIN = re.compile(r"[a-zA-Z0-9]+(?:'[a-zA-Z0-9]+)*")
_SINGLE = r"\p{Han}\p{Hiragana}\p{Katakana}"
_RUN = rf"[\p{{L}}\p{{M}}\p{{N}}&&[^{_SINGLE}]]+"
_WORD = Regex(rf"[{_SINGLE}]|{_RUN}(?:['’]{_RUN})*")
_BETWEEN = pre_tokenizers.Split(_WORD, "removed", invert=True)  # what is no word is taken away


def words_of(text: str, *, lowercase: bool) -> list[str]:
    """The words of a text, in their order."""
    text = text.lower() if lowercase else text
    if text.isascii():  # the same, and many times as fast
        return _PLAIN.findall(text)
    return [word for word, _ in _BETWEEN.pre_tokenize_str(text)]


def most_frequent(
    texts: Iterable[str | None], *, size: int, least: int, lowercase: bool, most: int = MOST
) -> list[tuple[str, int]]:
    """At most `size` words that occur `least` times, the most frequent first, and how often each does."""
    words = (words_of(text, lowercase=lowercase) for text in texts if text)
    return frequent(words, size=size, least=least, most=most)


def frequent(groups: Iterable[Iterable[str]], *, size: int, least: int, most: int = MOST) -> list[tuple[str, int]]:
    """The same of names in groups, whatever they are: words of texts, items of histories.

    Memory does not grow with the groups: whenever there are more than `most` names, the rarest are forgotten, each time
    those that occur once more, as in the program of Mikolov et al. (2013).
    """
    counts: Counter[str] = Counter()
    rarest = 0
    for names in groups:
        counts.update(names)
        while len(counts) > most:
            rarest += 1
            counts = Counter({word: count for word, count in counts.items() if count > rarest})
    kept = [(word, count) for word, count in counts.items() if count >= least]
    return sorted(kept, key=lambda each: (-each[1], each[0]))[:size]
