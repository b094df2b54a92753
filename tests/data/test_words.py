from __future__ import annotations

import json
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from dougong.data import tokenizers, words
from dougong.data.columns import Ragged
from dougong.data.words import (
    GPT2_WORDS,
    LETTER_WORDS,
    WORD_PATTERNS,
    WORDS,
    Words,
    WordTokens,
    parts,
    ragged,
    word_pattern,
)
from dougong.fields import text

CODEC = text.Codec.fit(
    text.Config(tokenizer=tokenizers.BPETokenizer(vocab_size=300)),
    ["to be or not to be", "春眠不覺曉", "12345", "it's a\n\nb"],
)
PIECES = ["a", "b", " ", "  ", "\t", "\n", "1", "234", "春", "。", "'s", "\u3000", "İ", "Σ", "\x1c", "\u00a0", "\u0085"]
PIECES += ["，", "スーパー", "ที่นี่", "हिन्दी", "e\u0301", "〇", "๕", "𠀀", "CPU", ","]


def expected(texts: list[str]) -> list[list[int]]:
    return [[*ids, CODEC.end] for ids in CODEC.ids(texts)]


def encoded(texts: list[str], known: Words) -> list[list[int]]:
    tokens = known.encode(texts)
    return [tokens.row(index).tolist() for index in range(len(tokens))]


@given(st.lists(st.one_of(st.lists(st.sampled_from(PIECES)).map("".join), st.text(max_size=20)), max_size=8))
@example(["a\t \nb", "a\t ", "a   b", " a", "", "a \t\tb", "a\t \tb"])
@settings(max_examples=300)
def test_words_are_cut_as_the_whole_text_would_be(texts: list[str]) -> None:
    known = Words(CODEC.tokens, CODEC.end, np.uint16)
    for _ in range(2):  # the second time every word is known
        assert encoded(texts, known) == expected(texts)


def finished(pattern: str) -> Tokenizer:
    """A tokenizer as others publish it: our byte pairs, cut by their pattern."""
    tokenizer = Tokenizer.from_str(CODEC.tokenizer.to_str())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == GPT2_WORDS)
    tokenizer.pre_tokenizer = bytes_ if pattern == GPT2_WORDS else pre_tokenizers.Sequence([split, bytes_])
    tokenizer.encode_special_tokens = True
    return tokenizer


FINISHED = {pattern: finished(pattern) for pattern in WORD_PATTERNS}
TEXTS = st.lists(st.one_of(st.lists(st.sampled_from(PIECES)).map("".join), st.text(max_size=20)), max_size=8)


@pytest.mark.parametrize("pattern", WORD_PATTERNS)
@given(texts=TEXTS)
@example(texts=["a\n\nb", "a\n\n b", "a\n b", "it's IT'S 12345", "a.\n\nb!\r\nc", "a\x00b", " ", "\n", "a\n\n\n"])
@settings(max_examples=200)
def test_words_of_known_patterns_are_cut_as_the_whole_text_would_be(pattern: str, texts: list[str]) -> None:
    tokenizer = FINISHED[pattern]
    assert word_pattern(tokenizer) == pattern

    def ids(some: list[str]) -> Ragged:
        found = tokenizer.encode_batch_fast(some, add_special_tokens=False)
        return ragged([encoding.ids for encoding in found], np.uint16)

    def rows(found: Ragged) -> list[list[int]]:
        return [[*found.row(index).tolist(), CODEC.end] for index in range(len(texts))]

    whole = rows(ids(texts))
    quick = WordTokens(tokenizer, pattern, ids, np.uint16, lowercase=False)
    assert rows(quick(texts)) == whole
    known = Words(quick, CODEC.end, np.uint16, blank_lines=pattern != GPT2_WORDS)
    for _ in range(2):
        assert encoded(texts, known) == whole


@given(texts=TEXTS)
def test_words_in_capitals_are_lowered(texts: list[str]) -> None:
    config = text.Config(tokenizer=tokenizers.BPETokenizer(vocab_size=300), lowercase=True)
    codec = text.Codec.fit(config, ["To be Or not TO be", "ÄÖÜ"])
    assert codec.words is not None
    assert encoded(texts, codec.words) == [[*ids, codec.end] for ids in codec.ids(texts)]


def test_tokenizers_that_cut_or_change_a_text_in_other_ways_are_left_to_themselves() -> None:
    odd = {name: finished(GPT2_WORDS) for name in ("normalizer", "prefix", "decoder", "added", "other")}
    odd["normalizer"].normalizer = normalizers.NFC()
    odd["prefix"].pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    odd["decoder"].decoder = decoders.Fuse()
    odd["added"].add_tokens(["to be"])
    odd["other"].pre_tokenizer = pre_tokenizers.Whitespace()
    odd["words"] = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    odd["nothing"] = finished(GPT2_WORDS)
    odd["nothing"].pre_tokenizer = pre_tokenizers.Sequence([])
    config = text.Config(tokenizer=tokenizers.UnigramTokenizer(vocab_size=300))
    odd["unigram"] = text.Codec.fit(config, ["to be or not to be"]).tokenizer
    assert {name: word_pattern(tokenizer) for name, tokenizer in odd.items()} == dict.fromkeys(odd)


def test_a_word_is_tokenized_once() -> None:
    asked: list[str] = []

    def tokenize(texts: list[str]) -> Ragged:
        asked.extend(texts)
        return CODEC.tokens(texts)

    known = Words(tokenize, CODEC.end, np.uint16)
    assert encoded(["to be or not to be", "or be not"], known) == expected(["to be or not to be", "or be not"])
    assert sorted(asked) == ["", " be", " not", " or", " to", "or", "to"][1:]
    encoded(["to be"], known)
    assert len(asked) == 6


@pytest.mark.parametrize(("most", "longest"), [(2, 64), (1 << 18, 1)])
def test_memory_is_bounded(most: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST", most)
    monkeypatch.setattr(words, "LONGEST", longest)
    known = Words(CODEC.tokens, CODEC.end, np.uint16)
    for text_ in ["a bb ccc", "x yy zzz", "a bb"]:
        assert encoded([text_], known) == expected([text_])
        assert len(known.tokens) <= 4


@given(texts=TEXTS)
@example(texts=["a\x00b", "a  b", "春眠 \n不覺曉", "it's 12345", "春眠不覺曉，處處聞啼鳥。\n" * 20])
def test_the_parts_of_texts_are_counted_as_the_tokenizer_would_cut_them(texts: list[str]) -> None:
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    wanted = Counter(part for text_ in texts for part, _ in split.pre_tokenize_str(text_))
    assert parts([texts[:3], texts[3:]] if texts else []) == wanted


@pytest.mark.parametrize(
    ("text_", "wanted"),
    [
        ("春眠不覺曉，處處聞啼鳥。", ["春眠不覺曉，", "處處聞啼鳥。"]),
        ("他说：“好！”走了", ["他说：“", "好！”", "走了"]),
        ("我的CPU的价格,2020年。 真 好", ["我的", "CPU", "的价格,", "202", "0", "年。", " 真", " 好"]),
        ("スーパーへ行く。\n《红楼梦》", ["スーパーへ行く。", "\n", "《", "红楼梦》"]),
        ("ที่นี่ ดีมาก", ["ที่นี่", " ดีมาก"]),
        ("हिन्दी भाषा, cafe\u0301", ["हिन्दी", " भाषा", ",", " cafe\u0301"]),
        ("春" * 100 + "。", ["春" * 64, "春" * 36 + "。"]),
    ],
)
def test_writing_without_spaces_is_cut_behind_its_marks(text_: str, wanted: list[str]) -> None:
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    assert [part for part, _ in split.pre_tokenize_str(text_)] == wanted


@given(st.text())
def test_words_of_writing_with_spaces_are_cut_as_before(text_: str) -> None:
    """Whatever holds no clause and no vowel sign or accent: English above all."""
    plain = "".join(one for one in text_ if one.isascii() or unicodedata.category(one) in ("Ll", "Po", "Sc", "Zs"))
    before, now = (pre_tokenizers.Split(Regex(one), behavior="isolated") for one in (LETTER_WORDS, WORDS))
    assert now.pre_tokenize_str(plain) == before.pre_tokenize_str(plain)


def test_english_is_cut_by_the_same_expression_as_before() -> None:
    assert words.ascii_pattern(WORDS).pattern == words.ascii_pattern(LETTER_WORDS).pattern


@pytest.mark.parametrize("kind", [tokenizers.BPETokenizer, tokenizers.UnigramTokenizer])
def test_a_run_encodes_with_the_pattern_that_its_tokenizer_was_trained_with(kind: type) -> None:
    """Runs from before clauses were words: text written then is cut then's way, also where words are remembered."""
    config = text.Config(tokenizer=kind(vocab_size=300))
    saved = text.Codec.fit(config, ["春眠，不覺曉。"] * 9 + ["處處，聞啼鳥。"] * 9).to_json()
    saved["tokenizer"]["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = (
        r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\n+|[^\S\n]+(?!\S)|[^\S\n]+"
    )
    old = text.Codec.from_json(config, saved)
    assert (old.pattern, old.lossy) == (LETTER_WORDS, False)
    texts = ["春眠，不覺曉。", "a bb  c\n12345", "我的CPU的，हिन्दी"]
    alone = Tokenizer.from_str(json.dumps(saved["tokenizer"]))
    alone.encode_special_tokens = True
    assert [old.tokenize(texts).row(index).tolist() for index in range(3)] == [
        [*alone.encode(one, add_special_tokens=False).ids, old.end] for one in texts
    ]
    assert old.to_json() == saved


def test_a_tokenizer_of_ours_with_a_pattern_that_is_not_known_is_left_to_itself() -> None:
    saved = CODEC.to_json()
    saved["tokenizer"]["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+|\P{L}"
    codec = text.Codec.from_json(CODEC.config, saved)
    assert codec.pattern is None
    assert codec.words is None
    assert codec.text(codec.ids(["to be, 春眠"])[0]) == "to be, 春眠"
