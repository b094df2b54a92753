"""Every tokenizer gives back every text; what a user writes never ends it; a damaged tokenizer.json is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dougong.core.config import read
from dougong.core.errors import DataError, FieldError
from dougong.data import tokenizers
from dougong.data.columns import Ragged
from dougong.data.tokenizers import END
from dougong.fields import text
from dougong.fields.text import Codec, Config, Encoder, Head, hashed_runs
from dougong.layers.losses import Loss
from dougong.model import initialize
from tests.clear_error import check_clear, clear_error

LINES = [
    "The quick brown fox jumps over the lazy dog, 12345 times.",
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "naïve café — “quotes”, Ωμέγα, 🙂👩‍👩‍👧",
    "def f(x):\n\treturn x  # two  spaces\r\n",
] * 5
KINDS = ("byte", "char", "bpe", "unigram")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def config_of(kind: str, **more: Any) -> Config:
    tokenizer = {"kind": kind} | ({"vocab_size": 300} if kind in ("bpe", "unigram") else {})
    config, problems = read(Config, {"tokenizer": tokenizer, **more})
    assert not problems, problems
    return config


def fitted(kind: str, lines: list[str] = LINES, **more: Any) -> Codec:
    return Codec.fit(config_of(kind, **more), lines)


CODECS = {kind: fitted(kind) for kind in KINDS}


def round_trip(codec: Codec, value: str) -> str:
    return codec.decode(codec.encode([value])[0])[0]


@pytest.mark.parametrize("kind", ["byte", "bpe", "unigram"])
@given(value=UNICODE)
@settings(max_examples=80)
def test_any_unicode_comes_back_and_nothing_is_unknown(kind: str, value: str) -> None:
    columns, counts = CODECS[kind].encode([value])
    assert CODECS[kind].decode(columns) == [value]
    assert counts == {}
    assert columns["bytes"].tolist() == [len(value.encode())]  # type: ignore[union-attr]


@given(value=st.text(st.sampled_from(sorted(set("".join(LINES)))), max_size=60))
@settings(max_examples=80)
def test_any_text_of_known_characters_comes_back_from_char(value: str) -> None:
    columns, counts = CODECS["char"].encode([value])
    assert CODECS["char"].decode(columns) == [value]
    assert counts == {"unknown characters": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_ends_once_also_where_it_says_so_itself(kind: str) -> None:
    codec = fitted(kind, [*LINES, f"a {END} b", END * 3])
    for value in (f"before{END}after", END, f"{END}{END}", f" {END}\n", "<|unknown|>", ""):
        tokens = codec.encode([value])[0]["tokens"]
        assert isinstance(tokens, Ragged)
        ids = tokens.row(0).tolist()
        assert ids[-1] == codec.end
        assert ids.count(codec.end) == 1, f"{value!r} was ended by its own words"
        assert round_trip(codec, value) == value


@pytest.mark.parametrize("kind", KINDS)
def test_training_twice_gives_the_same_tokenizer(kind: str) -> None:
    assert json.dumps(fitted(kind).to_json()) == json.dumps(CODECS[kind].to_json())


@pytest.mark.parametrize("kind", KINDS)
def test_texts_encode_the_same_alone_and_among_many(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are encoded in groups; where a group ends must not matter."""
    monkeypatch.setattr(tokenizers, "GROUP_CHARACTERS", 100)
    lines = ["x" * 60, "short", "y" * 600, *LINES]
    codec = CODECS[kind]
    tokens = codec.encode(lines)[0]["tokens"]
    assert isinstance(tokens, Ragged)
    for row, line in enumerate(lines):
        alone = codec.encode([line])[0]["tokens"]
        assert isinstance(alone, Ragged)
        assert (alone.row(0) == tokens.row(row)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_is_no_larger_than_asked_for_and_ids_fit(kind: str) -> None:
    codec = CODECS[kind]
    assert codec.vocab_size <= {"byte": 257, "char": 16_384, "bpe": 300, "unigram": 300}[kind]
    tokens = codec.encode(LINES)[0]["tokens"]
    assert isinstance(tokens, Ragged)
    assert tokens.values.dtype == np.uint16
    assert tokens.values.max() < codec.vocab_size


def test_D6_characters_beyond_the_vocabulary_are_unknown_and_counted() -> None:
    codec = Codec.fit(read(Config, {"tokenizer": {"kind": "char", "vocab_size": 4}})[0], ["aaab", "bc"])
    assert codec.vocab_size == 4
    columns, counts = codec.encode(["abcd", None])
    assert counts == {"unknown characters": 2}
    assert codec.decode(columns) == ["ab<|unknown|><|unknown|>", ""]


def bytes_of(codec: Codec, *values: str | None) -> list[int]:
    return np.asarray(codec.encode(values)[0]["bytes"]).tolist()


def test_bytes_that_no_token_stands_for_are_not_counted_as_predicted() -> None:
    """Else an unknown character would be three bytes at the price of one cheap token."""
    few = Codec.fit(read(Config, {"tokenizer": {"kind": "char", "vocab_size": 3}})[0], ["床床前明月光"])
    assert bytes_of(few, "床前明月光", "床", "前明", "", None) == [3, 3, 0, 0, 0]
    for kind in KINDS:
        assert bytes_of(CODECS[kind], *LINES[:4]) == [len(line.encode()) for line in LINES[:4]]
    small = fitted("byte", lowercase=True)
    assert bytes_of(small, "ABC İ") == [len("abc i̇".encode()) - 1]  # never more than the text has


def test_the_bytes_of_some_tokens_are_those_that_they_spell() -> None:
    tokens = CODECS["byte"].encode(["a月b"])[0]["tokens"]
    assert isinstance(tokens, Ragged)
    assert [CODECS["byte"].size(tokens.row(0)[:count]) for count in range(7)] == [0, 1, 1, 1, 4, 5, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_lowercase_is_learnt_and_applied(kind: str) -> None:
    codec = fitted(kind, ["ΟΔΟΣ İstanbul HELLO", *LINES], lowercase=True)
    assert round_trip(codec, "HELLO") == "hello"
    columns, counts = codec.encode(["ΟΔΟΣ İstanbul"])
    assert not any(counts.values())
    again = Codec.from_json(codec.config, codec.to_json())
    assert again.decode(again.encode(["HELLO"])[0]) == ["hello"]
    assert len(columns["bytes"]) == 1


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
def test_a_column_without_any_text_is_refused_by_name(kind: str) -> None:
    with clear_error("'note'", error=DataError):
        fitted(kind, ["", ""], column="note")
    assert fitted("byte", ["", ""]).encode([""])[0]["tokens"].values.tolist() == [0]  # type: ignore[union-attr]


def test_a_very_long_text_is_not_the_whole_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "SAMPLE_CHARACTERS", 1_500_000)
    taken = list(tokenizers.sample(iter(["a" * 5_000_000, "b" * 400_000, None, "c" * 200_000, "never"])))
    assert [(value[0], len(value)) for value in taken] == [("a", 1_000_000), ("b", 400_000), ("c", 200_000)]


# ------------------------------------------------------------------------------------------------------- tokenizer.json


def saved(path: Path, tokenizer: Tokenizer) -> Config:
    tokenizer.save(str(path))
    return read(Config, {"tokenizer": {"kind": "file", "path": str(path)}})[0]


def words(*tokens: str, ids: list[int] | None = None) -> Tokenizer:
    vocabulary = dict(zip(tokens, ids or range(len(tokens)), strict=True))
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def test_a_finished_tokenizer_is_loaded_as_it_is(tmp_path: Path) -> None:
    config = saved(tmp_path / "tokenizer.json", CODECS["bpe"].tokenizer)
    codec = Codec.fit(config, iter(()))
    assert codec.encode(LINES)[0]["tokens"].values.tolist() == CODECS["bpe"].encode(LINES)[0]["tokens"].values.tolist()  # type: ignore[union-attr]
    assert text.files(config) == [tmp_path / "tokenizer.json"]
    assert text.files(config_of("byte")) == []


def test_a_finished_tokenizer_neither_cuts_nor_pads(tmp_path: Path) -> None:
    tokenizer = words("[UNK]", "</s>", "a")
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    codec = Codec.fit(saved(tmp_path / "tokenizer.json", tokenizer), iter(()))
    tokens = codec.encode(["a a a a a", "a"])[0]["tokens"]
    assert isinstance(tokens, Ragged)
    assert tokens.lengths.tolist() == [6, 2]


def test_D6_the_unknown_token_of_a_finished_tokenizer_is_counted_and_stands_for_no_bytes(tmp_path: Path) -> None:
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "</s>": 1, "a": 2, "##b": 3}, unk_token="[UNK]"))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    unigram = Tokenizer(models.Unigram([("</s>", 0.0), ("a", -1.0), ("b", -1.0), ("?", -9.0)], unk_id=3))
    unigram.decoder = decoders.Fuse()
    for tokenizer, text_, unknown, size in (
        (words("[UNK]", "</s>", "a", "b"), "a 床 b 床", 2, 3),
        (pieces, "a 床 ab 床", 2, 4),
        (unigram, "a床b", 1, 2),
    ):
        codec = Codec.fit(saved(tmp_path / "tokenizer.json", tokenizer), iter(()))
        columns, counts = codec.encode([text_])
        assert counts == {"unknown tokens": unknown}
        assert np.asarray(columns["bytes"]).tolist() == [size]


def test_a_vocabulary_with_holes_has_room_for_its_largest_id(tmp_path: Path) -> None:
    codec = Codec.fit(saved(tmp_path / "tokenizer.json", words("[UNK]", "</s>", "a", ids=[0, 1, 70_000])), iter(()))
    assert codec.vocab_size == 70_001
    tokens = codec.encode(["a"])[0]["tokens"]
    assert isinstance(tokens, Ragged)
    assert tokens.values.tolist() == [70_000, 1]


def test_the_end_token_is_found_or_named_or_asked_for(tmp_path: Path) -> None:
    config = saved(tmp_path / "tokenizer.json", words("[UNK]", "stop"))
    with clear_error("tokenizer.end", "end: TOKEN", error=FieldError):
        Codec.fit(config, iter(()))
    named = read(Config, {"tokenizer": {"kind": "file", "path": str(tmp_path / "tokenizer.json"), "end": "stop"}})[0]
    assert Codec.fit(named, iter(())).end == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff\xfe", b'{"version": "1.0"', b"[" * 100_000, b"null", b'{"model": {"type": "BPE"}}']
)
def test_A4_a_damaged_tokenizer_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    config = read(Config, {"tokenizer": {"kind": "file", "path": str(path)}})[0]
    with pytest.raises((DataError, FieldError)) as caught:
        Codec.fit(config, iter(()))
    check_clear(str(caught.value), "tokenizer.json")


def test_a_tokenizer_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = read(Config, {"tokenizer": {"kind": "file", "path": str(tmp_path / "none.json")}})[0]
    with clear_error("tokenizer.path", "none.json", error=FieldError):
        Codec.fit(config, iter(()))


@pytest.mark.parametrize("tokenizer", [{"kind": "char", "vocab_size": 2}, {"kind": "bpe", "vocab_size": 100}])
def test_a_vocabulary_too_small_for_its_kind_is_refused(tokenizer: dict[str, Any]) -> None:
    config, problems = read(Config, {"tokenizer": tokenizer}, "inputs.x")
    assert config is None
    assert "vocab_size" in problems[0].key


# -------------------------------------------------------------------------------------------------------------- modules


def test_a_language_model_sees_the_token_before() -> None:
    codec = CODECS["byte"]
    encoder = Encoder(codec.config, codec, 8, 4)
    tokens = torch.tensor([[5, 6, 7], [8, 9, 0]])
    batch = {"x.tokens": tokens, "x.tokens.length": torch.tensor([3, 2])}
    shifted = encoder.shifted(batch, "x")
    expected = encoder.embed(torch.tensor([[codec.end, 5, 6], [codec.end, 8, 9]]), torch.tensor([3, 2]))
    assert torch.equal(shifted.values, expected.values)
    assert torch.equal(shifted.mask, expected.mask)
    within = encoder.shifted(batch | {"x.before": torch.tensor([3, 4])}, "x")
    assert torch.equal(within.values[:, 0], encoder.embed(torch.tensor([[3], [4]]), torch.tensor([1, 1])).values[:, 0])


@pytest.mark.parametrize("width", [64, 32])
def test_a_shared_matrix_begins_as_the_embedding_and_one_of_its_own_as_zero(width: int) -> None:
    """Whatever the order of the parts: a head that filled the shared matrix anew would undo the embedding's scale."""
    codec = CODECS["bpe"]
    encoder, head = Encoder(codec.config, codec, 64, 4), Head(codec.config, codec, width, Loss())
    head.tie(encoder)
    initialize(torch.nn.ModuleList([encoder, head]), 0)
    assert float(encoder.embedding.weight.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    if width == 64:
        assert head.projection.weight is encoder.embedding.weight
    else:  # unlike widths cannot share
        assert not head.projection.weight.any()
    untied = Head(config_of("bpe", tied=False), codec, 64, Loss())
    untied.tie(encoder)
    initialize(untied, 0)
    assert not untied.projection.weight.any()


def test_lowercase_beside_a_finished_tokenizer_is_refused() -> None:
    _, problems = read(Config, {"lowercase": True, "tokenizer": {"kind": "file", "path": "x.json"}}, "inputs.x")
    assert str(problems[0]) == (
        "inputs.x.lowercase = true: expected false beside a finished tokenizer, which changes the text its own way. "
        "Fix: remove it."
    )


def test_runs_of_tokens_count_by_how_rare_they_are_and_padding_not_at_all() -> None:
    grams = text.Grams(3, 4)
    grams.reset_parameters()
    tokens = torch.tensor([[5, 6, 7], [5, 6, 0], [5, 9, 0]])
    lengths = torch.tensor([3, 2, 2])
    grams.train()(tokens, lengths)
    assert int(grams.rows) == 3
    assert int(grams.seen.sum()) == 6 + 3 + 3  # the runs of each row, padding left out
    seen = grams.seen[hashed_runs(tokens, grams.longest, grams.BUCKETS)]  # (n, B, T)
    assert seen[0, :, 0].tolist() == [3, 3, 3]  # token 5 stands in every row
    assert seen[1, :2, 1].tolist() == [2, 2]  # the run 5 6 in two
    before = grams.seen.clone()
    features = grams.eval()(torch.tensor([[5, 0, 0]]), torch.tensor([1]))
    assert torch.equal(grams.seen, before)  # what is not trained on is not counted
    assert features.mask.tolist() == [[True, False, False]]
    assert torch.equal(features.values[0], torch.zeros(3, 4))  # what stands everywhere tells nothing


def test_a_run_that_stands_twice_in_a_row_is_counted_once() -> None:
    grams = text.Grams(2, 4)
    grams.reset_parameters()
    grams.train()(torch.tensor([[3, 3, 3, 3]]), torch.tensor([4]))
    assert sorted(grams.seen[grams.seen > 0].tolist()) == [1, 1]


def test_runs_stand_beside_tokens_and_not_beside_what_stands_in_their_place() -> None:
    _, problems = read(Config, {"ngrams": 2, "runs": 3}, "inputs.x")
    assert str(problems[0]) == (
        "inputs.x.runs = 3: expected 1 beside ngrams, which stand in place of tokens. Fix: remove one of them."
    )


def test_tokens_count_by_how_rare_they_are_where_the_recipe_says_so() -> None:
    config = config_of("byte", rarity=True)
    codec = Codec.fit(config, LINES)
    encoder = Encoder(config, codec, 8, 1)
    initialize(encoder, 0)
    tokens, lengths = torch.tensor([[5, 6], [5, 7], [5, 8]]), torch.tensor([2, 2, 2])
    batch = {"x.tokens": tokens, "x.tokens.length": lengths}
    encoder.train()(batch, "x")
    values = encoder.eval()(batch, "x").values
    assert not values[:, 0].any()  # it stands in every row
    bucket = hashed_runs(tokens, 1, text.Grams.BUCKETS)[0, 1, 1]
    assert encoder.grams is not None
    torch.testing.assert_close(values[1, 1], encoder.grams.embedding.weight[bucket] * math.log(4 / 2))
    for more, said in (({"ngrams": 2}, "false beside ngrams"), ({"runs": 2}, "false beside runs")):
        _, problems = read(Config, {"rarity": True, **more}, "inputs.x")
        assert said in str(problems[0])


def test_a_smoothed_loss_is_refused_beside_copying() -> None:
    config = dataclasses.replace(config_of("byte"), shares="x", copy=True)
    with pytest.raises(ValueError, match=r"train\.loss\.label_smoothing = 0\.1: expected 0 beside copy"):
        Head(config, Codec.fit(config, LINES), 8, Loss(label_smoothing=0.1))


def test_runs_of_a_written_text_tell_what_stands_before_and_nothing_of_what_comes() -> None:
    codec = Codec.fit(config_of("byte"), LINES)
    encoder = Encoder(config_of("byte", runs=3), codec, 8, 1)
    initialize(encoder, 0)
    tokens, lengths = torch.tensor([[5, 6, 7, 8], [9, 6, 7, 8]]), torch.tensor([4, 4])
    assert encoder.runs is not None
    assert not encoder.runs(tokens).any()  # they begin at zero
    torch.nn.init.normal_(encoder.runs.embedding.weight)
    values = encoder.embed(tokens, lengths).values
    assert not torch.equal(values[0, 2], values[1, 2])  # 5 6 7 and 9 6 7
    assert torch.equal(values[0, 3], values[1, 3])  # 6 7 8 both: three tokens back and no further
    assert torch.equal(encoder.embed(tokens[:, :3], lengths - 1).values, values[:, :3])
    last = encoder.embed(tokens[:, -3:], torch.tensor([3, 3])).values[:, -1]
    assert torch.equal(last, values[:, -1])


def test_a_tokenizer_learns_from_a_part_of_very_many_words_that_are_all_different(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizers, "TRAINING_WORDS", 300)
    lines = [f"春眠{chr(0x4E00 + index)}{chr(0x5E00 + index)}" for index in range(1000)]  # no word occurs twice
    codec = text.Codec.fit(text.Config(tokenizer=tokenizers.BPETokenizer(vocab_size=300)), lines)
    assert codec.vocab_size == 300
    assert len(codec.ids(["春眠"])[0]) == 1
