"""Answers that are quoted from a passage: what is read, where it stands, what is learnt, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dougong
from dougong import assembly
from dougong.core.config import read
from dougong.core.errors import FieldError, RecipeError
from dougong.data import cleaning, prepare
from dougong.data.loader import collate
from dougong.data.rows import Chunk, Cleaner, Piece, Used
from dougong.data.sentencepiece import SentencePiece
from dougong.data.tokenizers import FileTokenizer
from dougong.data.windows import Held, Windows
from dougong.fields import span, text
from dougong.inference.predict import best_windows, losses, predictions
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.metrics.writing import texts
from tests.clear_error import check_clear
from tests.small_runs import run

COLOURS = ("red", "green", "dark blue", "white", "black")
SIZES = ("4", "17", "230", "5 cm", "9")
SHAPES = ("round", "flat", "long", "square")


def records(count: int) -> list[dict[str, Any]]:
    """A few facts in any order, and a question after one of them; every seventh passage does not tell it."""
    rows = []
    for number in range(count):
        facts = {
            "colour": COLOURS[number % 5],
            "size": SIZES[number // 5 % 5],
            "shape": SHAPES[number // 25 % 4],
        }
        question = list(facts)[number // 3 % 3]
        right = facts[question]
        if number % 7 == 0:
            del facts[question]
        order = sorted(facts, key=lambda name: (len(name) * 7 + number * 3) % 5)
        passage = "; ".join(f"{name}: {facts[name]}" for name in order)
        answer = (
            None if number % 7 == 0 else {"text": right, "start": passage.index(f"{question}: ") + len(question) + 2}
        )
        rows.append({"question": question, "passage": passage, "answer": answer})
    return rows


def recipe(file: Path, **changes: Any) -> dict[str, Any]:
    words = {"type": "text", "tokenizer": {"kind": "bpe", "vocab_size": 320}}
    return {
        "name": "facts",
        "data": {"train": str(file), "cache": str(file.parent / "cache")},
        "inputs": {"question": words, "passage": words},
        "outputs": {"answer": {"type": "span", "of": "passage"}},
        "model": {"kind": "transformer", "preset": "tiny"},
        "train": {"steps": 150, "batch_size": 32, "device": "cpu", "optimizer": {"kind": "adamw", "lr": 0.01}},
    } | changes


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_answers_are_found_and_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = dougong.train(recipe(written(tmp_path, records(400))))
    measured = trained.metrics()["test"]
    assert measured["answer.exact_match"]["value"] >= 0.9
    passage = "shape: flat; colour: dark blue; size: 17"
    told, untold = trained.predict(
        [{"question": "colour", "passage": passage}, {"question": "size", "passage": "shape: flat"}]
    )
    assert told["answer"] == {
        "value": "dark blue",
        "start": 21,
        "end": 30,
        "probability": told["answer"]["probability"],
    }
    assert 0.5 < told["answer"]["probability"] <= 1
    assert untold["answer"]["value"] is None


# --------------------------------------------------------------------------------------------------------- long passages


@pytest.mark.parametrize("threshold", [-math.inf, math.inf])
def test_a_long_passage_is_answered_by_its_best_window(threshold: float) -> None:
    """Compared with each window of sixteen bytes, read as if it were a passage of its own."""
    trained = dougong.load(run("spans").folder)
    trained.model.head(trained.outputs[0]).threshold.fill_(threshold)
    passage = "size: 15; colour: dark blue; shape: long; size: 30; colour: red; weight: 7"
    for question in ("size", "colour", "shape"):
        row = {"question": question, "passage": passage}
        (answer,) = trained.predict([row])
        found = []
        for start in range(0, len(passage) - 16 + 7, 7):  # 16 - max_answer + 1 apart
            alone = trained.encode([trained.read({**row, "passage": passage[start : start + 16]}, 0)])
            with torch.inference_mode():
                said = trained.model.predict(alone)["answer"]
            found.append((float(said["margin"]), start + int(said["start"]), start + int(said["stop"]), said))
        assert found[-1][1] <= len(passage) < start + 17
        _, start, stop, said = max(found, key=lambda each: each[0])
        if threshold < 0:
            quoted = passage[start:stop].strip()
            assert answer["answer"]["value"] == quoted
            assert passage[answer["answer"]["start"] : answer["answer"]["end"]] == quoted
            assert answer["answer"]["probability"] == pytest.approx(float(said["probability"]), rel=1e-4)
        else:
            least = min(float(each[3]["none"]) for each in found)
            assert answer["answer"] == {
                "value": None,
                "start": None,
                "end": None,
                "probability": pytest.approx(least, rel=1e-4),
            }


def test_long_passages_are_not_cut_and_every_row_is_measured_once() -> None:
    trained = run("spans")
    split = trained.prepared.split("train")
    assert (split.lengths("passage.ends") > 16).mean() > 0.5
    assert "cut to" not in (trained.prepared.folder / "report.json").read_text()
    plan = assembly.plan_of(trained.recipe, split, trained.inputs, trained.outputs)
    brief = assembly.plan_of(trained.recipe, split, trained.inputs, trained.outputs, brief=True)
    assert plan.split.rows == brief.split.rows > split.rows
    rows, loss, targets = [], 0.0, 0
    for predicted in predictions(trained.model, plan, trained.autocast):
        rows += predicted.rows.tolist()
        loss, targets = loss + predicted.losses["answer"][0], targets + predicted.losses["answer"][1]
    assert sorted(rows) == list(range(split.rows))
    assert targets == plan.split.rows  # a window is a target
    assert loss / targets == pytest.approx(losses(trained.model, plan, trained.autocast)["answer"], rel=1e-5)


def test_the_best_window_of_a_row_gives_its_answer() -> None:
    def columns(margin: list[float], start: list[int], none: list[float]) -> dict[str, np.ndarray]:
        return {"margin": np.array(margin), "start": np.array(start), "none": np.array(none)}

    read = [
        (np.array([2, 0, 2]), columns([1.0, -3.0, 2.0], [5, 6, 7], [0.3, 0.9, 0.2])),
        (np.array([1, 2]), columns([0.5, 2.0], [8, 3], [0.4, 0.6])),
        (
            np.array([1]),
            columns(
                [
                    0.7,
                ],
                [9],
                [0.5],
            ),
        ),
    ]
    found = list(best_windows(iter(read), np.array([1, 2, 3])))
    assert [rows.tolist() for rows, _ in found] == [[0], [2], [1]]
    assert [best["start"].tolist() for _, best in found] == [[6], [3], [9]]  # of equally good ones the first
    assert [best["none"].tolist() for _, best in found] == [[0.9], [0.2], [0.4]]


def test_a_run_that_stops_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = recipe(written(tmp_path, records(120)))
    plain["inputs"]["passage"] = {**plain["inputs"]["passage"], "max_length": 10}
    plain["outputs"]["answer"]["max_answer"] = 6
    plain["train"] = {"steps": 11, "batch_size": 8, "checkpoint_every": 4, "device": "cpu"}
    whole = dougong.train({**plain, "name": "whole"})
    loss, calls = span.Head.loss, [0]

    def failing(self: Any, *arguments: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        return loss(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(span.Head, "loss", failing)
        with pytest.raises(KeyboardInterrupt):
            dougong.train({**plain, "name": "cut"})
    cut = dougong.train({**plain, "name": "cut"})
    weights = cut.model.weights()
    assert all(torch.equal(weights[name], weight) for name, weight in whole.model.weights().items())


# ---------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"answer": "Paris"}, "column 'answer': the answer 'Paris' is not in the passage"),
        (
            {"answer": {"text": "Rome", "start": 6}},
            "column 'answer': the answer 'Rome' does not stand at character 6 of the passage, but at 7: write start: 7",
        ),
        (
            {"answer": "Rome", "passage": "  "},
            "column 'answer': the answer 'Rome' has an empty passage; write null where",
        ),
        ({"answer": "Ro\ud800me"}, "column 'answer': a lone surrogate is no character"),
        ({"answer": 7}, "column 'answer': expected a text of the passage, {text, start}"),
    ],
)
def test_a_row_whose_answer_does_not_fit_is_listed(raw: dict[str, Any], problem: str, tmp_path: Path) -> None:
    kinds = {"question": text, "passage": text, "answer": span}
    used = [
        Used(name, module.Config(column=name, **({"of": "passage"} if module is span else {})), module is span, module)
        for name, module in kinds.items()
    ]
    columns = {name: [value] for name, value in ({"question": "where?", "passage": "Ann in Rome"} | raw).items()}
    config = prepare.Config(train="x", cleaning=cleaning.Config(empty="keep"))
    found = cleaned(columns, used, config)
    assert len(found) == 1
    assert found[0].startswith(problem), found


def cleaned(columns: dict[str, list[Any]], used: list[Used], config: prepare.Config) -> list[str]:
    """Why rows were refused."""
    cleaner = Cleaner(config, used, Path())
    piece = Piece("rows.jsonl", columns, [1], [])
    return [record["reason"] for record in cleaner.clean(Chunk(0, "train", piece)).refused]


def test_what_is_read_is_counted_and_an_answer_is_found_in_its_passage(tmp_path: Path) -> None:
    rows = records(60) + [
        {"question": "size", "passage": "size: 4; colour: 4", "answer": "4"},
        {"question": "size", "passage": "size: 40 x 3", "answer": {"text": ["3", "40 x 3"], "answer_start": [11, 6]}},
    ]
    prepared = dougong.prepare(recipe(written(tmp_path, rows)))
    notes = json.loads((prepared.folder / "report.json").read_text())["notes"]
    counted = {
        what: sum(n for note, n in notes.items() if note.endswith(what)) for what in ("an answer", "first taken")
    }
    assert counted == {"an answer": sum(row["answer"] is None for row in rows), "first taken": 1}
    places = []
    for name in ("train", "validation", "test"):
        split = prepared.split(name)
        columns = split.take(np.arange(split.rows))
        quoted = zip(texts({"text": columns["passage.text"]}), np.asarray(columns["answer.place"]), strict=True)
        places += [passage[start:stop] if start >= 0 else None for passage, (start, stop) in quoted]
    said = [
        "3" if isinstance(row["answer"], dict) and isinstance(row["answer"]["text"], list) else row["answer"]
        for row in rows
    ]
    assert sorted(places, key=str) == sorted(
        (each["text"] if isinstance(each, dict) else each for each in said), key=str
    )


# ------------------------------------------------------------------------------------------------- characters and tokens

PIECES = st.sampled_from(
    ["a", "Bc", " ", "  ", "\t", "\n", "12", "é", "e\u0301", "春", "眠", "🙂", ".", "ſ", "İ", "##"]
)
CODECS: dict[str, text.Codec] = {}


def codec_of(kind: str) -> text.Codec:
    if kind not in CODECS:
        size = {} if kind == "byte" else {"vocab_size": 300}
        config, problems = read(text.Config, {"type": "text", "tokenizer": {"kind": kind, **size}, "places": True})
        assert not problems
        CODECS[kind] = text.Codec.fit(config, ["a Bc 12 . é e\u0301 春 眠 🙂 \t \n", "Bc 12a 春眠 a.a ſ İ ##"])
    return CODECS[kind]


def batch_of(kind: str, passages: list[str], places: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    columns, _ = codec_of(kind).encode(passages)
    named = {f"x.{key}": column for key, column in columns.items()} | {"y.place": np.array(places)}
    return collate(named, np.arange(len(passages)), {"x.text": 0})


def head_of(width: int = 6, **settings: Any) -> span.Head:
    config = span.Config(of="x", **settings)
    head = span.Head(config, span.Codec(config), width, Loss(**({"label_smoothing": 0.1} if width == 7 else {})))
    generator = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter.requires_grad_(False), generator=generator)
    return head


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram", "wordpiece"])
@given(pieces=st.lists(PIECES, min_size=1, max_size=12), draw=st.data())
@settings(max_examples=150)
def test_an_answer_is_quoted_from_the_tokens_that_hold_it(kind: str, pieces: list[str], draw: st.DataObject) -> None:
    """From characters to tokens and back: what comes back holds the answer, and no token that it could do without."""
    passage = "".join(pieces)
    start = draw.draw(st.integers(0, len(passage) - 1))
    stop = draw.draw(st.integers(start + 1, len(passage)))
    assume(passage[start:stop].strip() == passage[start:stop])
    batch = batch_of(kind, [passage], [(start, stop)])
    real = torch.arange(batch["x.ends"].shape[1])[None] < batch["x.ends.length"][:, None]
    assert batch["x.tokens.length"] == batch["x.ends.length"] + 1
    head = head_of()
    found = head.targets(batch, "y", real)
    first, last = found.unbind(1)
    if int(first) == real.shape[1]:  # the tokenizer drops the text's end
        assert kind == "wordpiece"
        return
    begin, end = head.characters(batch, real, first, last)
    assert int(begin) <= start
    assert stop <= int(end)
    ends = batch["x.ends"][0].tolist()
    assert first == 0 or ends[int(first) - 1] <= start
    assert last == first or ends[int(last) - 1] < stop
    quoted = head_of_quote([passage], begin, end)
    assert passage[start:stop] in quoted[0]
    if kind == "char":
        assert quoted == [passage[start:stop]]


def head_of_quote(passages: list[str], start: torch.Tensor, stop: torch.Tensor) -> list[str]:
    quoted = span.Codec(span.Config()).quote({"start": start.numpy(), "stop": stop.numpy()}, passages)
    found = texts(quoted)
    places = zip(found, passages, np.asarray(quoted["start"]), np.asarray(quoted["stop"]), strict=True)
    assert all(passage[a:b] == piece for piece, passage, a, b in places)
    return found


def test_half_a_character_is_quoted_whole() -> None:
    batch = batch_of("byte", ["a🙂 b"], [(1, 2)])
    real = torch.ones(1, 7, dtype=torch.bool)
    for first, last, expected in ((2, 3, "🙂"), (3, 5, "🙂"), (0, 1, "a🙂"), (4, 6, "🙂 b"), (5, 5, "")):
        begin, end = head_of().characters(batch, real, torch.tensor([first]), torch.tensor([last]))
        assert head_of_quote(["a🙂 b"], begin, end) == [expected]


# ------------------------------------------------------------------------------------------------------------- the head


def features_of(batch: dict[str, torch.Tensor], width: int) -> Features:
    """Those of the passage between those of two other inputs of four positions."""
    generator = torch.Generator().manual_seed(1)
    rows, tokens = batch["x.tokens"].shape
    ends = batch["x.ends.length"]
    values = torch.randn(rows, 4 + tokens + 4, width, generator=generator)
    mask = torch.ones(rows, 4 + tokens + 4, dtype=torch.bool)
    mask[:, 4 : 4 + tokens] = torch.arange(tokens) < batch["x.tokens.length"][:, None]
    each = torch.arange(batch["x.ends"].shape[1]).expand(rows, -1)
    return Features(values, mask, places=torch.where(each < ends[:, None], each + 4, -1))


PASSAGES = ["ab cd ef", "g", "", "hi 🙂 jk"]
WHERE = [(3, 5), (-1, -1), (-1, -1), (3, 4)]


@pytest.mark.parametrize("width", [6, 7])  # 7: with label smoothing
def test_the_loss_is_the_cross_entropy_of_start_and_end_over_the_passage_and_none(width: int) -> None:
    head, batch = head_of(width), batch_of("byte", PASSAGES, WHERE)
    features = features_of(batch, width)
    expected = torch.zeros(())
    tokens = [(3, 4), None, None, (3, 3)]  # of one token a byte; the last answer's four bytes share their end
    for row, answer in enumerate(tokens):
        size = int(batch["x.ends.length"][row])
        scores = head.linear(features.values[row, 4 : 4 + size])  # (P, 2)
        scores = torch.cat([scores, head.none(features.values[row][features.mask[row]].mean(0))[None]])
        for side in range(2):
            target = torch.tensor(size if answer is None else answer[side])
            expected = expected + torch.nn.functional.cross_entropy(
                scores[:, side], target, label_smoothing=head.smoothing
            )
    torch.testing.assert_close(head.loss(features, batch, "y"), expected / 2)
    assert head.count(batch, "y") == 4


def test_an_answer_that_a_window_does_not_hold_whole_is_none_there() -> None:
    passage = "ab cd ef"
    columns, _ = codec_of("byte").encode([passage])
    named = {f"x.{key}": column for key, column in columns.items()} | {"y.place": np.array([(3, 5)])}
    windows = Windows(Held(named, 1), "x", length=4, stride=2)  # "ab c", " cd ", "d ef"
    batch = collate(windows.take(np.arange(windows.rows)), np.arange(windows.rows), {"x.text": 0})
    real = torch.arange(batch["x.ends"].shape[1])[None] < batch["x.ends.length"][:, None]
    assert head_of(max_answer=2).targets(batch, "y", real).tolist() == [[4, 4], [1, 2], [4, 4]]


def test_the_best_pair_is_given() -> None:
    """Compared with trying them all."""
    head, batch = head_of(max_answer=3), batch_of("byte", PASSAGES, WHERE)
    features = features_of(batch, 6)
    scores, _ = head.scores(features)
    logs = scores.log_softmax(-1)
    found = head.predict(features, batch, "y")
    for row, passage in enumerate(PASSAGES):
        size = int(batch["x.ends.length"][row])
        pairs = [
            (float(logs[row, 0, a] + logs[row, 1, b]), a, b) for a in range(size) for b in range(a, min(a + 3, size))
        ]
        none = float(logs[row, :, -1].sum())
        assert found["none"][row].log() == pytest.approx(none, abs=1e-5)
        if not pairs:
            assert (found["start"][row], found["stop"][row], found["probability"][row]) == (0, 0, 0)
            continue
        best, first, last = max(pairs)
        assert found["probability"][row].log() == pytest.approx(best, abs=1e-5)
        assert found["margin"][row] == pytest.approx(best - none, abs=1e-5)
        starts = [len(passage.encode()[:byte].decode(errors="ignore")) for byte in range(size)]
        assert (found["start"][row], found["stop"][row]) == (starts[first], batch["x.ends"][row, last])


def test_what_is_less_likely_than_the_threshold_is_not_given() -> None:
    codec = span.Codec(span.Config())
    prediction = {
        "start": np.array([0, 3]), "stop": np.array([2, 6]), "margin": np.array([0.1, 0.1]), "none": np.array([0.3, 0.4]),
        "probability": np.array([0.33, 0.44]), "threshold": np.array([0.0, 0.2]),
    }  # fmt: skip
    quoted = codec.quote(prediction, ["ab cd", "ef  gh"])
    assert codec.answers(quoted) == [
        {"value": "ab", "start": 0, "end": 2, "probability": 0.33},
        {"value": None, "start": None, "end": None, "probability": 0.4},
    ]
    assert texts(quoted) == ["ab", "gh"]
    assert np.asarray(quoted["start"]).tolist() == [0, 4]
    shares = {0.5: 0.0, 0.0: -math.inf, 1.0: math.inf, 0.9: math.log(9)}
    for share, margin in shares.items():
        assert head_of(threshold=share).first == pytest.approx(margin)


def test_the_threshold_is_settled_on_the_validation_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = recipe(written(tmp_path, records(200)))
    plain["outputs"]["answer"]["threshold"] = "auto"
    plain["train"]["steps"] = 60
    plain["data"]["split"] = {"validation": 0.3, "test": 0.3}
    trained = dougong.train(plain)
    settled = trained.receipt["settled"]["answer"]
    kept = float(trained.model.head(trained.outputs[0]).threshold)
    assert settled["threshold"] == pytest.approx(1 / (1 + math.exp(-kept)))
    assert all(told["after"] > told["before"] for name, told in settled["metrics"].items() if name == "f1")
    assert float(dougong.load(trained.folder).model.head(trained.outputs[0]).threshold) == kept
    with pytest.raises(FieldError, match=r"outputs\.answer\.threshold = 'auto': .*rows to validate on"):
        dougong.train({**plain, "name": "none", "data": {**plain["data"], "split": {"test": 0.1}}})


# ------------------------------------------------------------------------------------------------------------ the recipe


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"inputs": {"question": "text", "passage": {"type": "text", "max_length": 20}}},
            ("outputs.answer.max_answer = 30", "at most the max_length of the passage (20)", "write max_answer: 20"),
        ),
        (
            {"outputs": {"answer": {"type": "span", "of": "passage", "stride": 490}}},
            ("outputs.answer.stride = 490", "at most 483, or an answer of max_answer tokens", "write stride: 483"),
        ),
        (
            {"outputs": {"answer": {"type": "span", "of": "passage"}, "kind": "category"}},
            ("outputs.answer = 'span'", "a span to be the only output", "train two models"),
        ),
        ({"outputs": {"answer": "span"}}, ("outputs.answer.of", "one of passage, question", "write of: passage")),
        (
            {"model": "mlp"},
            ("model.kind = 'mlp'", "keeps the places of what it reads, for outputs.answer", "transformer"),
        ),
        (
            {"inputs": {"question": {"type": "text", "places": True}, "passage": "text"}},
            ("inputs.question.places = true", "no output names its places", "remove it"),
        ),
        (
            {"inputs": {"question": "text", "passage": {"type": "text", "words": True}}},
            ("inputs.passage.words = true", "no output names its words", "remove it"),
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_recipe(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        dougong.recipe.load({**recipe(Path("rows.jsonl")), **changes})
    check_clear(str(caught.value), *parts)


def test_the_passage_tells_its_places_and_the_resolved_recipe_reads_back() -> None:
    found = dougong.recipe.load(
        {**recipe(Path("rows.jsonl")), "outputs": {"answer": {"type": "span", "of": "passage"}}}
    )
    assert found.inputs["passage"].places
    assert not found.inputs["question"].places
    assert dougong.recipe.from_resolved(json.loads(json.dumps(found.resolved())), found.text, "x") == found


def test_a_tokenizer_that_does_not_tell_where_its_tokens_stand_is_refused() -> None:
    class Other(SentencePiece):
        """One whose vocabulary is an end token, and nothing else."""

        unknown = None

        def __init__(self) -> None:
            self.vocabulary = {"</s>": 0}

    config = text.Config(tokenizer=FileTokenizer(path="x.model"), places=True)
    with pytest.raises(FieldError, match=r"for the output that names this text's places.*use kind: bpe"):
        text.Codec(config, Other())
