"""Tokenizers: a finished one gives the tokens of the library that made it, and what it loses is counted as lost."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from dougong.core.config import read
from dougong.core.errors import DataError, FieldError, MachineError
from dougong.data import cleaning, tokenizers
from dougong.data.columns import Ragged
from dougong.data.sentencepiece import SentencePiece
from dougong.data.tokenizers import END, UNKNOWN
from dougong.fields.text import Codec, Config
from tests.clear_error import clear_error

ENGLISH = [
    "The quick brown fox jumps over the lazy dog, 12345 times.",
    "It's what he's doing: nothing.",
    "to be or not to be",
]
CHINESE = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "春眠不覺曉，處處聞啼鳥。",
    "我有一个 iPhone 15 手机，很好用。",
]
JAPANESE = ["吾輩は猫である。名前はまだ無い。", "ﾊﾞｽで東京タワーへ行きました。"]
OTHER = [
    "naïve café — “quotes”, Ωμέγα",
    "🙂👩‍👩‍👧 emoji 🇨🇳",
    "def f(x):\n\treturn x  # two  spaces\r\n",
    "①②③ ㍿ ＡＢＣ ﬁ",
]
LINES = [*ENGLISH, *CHINESE, *JAPANESE, *OTHER] * 4
PIECES = [
    *("the", "fox", " ", "  ", "\t", "\n", "\u3000", "\u00a0", "\u200b", "▁", "春", "明月", "。", "は", "ﾊ", "ﾞ", "e", "\u0301"),
    *("🙂", "👩‍👩‍👧", "①", "㍿", "Ａ", "ﬁ", "<s>", "</s>", "<unk>",
      "<0x41>", "\x00", "\x7f", "\ufeff", "\ufffd", "oooooooooooo", "123"),
]  # fmt: skip
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), UNICODE)


def codec_of(lines: list[str] = LINES, *, lowercase: bool = False, **tokenizer: Any) -> Codec:
    config, problems = read(Config, {"tokenizer": tokenizer, "lowercase": lowercase})
    assert not problems, problems
    return Codec.fit(config, lines)


def ids(codec: Codec, text: str) -> list[int]:
    """Without the end."""
    tokens = codec.encode([text])[0]["tokens"]
    assert isinstance(tokens, Ragged)
    assert tokens.values[-1] == codec.end
    return tokens.values[:-1].tolist()


def bytes_of(codec: Codec, text: str) -> int:
    return int(np.asarray(codec.encode([text])[0]["bytes"])[0])


def pieces(codec: Codec, text: str) -> list[str]:
    return [codec.tokenizer.id_to_token(index) for index in ids(codec, text)]


# ------------------------------------------------------------------------------------------------------------ wordpiece

WORDPIECE = codec_of(kind="wordpiece", vocab_size=400)
LOWER = codec_of(kind="wordpiece", vocab_size=400, lowercase=True)


def test_wordpiece_cuts_words_marks_and_chinese_characters_as_bert_does() -> None:
    assert pieces(WORDPIECE, "to be or not to be") == ["to", "be", "or", "not", "to", "be"]
    assert pieces(WORDPIECE, "明月光,the fox's") == ["明", "月", "光", ",", "the", "fox", "'", "s"]
    assert "##" in "".join(pieces(WORDPIECE, "boxing"))
    assert "".join(pieces(WORDPIECE, "boxing")).replace("##", "") == "boxing"
    assert pieces(WORDPIECE, "to ₪ be") == ["to", UNKNOWN, "be"]
    assert pieces(WORDPIECE, f"be{END}be") == ["be", *pieces(WORDPIECE, "<|end|>"), "be"]


def test_wordpiece_lowers_and_takes_accents_away_as_bert_does() -> None:
    assert LOWER.decode(LOWER.encode(["The Naïve CAFÉ"])[0]) == ["the naive cafe"]
    assert WORDPIECE.decode(WORDPIECE.encode(["naïve café"])[0]) == ["naïve café"]


def test_training_wordpiece_twice_gives_the_same_tokenizer() -> None:
    for _ in range(3):
        assert codec_of(kind="wordpiece", vocab_size=400).to_json() == WORDPIECE.to_json()
    again = Codec.from_json(WORDPIECE.config, WORDPIECE.to_json())
    assert [ids(again, line) for line in LINES] == [ids(WORDPIECE, line) for line in LINES]


@pytest.mark.parametrize("size", [260, 300, 400])
def test_wordpiece_keeps_to_its_vocabulary(size: int) -> None:
    lines = ["".join(chr(0x4E00 + 7 * index) for index in range(400)), *LINES]
    codec = codec_of(lines, kind="wordpiece", vocab_size=size)
    assert codec.vocab_size <= size
    assert max(codec.tokenizer.get_vocab().values()) == len(codec.tokenizer.get_vocab()) - 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("to be or", 8),  # the spaces are known: without them it were one word
        ("to   be\n\tor", 8),  # white space is read as one space
        ("it's", 4),  # decoded as "it ' s"
        ("明月光", 9),  # decoded as "明 月 光"
        ("the fox , the dog", 15),  # whether spaces stood beside a mark is lost
        ("to ₪ be", 5),
        ("₪", 0),
        ("", 0),
        ("   ", 0),
    ],
)
def test_bytes_of_wordpiece_are_those_that_its_tokens_tell(text: str, size: int) -> None:
    assert bytes_of(WORDPIECE, text) == size


@given(TEXTS)
@settings(max_examples=200)
def test_wordpiece_never_counts_more_bytes_than_a_text_has(text: str) -> None:
    for codec in (WORDPIECE, LOWER):
        columns, counts = codec.encode([text])
        assert 0 <= np.asarray(columns["bytes"])[0] <= len(text.encode())
        assert counts == {"unknown tokens": ids(codec, text).count(codec.unknown)}


@given(TEXTS)
@example(END)
@example(f"be{END} or{END}{END}")
@settings(max_examples=200)
def test_wordpiece_gives_the_tokens_of_berts_own_tokenizer(text: str) -> None:
    """`transformers` has the same vocabulary and rules; an end token in a text ends it there, and is spelled out here."""
    spelled = [index for half in (END[:1], END[1:]) for index in BERT.encode(half, add_special_tokens=False)]
    first, *others = [BERT.encode(part, add_special_tokens=False) for part in text.split(END)]
    assert ids(LOWER, text) == first + [index for part in others for index in [*spelled, *part]]


def _bert(codec: Codec) -> PreTrainedTokenizerFast:
    vocabulary = codec.tokenizer.get_vocab()
    special = {"unk_token": UNKNOWN, "sep_token": END, "cls_token": END, "pad_token": END, "mask_token": END}
    bert = BertTokenizer(vocab=vocabulary, do_lower_case=True, **special)
    bert._tokenizer.encode_special_tokens = True
    return bert


BERT = _bert(LOWER)


# -------------------------------------------------------------------------------------------------------- tokenizer.json


def as_bert(lowercase: bool) -> Tokenizer:
    tokenizer = BertTokenizer(vocab=BERT.get_vocab(), do_lower_case=lowercase, unk_token=UNKNOWN, sep_token=END)
    return tokenizer.backend_tokenizer


def as_t5() -> Tokenizer:
    """Unigram over words that begin with ▁."""
    letters = sorted({character for line in LINES for character in line if character.isalnum()} | set(",.▁"))
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), ("▁the", -4.0), ("▁to", -4.1), ("明月", -5.0)]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, *((letter, -8.0) for letter in letters)], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


def as_llama() -> Tokenizer:
    """Byte pairs of characters, bytes where a character is not known."""
    alphabet = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklmnopqrstuvwxyz明月"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "t"), ("明", "月"), ("o", "o"), ("oo", "oo")]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(left + right for left, right in merges)])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def as_gpt2() -> Tokenizer:
    tokenizer = Tokenizer.from_str(codec_of(kind="bpe", vocab_size=300).tokenizer.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


FINISHED = {
    "bert": as_bert(lowercase=True), "bert cased": as_bert(lowercase=False), "t5": as_t5(), "llama": as_llama(),
    "gpt2": as_gpt2(),
}  # fmt: skip


@pytest.fixture(scope="module", params=FINISHED)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Codec, PreTrainedTokenizerFast]:
    path = str(tmp_path_factory.mktemp("finished") / "tokenizer.json")
    FINISHED[request.param].save(path)
    reference = PreTrainedTokenizerFast(tokenizer_file=path, split_special_tokens=True)
    return codec_of([], kind="file", path=path), reference


@given(text=TEXTS)
@settings(max_examples=150)
def test_a_finished_tokenizer_gives_the_tokens_that_transformers_gives(
    finished: tuple[Codec, PreTrainedTokenizerFast], text: str
) -> None:
    codec, reference = finished
    wanted = reference.encode(text, add_special_tokens=False)
    if codec.end not in wanted:  # below: a text that spells it
        assert ids(codec, text) == wanted
    assert codec.text(wanted) == reference.decode(
        [index for index in wanted if index != codec.end], clean_up_tokenization_spaces=False
    )
    assert bytes_of(codec, text) <= len(text.encode())


# --------------------------------------------------------------------------------------------------------- sentencepiece


def trained(**options: Any) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=out, minloglevel=2, num_threads=1, hard_vocab_limit=False, **options
    )
    return out.getvalue()


MODELS = {
    "unigram": trained(vocab_size=420, model_type="unigram"),
    "unigram bytes": trained(vocab_size=500, model_type="unigram", byte_fallback=True, character_coverage=0.98),
    "unigram exact": trained(
        vocab_size=420, model_type="unigram", normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=False, byte_fallback=True,
    ),
    "bpe": trained(vocab_size=420, model_type="bpe"),
    "bpe bytes": trained(
        vocab_size=500, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, user_defined_symbols=["<mask>"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def spm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Codec, Any]:
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(MODELS[request.param])
    return codec_of([], kind="file", path=str(path)), sentencepiece.SentencePieceProcessor(model_file=str(path))


@given(text=TEXTS)
@example(text="oooooooooooooooo")
@example(text="ﾊﾞｽ Ａ\u0301 e\u0301\u0302 \r\n<s> <mask></s>")
@settings(max_examples=200)
def test_a_sentencepiece_model_gives_its_own_tokens_and_texts(spm: tuple[Codec, Any], text: str) -> None:
    codec, reference = spm
    wanted = reference.encode(text)
    assert ids(codec, text) == wanted
    assert codec.text(wanted) == reference.decode(wanted)
    columns, counts = codec.encode([text])
    assert counts == {"unknown tokens": wanted.count(reference.unk_id())}
    known = reference.decode([token for token in wanted if token != reference.unk_id()])
    assert np.asarray(columns["bytes"]).tolist() == [min(len(text.encode()), len(known.rstrip("\ufffd").encode()))]


def test_a_sentencepiece_model_goes_with_the_run_and_comes_back(spm: tuple[Codec, Any]) -> None:
    codec, reference = spm
    again = Codec.from_json(codec.config, json.loads(json.dumps(codec.to_json())))
    assert [ids(again, line) for line in LINES] == [ids(codec, line) for line in LINES]
    ending, content = tokenizers.as_file(codec.tokenizer)
    assert (ending, content) == (".model", Path(codec.config.tokenizer.path).read_bytes())
    assert codec.vocab_size == reference.get_piece_size()
    assert codec.end == reference.eos_id()


@pytest.mark.parametrize("content", [b"", b"x" * 50, b'{"version": "1.0"}', b"\x00" * 100, b"\xff" * 100])
def test_A4_a_damaged_sentencepiece_model_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with clear_error("spiece.model", "not a sentencepiece model", error=DataError):
        codec_of([], kind="file", path=str(path))


@given(share=st.floats(0, 1, exclude_max=True))
def test_A4_the_beginning_of_a_sentencepiece_model_is_refused(share: float) -> None:
    """The library itself takes some of them for a unigram model without rules."""
    model = MODELS["unigram exact"]
    end = model.index(b"\x1a", model.index(b"identity") - 20)  # where its rules begin; tests of its own may follow
    with clear_error("spiece.model", "not a sentencepiece model", error=DataError):
        SentencePiece(model[: int(share * end)], "spiece.model")


def test_a_sentencepiece_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with clear_error("tokenizer.path", "none.model", "sentencepiece", error=FieldError):
        codec_of([], kind="file", path=str(tmp_path / "none.model"))


def test_without_the_package_the_line_that_brings_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.model").write_bytes(MODELS["bpe"])
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with clear_error("sentencepiece", "pip install 'dougong[spm]'", error=MachineError):
        codec_of([], kind="file", path=str(tmp_path / "a.model"))


def test_a_text_that_spells_the_end_of_a_finished_tokenizer_does_not_end_there(tmp_path: Path) -> None:
    """A unigram model in a tokenizer.json finds control tokens in every text, and sentencepiece what a user defined."""
    (tmp_path / "a.model").write_bytes(MODELS["bpe bytes"])
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in "</s>ab")]
    unigram = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    unigram.save(str(tmp_path / "tokenizer.json"))
    for path, end in (("a.model", "<mask>"), ("tokenizer.json", "</s>")):
        codec = codec_of([], kind="file", path=str(tmp_path / path), end=end)
        assert codec.end in codec.tokenizer.encode(f"a{end}b", add_special_tokens=False).ids
        assert codec.end not in ids(codec, f"a{end}b")
        assert codec.decode(codec.encode([f"a{end}b"])[0])[0].replace(" ", "") == f"a{end}b"


# ---------------------------------------------------------------------------------------------------------- odd texts


@pytest.mark.parametrize("value", ["\ud800", "a\udc00b", "\ude42\ud83d"])
def test_D2_a_lone_surrogate_never_reaches_a_tokenizer(value: str) -> None:
    cleaned = cleaning.clean({"text": value}, {"text": "text"}, cleaning.Config())
    assert cleaned.values is None
    assert "a lone surrogate is no character" in str(cleaned.bad)


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram", "wordpiece"])
def test_empty_texts_are_an_end_and_no_bytes(kind: str) -> None:
    columns, counts = codec_of(["", "to be", ""], kind=kind).encode(["", None, ""])
    tokens = columns["tokens"]
    assert isinstance(tokens, Ragged)
    assert tokens.lengths.tolist() == [1, 1, 1]
    assert np.asarray(columns["bytes"]).tolist() == [0, 0, 0]
    assert not any(counts.values())


def test_a_single_text_of_10_MB_is_learnt_from_and_comes_back() -> None:
    text = "to be or not to be, 春眠不覺曉。\n" * 260_000
    assert len(text.encode()) > 10_000_000
    codec = codec_of([text], kind="bpe", vocab_size=300)
    columns, _ = codec.encode([text])
    assert np.asarray(columns["bytes"]).tolist() == [len(text.encode())]
    assert codec.decode(columns) == [text]
