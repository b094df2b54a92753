from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dougong
from dougong.core.errors import DataError
from dougong.data.loader import collate
from dougong.data.tokenizers import BPETokenizer, ByteTokenizer, CharTokenizer, UnigramTokenizer
from dougong.data.words import word_places
from dougong.fields import tags, text
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.model import joined_places

NAMES = ("ann", "bob", "carl", "dora")
PLACES = ("paris", "rome", "oslo", "new york")


def sentences(count: int) -> list[dict[str, Any]]:
    """Who is where: names and places never stand at the same word twice."""
    rows = []
    for number in range(count):
        name, place = NAMES[number % 4], PLACES[number // 4 % 4].split()
        words = [*["so"] * (number % 3), name, "went", "to", *place, "today"][: 8 if number % 5 else None]
        marks = {name: "B-per"} | {word: "I-loc" if index else "B-loc" for index, word in enumerate(place)}
        rows.append({"words": words, "tags": [marks.get(word, "O") for word in words]})
    return rows


def recipe(file: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "names",
        "data": {"train": str(file), "cache": str(file.parent / "cache")},
        "inputs": {"sentence": {"type": "text", "column": "words", "tokenizer": {"kind": "bpe", "vocab_size": 300}}},
        "outputs": {"tags": {"type": "tags", "column": "tags"}},
        "model": {"kind": "transformer", "preset": "tiny"},
        "train": {"steps": 150, "batch_size": 16, "device": "cpu"},
    } | changes


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_names_and_places_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = dougong.train(recipe(written(tmp_path, sentences(240))))
    assert run.metrics()["test"]["tags.f1"]["value"] > 0.9
    answer = run.predict([{"words": "so so bob went to new york today"}])[0]["tags"]
    assert answer["value"] == ["O", "O", "B-per", "O", "O", "B-loc", "I-loc", "O"]
    assert answer["entities"] == [
        {"first": 2, "last": 2, "type": "per"},
        {"first": 5, "last": 6, "type": "loc"},
    ]
    assert run.predict([{"words": ["so", "so", "bob", "went"]}])[0]["tags"]["value"][:3] == ["O", "O", "B-per"]


def test_rows_whose_tags_do_not_fit_are_listed(tmp_path: Path) -> None:
    rows = sentences(200) + [{"words": "one two three", "tags": "O O"}, {"words": ["a b", "c"], "tags": ["O", "O"]}]
    file = written(tmp_path, rows)
    plain = recipe(file)
    plain["data"]["cleaning"] = {"max_bad": 0.1}
    prepared = dougong.prepare(plain)
    listed = [json.loads(line)["reason"] for line in (prepared.folder / "quarantine.jsonl").read_text().splitlines()]
    assert listed == [
        "column 'tags': 2 tags for a text of 3 words, which are what white space separates",
        "column 'words': ['a b', 'c'] is not text, nor a list of words",
    ]


def test_a_tag_that_is_empty_is_named() -> None:
    with pytest.raises(ValueError, match="that of word 2 is empty"):
        tags.Codec.parse(["O", "", "O"])
    with pytest.raises(ValueError, match="expected a JSON list of tags"):
        tags.Codec.parse("[O, O")
    with pytest.raises(ValueError, match="expected a list of tags"):
        tags.Codec.parse(7)
    assert tags.Codec.parse('["O", "B-x"]') == tags.Codec.parse("O  B-x") == ["O", "B-x"]


def test_too_many_tags_are_refused() -> None:
    with pytest.raises(DataError, match="10,001 tags; expected at most 10,000"):
        tags.Codec.fit(tags.Config(column="t"), ([str(index)] for index in range(10_001)))


PIECES = st.sampled_from(
    ["a", "Bc", " ", "  ", "\t", "\n", "12", "é", "e\u0301", "春", "眠", "🙂", ".", "\u00a0", "\u3000"]
)


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram"])
@given(texts=st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=1, max_size=3))
@settings(max_examples=60)
def test_each_word_begins_in_the_token_that_is_told(kind: str, texts: list[str]) -> None:
    codec = codec_of(kind)
    columns, _ = codec.encode(texts)
    for index, text_ in enumerate(texts):
        ids = [codec.tokenizer.id_to_token(token) for token in columns["tokens"].row(index)]
        sizes = [
            len(token.encode()) if kind == "char" else len(token) for token in ids
        ]  # byte-level: a sign for each byte
        ends = [0, *np.cumsum(sizes)]  # bytes up to each token
        for place, start in zip(columns["words"].row(index), word_places(text_), strict=True):
            assert ends[place] <= len(text_[:start].encode()) < ends[place + 1]


CODECS: dict[str, text.Codec] = {}


def codec_of(kind: str) -> text.Codec:
    if kind not in CODECS:
        sample = ["a Bc 12 . é e\u0301 春 眠 🙂 \u00a0 \u3000 \t \n", "Bc 12a 春眠 a.a"]
        size = {} if kind == "byte" else {"vocab_size": 300}
        made: dict[str, Any] = {
            "byte": ByteTokenizer,
            "char": CharTokenizer,
            "bpe": BPETokenizer,
            "unigram": UnigramTokenizer,
        }
        tokenizer = made[kind](**size)
        CODECS[kind] = text.Codec.fit(text.Config(tokenizer=tokenizer, words=True), sample)
    return CODECS[kind]


def head_and_batch(texts: list[str], marks: list[list[str]], limit: int) -> tuple[tags.Head, dict[str, torch.Tensor]]:
    codec = tags.Codec.fit(tags.Config(column="t"), [["A", "B", "C"]])
    words, _ = codec_of("byte").encode(texts)
    told, _ = codec.encode(marks)
    columns = {f"x.{key}": column for key, column in words.items()} | {
        f"y.{key}": column for key, column in told.items()
    }
    batch = collate(columns, np.arange(len(texts)), {"x.tokens": limit})
    head = tags.Head(tags.Config(of="x"), codec, 6, Loss())
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(0))
    return head, batch


def test_the_loss_is_that_of_the_words_that_were_read() -> None:
    head, batch = head_and_batch(["ab cd ef", "gh"], [["A", "never", "C"], ["B"]], limit=6)  # "ab cd " is read
    encoder = text.Encoder(text.Config(words=True), codec_of("byte"), 6, 4)
    torch.nn.init.normal_(encoder.embedding.weight, generator=torch.Generator().manual_seed(1))
    features = encoder(batch, "x")
    assert features.places.tolist() == [[0, 3, -1], [0, -1, -1]]
    logits = head.linear(features.values)
    expected = torch.nn.functional.cross_entropy(
        torch.stack([logits[0, 0], logits[1, 0]]), torch.tensor([0, 1]), reduction="sum"
    )
    torch.testing.assert_close(head.loss(features, batch, "y"), expected)
    assert head.count(batch, "y") == 2
    predicted = head.predict(features, batch, "y")
    assert predicted["tags.length"].tolist() == [2, 1]
    assert predicted["tags"][0, 1] == logits[0, 3].argmax()


def test_words_keep_their_places_beside_other_inputs() -> None:
    first = Features(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    second = Features(torch.zeros(2, 5, 4), torch.ones(2, 5, dtype=torch.bool), places=torch.tensor([[0, 2], [1, -1]]))
    found = joined_places([first, second, first])
    assert found is not None
    assert found.tolist() == [[3, 5], [4, -1]]
    assert joined_places([first, first]) is None
