"""Text that must match: every tokenizer, every way of choosing tokens, and what is told where it cannot be."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

import dougong
from dougong import assembly, recipe
from dougong.core.config import read
from dougong.core.errors import FieldError, Note
from dougong.fields import Field, text
from dougong.fields.text import Codec
from dougong.inference import constraints, generate
from dougong.inference.generate import Config
from dougong.inference.writer import Writer
from dougong.model import Model
from tests.small_runs import home, recipe_of, run

LINES = [
    "good day 12, number 3\nand bad night",
    '{"name": "Anna", "age": 31}',
    "naïve 床前明月光 été ß 😀",
    "2024-05-17: 3.5",
]
KINDS = ["byte", "char", "bpe", "unigram", "sentencepiece", "metaspace"]
BYTEWISE = ["byte", "bpe", "unigram", "sentencepiece"]  # the others know no backslash, and could not write all JSON
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}


def finished(kind: str) -> Path:
    """A tokenizer.json as SentencePiece's models have it: ▁ for a space, bytes for what is no piece."""
    bytes_ = [(f"<0x{value:02X}>", -9.0) for value in range(256)]
    pieces = [
        (piece, -3.0) for piece in ["▁", "▁good", "▁day", "good", "ay", "1", "12", ":", '"', '":', "é", "▁▁", ", "]
    ]
    letters = [(chr(value), -5.0) for value in range(ord("a"), ord("z") + 1)]
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *bytes_, *pieces, *letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    replace, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    joined = [replace, decoders.ByteFallback(), decoders.Fuse(), strip]
    tokenizer.decoder = decoders.Sequence(joined) if kind == "sentencepiece" else decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    path = home() / f"{kind}.json"
    tokenizer.save(str(path))
    return path


@cache
def model_of(kind: str) -> Model:
    """A language model with random weights over that tokenizer."""
    tokenizer: dict[str, Any] = {"kind": kind}
    if kind in ("bpe", "unigram"):
        tokenizer["vocab_size"] = 300
    if kind in ("sentencepiece", "metaspace"):
        tokenizer = {"kind": "file", "path": str(finished(kind))}
    output = {"type": "text", "tokenizer": tokenizer, "max_length": 48}
    loaded = recipe.load(recipe_of("poems") | {"outputs": {"text": output}})
    config = loaded.outputs["text"]
    return assembly.build(loaded, [], [Field("text", config, Codec.fit(config, LINES))])


def many(model: Model, count: int, **options: Any) -> list[str]:
    """As many texts, each with a seed of its own, in which nothing is missing."""
    codec = model.outputs[0].codec
    config = generate.options({"max_tokens": 60, "temperature": 1.5} | options)
    schema = None if config.json_schema is None else json.dumps(config.json_schema)
    one = constraints.constraint(codec, config.regex, schema)
    with torch.inference_mode():
        found = generate.write(model.eval(), {}, [[codec.end] for _ in range(count)], config, constraint=one)
    assert [one.rest(tokens) for tokens in found] == [None] * count
    return [codec.text(tokens) for tokens in found]


def written(model: Model, **options: Any) -> str:
    """One text, in which nothing is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = generate.generate(model, [""], generate.options({"max_tokens": 60, "temperature": 1.5} | options))
    return found


# -------------------------------------------------------------------------------------------------- what is written fits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("regex", [r"(good|bad) \w+ \d{1,3}", r"[^a-z]{2,9}", r"\s?(été|😀+) ?"])
def test_fifty_seeds_write_fifty_texts_that_match(kind: str, regex: str) -> None:
    texts = many(model_of(kind), 50, regex=regex, max_tokens=24)
    assert [found for found in texts if not re.fullmatch(regex, found)] == []
    assert len(set(texts)) > 1  # it is sampled


@pytest.mark.parametrize("kind", BYTEWISE)
def test_fifty_seeds_write_json_that_fits(kind: str) -> None:
    for found in many(model_of(kind), 50, json_schema=PERSON):
        jsonschema.validate(json.loads(found), PERSON)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "beams": 4},
        {"temperature": 0.0, "beams": 3, "length_penalty": -1.0},
        {"top_k": 2},
        {"top_p": 0.3},
        {"min_p": 0.9},
        {"repetition_penalty": 5.0},
        {"temperature": 1e-300},
        {"temperature": 1e6},
    ],
)
def test_every_way_of_choosing_keeps_to_it(kind: str, options: dict[str, Any]) -> None:
    found = written(model_of(kind), regex=r"[a-z]{2,4} 12(, \w+)*", **options)
    assert re.fullmatch(r"[a-z]{2,4} 12(, \w+)*", found)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_tokens_are_said_to_write_is_what_they_are_decoded_to(kind: str) -> None:
    """Random tokens that make whole characters, whatever they are."""
    codec = model_of(kind).outputs[0].codec
    vocabulary = constraints.constraint(codec, r"(?s:.)*", None).vocabulary
    known, chance = list(vocabulary.spelled), np.random.default_rng(0)
    whole = 0
    for _ in range(300):
        tokens = chance.choice(known, 4).tolist()
        first = (vocabulary.leading or vocabulary.spelled)[tokens[0]]
        spelled = first + b"".join(vocabulary.spelled[token] for token in tokens[1:])
        try:
            assert codec.text(tokens) == spelled.decode()
            whole += 1
        except UnicodeDecodeError:
            continue
    assert whole > 10
    assert codec.end not in known


def test_a_character_token_model_never_writes_the_unknown_token() -> None:
    model = model_of("char")
    assert model.outputs[0].codec.unknown is not None
    texts = many(model, 50, regex=r"(?s:.){5,9}", temperature=50.0)
    assert all(5 <= len(found) <= 9 and set(found) <= set("".join(LINES)) for found in texts)


# --------------------------------------------------------------------------------------------------- as the model would


class Table:
    """A model's head whose logits follow from the number of tokens before, whatever comes in."""

    looks_back = 1

    def __init__(self, logits: Tensor):  # (T, V)
        self.all, self.at = logits, 0

    def logits(self, values: Tensor) -> Tensor:
        self.at += 1
        return self.all[self.at - 1].expand(len(values), -1)


def table(model: Model, monkeypatch: pytest.MonkeyPatch, steps: int = 8) -> Table:
    codec = model.outputs[0].codec
    head = Table(torch.randn(steps, codec.vocab_size, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr(model, "head", lambda field: head)
    return head


def test_samples_follow_the_models_softmax_over_what_may_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("byte")
    codec, head = model.outputs[0].codec, table(model, monkeypatch)
    ids = {letter: codec.tokenizer.token_to_id(letter) for letter in "abc"}

    def share(step: int, token: int, allowed: list[int]) -> float:
        return float(head.all[step, allowed].double().softmax(0)[allowed.index(token)])

    expected = {}  # a[bc] or c, each followed by up to one more a
    for start in ("ab", "ac", "c"):
        first = share(0, ids[start[0]], [ids["a"], ids["c"]])
        second = 1.0 if start == "c" else share(1, ids[start[1]], [ids["b"], ids["c"]])
        more = share(len(start), ids["a"], [ids["a"], codec.end])
        expected |= {start + "a": first * second * more, start: first * second * (1 - more)}
    counts = dict.fromkeys(expected, 0)
    for found in many(model, 3000, regex="(a[bc]|c)a?", temperature=1.0):
        counts[found] += 1
    for found, probability in expected.items():
        error = 4 * math.sqrt(probability * (1 - probability) / 3000)
        assert abs(counts[found] / 3000 - probability) < error, found


def test_beams_find_the_likeliest_of_all_texts_that_match(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("byte")
    codec, head = model.outputs[0].codec, table(model, monkeypatch)
    logs = head.all.log_softmax(-1)

    def likelihood(found: str) -> float:
        ids = [*(codec.tokenizer.token_to_id(letter) for letter in found), codec.end]
        return float(sum(logs[step, token] for step, token in enumerate(ids)))

    texts = ["".join(letters) for size in (2, 3) for letters in itertools.product("abc", repeat=size)]
    best = max(texts, key=likelihood)
    assert written(model, regex="[abc]{2,3}", temperature=0.0, beams=64, length_penalty=0.0) == best


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    first, again, other = (written(model_of("bpe"), regex=r"\w{20}", seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_what_a_prompt_becomes_does_not_depend_on_the_others() -> None:
    trained, options = run("poems"), {"regex": r"[a-z ]{5,20}\.", "max_tokens": 24, "seed": 3}
    assert trained.generate(["good", "bad"], **options)[0] == trained.generate(["good"], **options)[0]


def test_without_a_constraint_nothing_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = run("poems")
    for options in ({"temperature": 1.0}, {"temperature": 0.0, "beams": 3}):
        free = trained.generate(["good"], max_tokens=20, **options)
        monkeypatch.setattr(Writer, "restrict", lambda self, scores: scores)
        assert trained.generate(["good"], max_tokens=20, **options) == free
        monkeypatch.undo()


def test_one_that_allows_all_that_is_written_changes_no_token() -> None:
    """All tokens of bytes that make UTF-8 are there; greedily the model writes the same."""
    trained = run("poems")
    (free,) = trained.generate(["good"], max_tokens=40, temperature=0.0)
    assert "\ufffd" not in free
    assert trained.generate(["good"], max_tokens=40, temperature=0.0, regex=r"(?s:.)*") == [free]


def test_what_may_follow_is_computed_once_for_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec.fit(read(text.Config, {"tokenizer": {"kind": "byte"}})[0], [])
    found = constraints.constraint(codec, r"[ab]{3}c*", None)
    asked = []
    monkeypatch.setattr(constraints.Constraint, "walk", lambda self, place: asked.append(place))
    scores = torch.zeros(1, codec.vocab_size)
    for _ in range(5):
        found.restrict(scores, [found.start], 10)
    assert asked == []  # known since it was made
    assert found.moves.cache_info().misses == 1


# ------------------------------------------------------------------------------------------------------------- in time


@pytest.mark.parametrize("kind", BYTEWISE)
def test_json_is_closed_in_time(kind: str) -> None:
    """A string without bounds is ended when the tokens run out, and not before."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "null"}}, "required": ["a", "b"]}
    shortest = constraints.constraint(model_of(kind).outputs[0].codec, None, json.dumps(schema)).shortest
    for most in (shortest, shortest + 1, shortest + 7, 46):
        for found in many(model_of(kind), 10, json_schema=schema, max_tokens=most):
            json.loads(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_is_counted_in_tokens_exactly(kind: str) -> None:
    """Against all runs of up to three tokens, of the vocabulary's tokens that could stand there at all."""
    codec = model_of(kind).outputs[0].codec
    for regex in ("good", "12:?", " ?day", "goodday", "été|12121212"):
        one = constraints.constraint(codec, regex, None)
        useful = [
            token
            for token, spelled in one.vocabulary.spelled.items()
            if spelled.decode(errors="replace") in "goodday 12: day été12121212"
        ]
        tried = itertools.chain.from_iterable(itertools.product(useful, repeat=size) for size in range(1, 4))
        found = next((len(tokens) for tokens in tried if re.fullmatch(regex, codec.text(tokens))), 4)
        assert one.shortest == found or (found == 4 and one.shortest >= 4), regex


def test_a_text_that_cannot_be_whole_is_told_with_what_it_lacks() -> None:
    model = model_of("byte")
    with pytest.warns(Note, match=r"text 1 is not whole after 5 tokens: it takes at least 2 more tokens, such as 'aa'"):
        assert generate.generate(model, [""], Config(max_tokens=5, regex="a{7}")) == ["aaaaa"]
    with pytest.warns(Note, match=r"text 2 is not whole after 6 tokens: it takes 1 more token, such as 'a'"):
        generate.generate(model, ["", "b"], Config(max_tokens=6, regex="a{7}"))
    with pytest.warns(Note, match=r"such as '\":\"\",\"age\":\d\}'"):
        generate.generate(model, [""], Config(max_tokens=6, json_schema=PERSON))
    with pytest.warns(Note, match="text 1 is not whole after 3 tokens"):
        generate.generate(model, [""], Config(max_tokens=3, regex="a{7}", beams=3, temperature=0.0))


def test_a_models_last_position_is_an_end_that_is_kept_in_time() -> None:
    trained = run("poems-learned")  # 56 positions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        (found,) = trained.generate(["good day"], regex=r"[a-z ]*\.", max_tokens=500, temperature=2.0)
    assert re.fullmatch(r"[a-z ]*\.", found)


def test_no_step_leads_to_where_no_token_goes_on() -> None:
    """The vocabulary has no x: after "b" only y goes on, and after "c" nothing does."""
    codec = Codec.fit(read(text.Config, {"tokenizer": {"kind": "char"}})[0], ["abcy"])
    one = constraints.constraint(codec, "a|bx|by|cx", None)
    allowed = {codec.text([token]) for token in one.allowed(one.start, 10).tolist()}
    assert allowed == {"a", "b"}
    assert {codec.text([token]) for token in one.allowed(one.start, 1).tolist()} == {"a"}  # b would not be whole


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regex": "a(b"}, r"generate.regex = 'a\(b': expected a regular expression \(missing \), .* at character 2\)"),
        ({"regex": r"a\bb"}, r"expected a regular expression without \\b or \\B. Fix: write it with characters"),
        (
            {"regex": "a", "json_schema": {"type": "null"}},
            "generate.regex = 'a': expected one of regex and json_schema",
        ),
        ({"regex": 7}, "generate.regex = 7: expected text"),
        ({"json_schema": "x"}, "generate.json_schema = 'x': expected a mapping of keys to values"),
        ({"regex": r"[^\s\S]"}, "expected something that a text can fit, and none fits this"),
        ({"regex": r"(\w{300}){400}"}, "expected what takes at most 50,000 states. Fix: repeat long parts fewer times"),
    ],
)
def test_what_cannot_be_kept_is_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        dougong.generate(run("poems"), "a", **options)


def test_a_vocabulary_that_cannot_write_it_is_told_with_the_character() -> None:
    codec = Codec.fit(read(text.Config, {"tokenizer": {"kind": "char"}})[0], ["abc"])
    with pytest.raises(FieldError, match=r"no token goes on after 'ab' to 'abx'. Fix: change it, or use a run whose"):
        constraints.constraint(codec, "ab(x|yy)c*", None)


def test_a_tokenizer_that_changes_what_it_joins_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    finished = {"tokenizer": {"kind": "file", "path": str(tmp_path / "tokenizer.json")}}
    with pytest.raises(
        FieldError, match=r"tokenizer.decoder = 'WordPiece': expected a tokenizer whose decoder only joins"
    ):
        constraints.constraint(Codec.fit(read(text.Config, finished)[0], []), "a", None)
