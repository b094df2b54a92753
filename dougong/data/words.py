"""Tokenization word by word: what stands in texts again and again is cut into tokens once.

Exact for tokenizers that first cut a text into words, each with the one space before it, so that no token spans a space
and what stands before it, or the start of a line and what stands before that. Where white space beside a space leaves
open which word that belongs to, the whole text is tokenized as it is.
"""

# N texts, W words in them

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Regex, Tokenizer, pre_tokenizers

from dougong.data.columns import Ragged

MOST = 1 << 17  # words remembered; some 25 MB
LONGEST = 64  # characters of one
UNCLEAR = -1
CUT = "\x00"  # stands between words while they are cut
# White space that is more than one space, or more than the end of a line: the tokenizer sees the run as a whole.
OPEN = re.compile(r"[^\S ]| (?!\S)")

# Writing without spaces between words. ー stands in both Kana, and by Unicode in neither.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ーｰ\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# A clause of it: letters and the marks behind them, which then share tokens. Other letters end it, or `CPU的` were one word.
CLAUSES = rf" ?[{UNSPACED}]{{1,64}}[^\s\p{{L}}\p{{M}}\p{{N}}]*"
# Letters of writing with spaces, and the vowel signs and accents (\p{M}) that belong to them: what is nothing else.
LETTERS = rf"[^\p{{N}}\p{{P}}\p{{S}}\p{{Z}}\p{{C}}{UNSPACED}]"
# Words with the space before them, numbers by at most three digits, runs of marks, line breaks apart from other space.
_REST = r"| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\n+|[^\S\n]+(?!\S)|[^\S\n]+"
WORDS = f"{CLAUSES}| ?{LETTERS}+{_REST}"
LETTER_WORDS = r" ?\p{L}+" + _REST  # ours at first: runs keep the pattern that they were trained with
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# In all of them a space belongs to what stands behind it, unless that is white space, too: a text can be cut at its spaces.
WORD_PATTERNS = (WORDS, LETTER_WORDS, GPT2_WORDS, _GPT4 % "{1,3}", _GPT4 % "")  # ours, GPT-2's, Llama 3's, Qwen 2's
BYTE_CHARACTERS = {byte: chr(256 + place) for place, byte in enumerate([*range(33), 127])}  # GPT-2's, of ASCII

Tokenize = Callable[[list[str]], Ragged]


class Lexicon:
    """Strings by number, and the tokens of each: what is asked for again and again is tokenized once."""

    def __init__(self, tokenize: Tokenize, first: Ragged):
        self.tokenize, self.first = tokenize, first
        self.forget()

    def forget(self) -> None:
        self.numbers: dict[str, int] = {}
        self.tokens = self.first  # by number; that of 0 stands between strings

    def number(self, strings: list[str]) -> np.ndarray:  # W -> (W,) int64
        """The number of each; those not known yet are learnt."""
        found = np.fromiter(map(self.numbers.get, strings, repeat(UNCLEAR)), np.int64, len(strings))
        missing = np.flatnonzero(found == UNCLEAR)
        new = [strings[place] for place in missing.tolist()]
        self.learn(list(dict.fromkeys(new)))
        found[missing] = np.fromiter(map(self.numbers.get, new, repeat(UNCLEAR)), np.int64, len(new))
        return found

    def learn(self, strings: list[str]) -> None:
        if strings:
            self.numbers.update(zip(strings, range(len(self.tokens), len(self.tokens) + len(strings)), strict=True))
            self.tokens = Ragged.concat([self.tokens, self.tokenize(strings)])

    @property
    def full(self) -> bool:
        return len(self.tokens) > MOST or len(self.tokens.values) > 16 * MOST


class Words(Lexicon):
    """Texts -> token ids, each text closed by `end`. Remembers the tokens of the words that it has seen.

    `blank_lines`: whether these end a word, too; with GPT-2's pattern it depends on what stands behind them.
    """

    def __init__(self, tokenize: Tokenize, end: int, dtype: np.dtype | type, *, blank_lines: bool = True):
        super().__init__(tokenize, Ragged.of([np.array([end], dtype)], dtype))
        self.end, self.blank_lines = end, blank_lines

    def encode(self, texts: Sequence[str]) -> Ragged:
        """The tokens of N texts."""
        if self.full:
            self.forget()
        words, counts = cut(texts, self.blank_lines)
        numbers = self.number(words.dictionary.to_pylist())[words.indices.to_numpy()]  # (W,)
        unclear = rows_of(numbers == UNCLEAR, counts)
        if not unclear.any():
            return self.joined(numbers, counts)
        clear = self.joined(numbers[np.repeat(~unclear, counts)], counts[~unclear])
        whole = self.tokenize([text for text, odd in zip(texts, unclear, strict=True) if odd])
        closed = np.insert(whole.values, whole.offsets[1:], self.end)
        return merged(unclear, Ragged(closed, whole.offsets + np.arange(len(whole.offsets))), clear)

    def learn(self, strings: list[str]) -> None:
        """Remember words, but those that are too long, or unclear."""
        super().learn([word for word in strings if len(word) <= LONGEST and not OPEN.match(word)])

    def joined(self, numbers: np.ndarray, counts: np.ndarray) -> Ragged:  # (W,), (N,) words of each text
        """The tokens of the numbered words, text by text."""
        ends = np.cumsum(counts)
        rows = self.tokens.take(np.insert(numbers, ends, 0))  # W + N
        return Ragged(rows.values, rows.offsets[np.concatenate([[0], ends + np.arange(1, len(ends) + 1)])])


class WordTokens(Lexicon):
    """The tokens of words. The library takes five times as long as its model alone: words of ASCII are cut here, and
    their parts go straight to that; the others take its way, `ids`."""

    def __init__(self, tokenizer: Tokenizer, pattern: str, ids: Tokenize, dtype: np.dtype | type, *, lowercase: bool):
        super().__init__(self.by_model, Ragged.of([np.zeros(0, dtype)], dtype))
        self.find = ascii_pattern(pattern).findall
        self.model, self.ids, self.dtype, self.lowercase = tokenizer.model, ids, dtype, lowercase

    def forget(self) -> None:
        super().forget()
        self.numbers[CUT] = 0

    def __call__(self, words: list[str]) -> Ragged:
        plain = np.fromiter((is_plain(word) for word in words), bool, len(words))
        if plain.all():
            return self.of_plain(words)
        others = self.ids([word for word, here in zip(words, plain, strict=True) if not here])
        return merged(plain, self.of_plain([word for word, here in zip(words, plain, strict=True) if here]), others)

    def of_plain(self, words: list[str]) -> Ragged:
        if self.full:
            self.forget()
        numbers = self.number(self.find(CUT.join(words)))  # 0 between two words
        ends = np.append(np.flatnonzero(numbers == 0), len(numbers))[: len(words)]
        rows = self.tokens.take(numbers)
        return Ragged(rows.values, rows.offsets[np.concatenate([[0], ends])])

    def by_model(self, parts: list[str]) -> Ragged:
        text = CUT.join(parts)
        plain = (text.lower() if self.lowercase else text).translate(BYTE_CHARACTERS).split(BYTE_CHARACTERS[ord(CUT)])
        return ragged([[token.id for token in self.model.tokenize(part)] for part in plain], self.dtype)


def ragged(rows: list[list[int]], dtype: np.dtype | type) -> Ragged:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    values = np.fromiter(chain.from_iterable(rows), dtype, int(lengths.sum()))
    return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))


def merged(where: np.ndarray, rows: Ragged, others: Ragged) -> Ragged:  # (N,) bool
    """The next of `rows` for each place that is marked, the next of `others` for the rest."""
    place = np.where(where, np.cumsum(where) - 1, len(rows) + np.cumsum(~where) - 1)
    return Ragged.concat([rows, others]).take(place)


def cut(texts: Sequence[str], blank_lines: bool) -> tuple[pa.DictionaryArray, np.ndarray]:
    """The words of all texts (W,), and how many each text has (N,): cut before every space, and behind line ends."""
    array = pa.array(texts, pa.large_string())
    marked = pc.match_substring(array, CUT)
    if marked.true_count:  # a text with that character in it is unclear
        array = pc.if_else(marked, " ", array)
    array = pc.replace_substring(array, " ", f"{CUT} ")
    array = pc.replace_substring(array, "\n", f"\n{CUT}")
    if blank_lines:
        array = pc.replace_substring(array, f"{CUT}\n", "\n")
    lists = pc.split_pattern(array, CUT)
    return lists.flatten().dictionary_encode(), np.diff(lists.offsets.to_numpy())


def rows_of(words: np.ndarray, counts: np.ndarray) -> np.ndarray:  # (W,) bool, (N,) -> (N,) bool
    """The texts that hold at least one of the marked words."""
    rows = np.zeros(len(counts), dtype=bool)
    rows[np.repeat(np.arange(len(counts)), counts)[words]] = True
    return rows


def parts(groups: Iterable[Sequence[str]]) -> Counter[str]:
    """What WORDS cuts texts into, and how often each occurs, for a tokenizer to be trained on."""
    counted: Counter[str] = Counter()
    for texts in groups:
        words, counts = cut(texts, blank_lines=True)
        index, distinct = words.indices.to_numpy(), words.dictionary.to_pylist()
        unclear = rows_of(np.array([bool(OPEN.match(word)) for word in distinct], dtype=bool)[index], counts)
        often = np.bincount(index[np.repeat(~unclear, counts)], minlength=len(distinct))
        for word, times in zip(distinct, often.tolist(), strict=True):
            if times:
                counted[word] += times
        counted.update(text for text, odd in zip(texts, unclear, strict=True) if odd)
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated").pre_tokenize_str
    find = ascii_pattern(WORDS).findall
    result: Counter[str] = Counter()
    for word, times in counted.items():
        for part in find(word) if is_plain(word) else (part for part, _ in split(word)):
            result[part] += times
    return result


def word_pattern(tokenizer: Tokenizer) -> str | None:
    """By which of WORD_PATTERNS it cuts a text, if it changes nothing in it and knows every byte: then nothing is lost."""
    described = json.loads(tokenizer.to_str())
    model, cutter = described["model"], described["pre_tokenizer"] or {}
    if model["type"] != "BPE":
        return None
    pattern, last = cut_by(cutter), (cutter.get("pretokenizers") or [cutter])[-1]
    byte_level = (
        last.get("type") == "ByteLevel"
        and not last["add_prefix_space"]
        and (described["decoder"] or {}).get("type") == "ByteLevel"
        and {*pre_tokenizers.ByteLevel.alphabet()} <= model["vocab"].keys()
    )
    plain = (
        described["normalizer"] is None
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and all(token["special"] for token in described["added_tokens"])  # others are found in the text of a user
    )
    return pattern if byte_level and plain else None


def cut_by(cutter: dict[str, Any]) -> str | None:
    """By which of WORD_PATTERNS a pre-tokenizer of `tokenizers`, as its file describes it, cuts a text."""
    *first, last = cutter.get("pretokenizers") or [cutter]
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    pattern = GPT2_WORDS if last.get("use_regex") and not first else None
    if len(first) == 1 and not last.get("use_regex") and split.items() <= first[0].items():
        pattern = first[0]["pattern"].get("Regex")
    return pattern if pattern in WORD_PATTERNS else None


def word_places(text: str) -> list[int]:
    """Where each word of a text begins; words are what white space separates."""
    return [found.start() for found in re.finditer(r"\S+", text)]


def is_plain(word: str) -> bool:
    """Whether `ascii_pattern` cuts it."""
    return word.isascii() and CUT not in word


def ascii_pattern(pattern: str) -> re.Pattern[str]:
    """The same for words of ASCII, without what Python's expressions do not know; CUT ends a word, and is a part."""

    def plain(part: str, letters: str, digits: str) -> str:
        return part.replace(r"\p{L}", letters).replace(r"\p{N}", digits)

    ascii_only = pattern.replace(f"{CLAUSES}|", "").replace(LETTERS, r"\p{L}")
    ended = ascii_only.replace(r"(?!\S)", r"(?![^\s])")  # not before a word: the same, but CUT counts as the end
    classes = re.sub(r"\[\^[^]]+", lambda found: plain(found[0], "a-zA-Z", "0-9") + CUT, ended)
    return re.compile(plain(classes, "[a-zA-Z]", "[0-9]") + "|" + CUT, re.ASCII)
