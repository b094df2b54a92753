"""Written texts beside the right ones: prediction and target each {"text": N rows of UTF-8 bytes}.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's (Post 2018), over all rows at once; ROUGE-L (Lin 2004), exact
match and the F1 of words (Rajpurkar et al. 2016, arXiv:1606.05250) are means over rows.
"""

# N rows, K statistics

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from dougong.core.errors import missing_extra
from dougong.data.columns import Columns, Ragged
from dougong.metrics.metric import Metric, ratio


def texts(columns: Columns) -> list[str]:
    """The texts of N rows."""
    column = columns["text"]
    assert isinstance(column, Ragged)
    return [column.row(index).tobytes().decode() for index in range(len(column))]


Read = Callable[[Columns], list[str]]
"""What gives the texts of N rows: `texts` of those that were written, a codec's `decode` of tokens."""


def text_column(values: list[str]) -> Ragged:
    """What `texts` reads."""
    return Ragged.of([np.frombuffer(value.encode("utf-8", "replace"), dtype=np.uint8) for value in values], np.uint8)


class SacreBLEU(Metric):
    """A metric of sacrebleu, from 0 to 100. Its `signature` says all that the figure depends on."""

    def __init__(self, scorer: Any, read: Read = texts):
        self.scorer, self.read = scorer, read

    @property
    def signature(self) -> str:
        self.scorer.num_refs = 1  # for each row
        return str(self.scorer.get_signature())

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        rows = self.scorer._extract_corpus_statistics(self.read(prediction), [self.read(target)])
        return np.array(rows, dtype=np.float64)  # (N, K)

    def value(self, sums: np.ndarray) -> np.ndarray:
        flat = sums.reshape(-1, sums.shape[-1])
        scores = [self.scorer._compute_score_from_stats(row.tolist()).score if row.any() else np.nan for row in flat]
        return np.array(scores).reshape(sums.shape[:-1])


class BLEU(SacreBLEU):
    """`tokenize` is sacrebleu's: 13a for languages with spaces, zh for Chinese, char for Japanese."""

    name = "bleu"

    def __init__(self, tokenize: str = "13a", read: Read = texts):
        super().__init__(_sacrebleu().BLEU(tokenize=tokenize), read)


class CHRF(SacreBLEU):
    """chrF2: n-grams of 1 to 6 characters, spaces left out."""

    name = "chrf"

    def __init__(self, read: Read = texts):
        super().__init__(_sacrebleu().CHRF(), read)


def _sacrebleu() -> Any:
    try:
        import sacrebleu.metrics
    except ImportError:
        raise missing_extra("sacrebleu", "text", "the metrics bleu and chrf") from None
    return sacrebleu.metrics


class RowMean(Metric):
    """The mean over rows of a score between 0 and 1."""

    share = True

    def __init__(self, read: Read = texts):
        self.read = read

    @abstractmethod
    def score(self, written: str, right: str) -> float: ...

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        scores = [self.score(*pair) for pair in zip(self.read(prediction), self.read(target), strict=True)]
        return np.stack([np.array(scores, dtype=np.float64), np.ones(len(scores))], axis=1)  # (N, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class RougeL(RowMean):
    """The F1 of the longest common subsequence of words; of scripts without spaces every character is one."""

    name = "rouge_l"

    def score(self, written: str, right: str) -> float:
        first, second = words(written), words(right)
        common = longest_common(first, second)
        return 2 * common / (len(first) + len(second)) if common else 0.0


class ExactMatch(RowMean):
    """Equal but for case, punctuation, articles and spaces, as SQuAD has it."""

    name = "exact_match"

    def score(self, written: str, right: str) -> float:
        return float(normalized(written) == normalized(right))


class WordF1(RowMean):
    """The F1 of the words in common, as SQuAD has it; of scripts without spaces every character is one."""

    name = "f1"

    def score(self, written: str, right: str) -> float:
        first, second = (LETTER.sub(r" \g<0> ", normalized(text)).split() for text in (written, right))
        if not first or not second:
            return float(first == second)
        common = (Counter(first) & Counter(second)).total()
        return 2 * common / (len(first) + len(second))


def normalized(text: str) -> str:
    """As the evaluation script of SQuAD compares answers."""
    plain = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", plain).split())


def words(text: str) -> list[str]:
    """Lower-case words of letters and digits; each character of a script without spaces by itself."""
    return WORD.findall(text.lower())


def longest_common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, by rows of bits (Crochemore et al. 2001)."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(first)) - 1
    row = whole
    for word in second:
        met = row & places.get(word, 0)
        row = (row + met | row - met) & whole
    return len(first) - row.bit_count()


PUNCTUATION = frozenset(string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, Chinese characters
LETTER = re.compile(f"[{UNSPACED}]")
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
