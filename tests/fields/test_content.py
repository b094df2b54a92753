"""What a table says of items: of all that are known, and of those that nobody has chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong import lifecycle
from dougong import recipe as recipes
from dougong.core.config import read
from dougong.core.errors import DataError, Note, RecipeError
from dougong.fields import _content, items
from dougong.fields.items import Codec, Config, Vectors
from dougong.metrics.recommendation import NEVER
from dougong.model import initialize
from dougong.run import Run
from tests.clear_error import clear_error

FILMS = [
    {"item": "a", "title": "a slow boat", "genres": ["drama"], "year": 1990},
    {"item": "b", "title": "fast cars", "genres": ["action"], "year": 1995},
    {"item": "new", "title": "faster cars", "genres": ["action", "drama"], "year": None},
    {"item": "newer", "title": "a slower boat", "genres": [], "year": 1996},
]
INPUTS = {"title": {"type": "text", "tokenizer": "byte", "max_length": 12}, "genres": "labels", "year": "number"}


def written(folder: Path, rows: list[Any]) -> Path:
    file = folder / "films.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def config_of(file: Path, **more: Any) -> Config:
    config, problems = read(Config, {"type": "items", "content": {"file": str(file), "inputs": INPUTS, **more}})
    assert not problems
    return config


def fitted(folder: Path, rows: list[Any], **more: Any) -> Codec:
    with pytest.warns(Note):
        return Codec.fit(config_of(written(folder, rows), **more), [["a", "b", "b"], ["gone"]])


def test_items_that_it_alone_knows_stand_behind_those_that_were_chosen(tmp_path: Path) -> None:
    with pytest.warns(Note, match=r"films\.jsonl: 2 items that no training row holds are known by it alone"):
        codec = Codec.fit(config_of(written(tmp_path, FILMS)), [["a", "b", "b"], ["gone"]])
    assert codec.items == ["b", "a", "gone", "new", "newer"]
    assert (codec.chosen, codec.vocab_size) == (3, 5)
    assert codec.encode([["new", "never"]])[1]["unknown items"] == 1


def test_its_fields_are_fitted_on_what_was_chosen_alone(tmp_path: Path) -> None:
    rows = [*FILMS, {"item": "newest", "title": "x", "genres": ["western"], "year": 3000}]
    assert fitted(tmp_path, FILMS).knowledge is not None
    genres = next(field for field in _knowledge(fitted(tmp_path, rows)).fields if field.name == "genres")
    assert genres.codec.classes == ["action", "drama"]


def _knowledge(codec: Codec) -> _content.Knowledge:
    assert codec.knowledge is not None
    return codec.knowledge


def test_it_travels_with_the_codec_when_the_file_is_gone(tmp_path: Path) -> None:
    codec = fitted(tmp_path, FILMS)
    saved = json.loads(json.dumps(codec.to_json(), allow_nan=False))
    (tmp_path / "films.jsonl").unlink()
    again = Codec.from_json(Config(), saved)
    before, after = _knowledge(codec).arrays, _knowledge(again).arrays
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    first, second = Vectors(codec, 8), Vectors(again, 8)
    initialize(first, 0)
    initialize(second, 0)
    assert torch.equal(first.eval().table(), second.eval().table())


@pytest.mark.parametrize("id_dropout", [0.0, 0.5, 1.0])
def test_cold_items_get_finite_vectors_that_differ(id_dropout: float, tmp_path: Path) -> None:
    codec = fitted(tmp_path, FILMS, id_dropout=id_dropout)
    with torch.device("meta"):
        vectors = Vectors(codec, 16)
    vectors.to_empty(device="cpu")
    initialize(vectors, 0)
    table = vectors.eval().table()
    assert table.shape == (5, 16)
    assert table.isfinite().all()
    assert torch.pdist(table).min() > 1e-3
    some = torch.tensor([[4, 0], [3, 4]])
    assert torch.allclose(vectors(some), table[some], atol=1e-6)
    assert torch.allclose(vectors.table(3), table[3:], atol=1e-6)
    vectors.train().table().sum().backward()
    assert all(parameter.grad is not None for parameter in vectors.parameters() if parameter.requires_grad)


def test_in_training_an_item_is_now_and_then_told_by_its_content_alone(tmp_path: Path) -> None:
    codec = fitted(tmp_path, FILMS, id_dropout=0.5)
    vectors = Vectors(codec, 16)
    initialize(vectors, 0)
    torch.manual_seed(0)
    many = torch.zeros(400, dtype=torch.int64)
    alone, whole = vectors.known(many).norm(dim=1).unique(), vectors.eval().known(many[:1]).norm()
    assert len(alone) == 2
    assert torch.isclose(alone, whole).any()


def test_rows_that_cannot_be_read_say_nothing_and_are_told_of(tmp_path: Path) -> None:
    rows = [
        *FILMS,
        "{not json",
        {"title": "no name"},
        {"item": "a", "title": "again"},
        {"item": "c", "genres": [[1]]},
        {"item": ["d"]},
    ]
    said = r"films\.jsonl: 5 of 9 rows cannot be read, and say nothing of their items; the first: row 5: "
    with pytest.warns(Note, match=said):
        codec = Codec.fit(config_of(written(tmp_path, rows)), [["a", "c"]])
    assert codec.items == ["a", "c", "b", "new", "newer"]
    with clear_error("films.jsonl", "none of its 2 rows can be read", "row 1", error=DataError):
        Codec.fit(config_of(written(tmp_path, ["{", {"title": "x"}])), [["a"]])


def test_a_content_that_memory_does_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_content, "MOST_BYTES", 64)
    with clear_error("films.jsonl", "4 items", "leave a column out", error=DataError), pytest.warns(Note):
        Codec.fit(config_of(written(tmp_path, FILMS)), [["a"]])


# ------------------------------------------------------------------------------------------------------------ the recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Films of two genres: who saw one sees one of that genre next; a third of them is in no training row."""
    folder = tmp_path_factory.mktemp("films")
    films = [
        {"item": f"{kind}{n}", "genre": kind, "title": f"{kind} part {n}"} for kind in ("war", "love") for n in range(9)
    ]
    (folder / "films.jsonl").write_text("".join(json.dumps(film) + "\n" for film in films))
    for name, first, end in (("train", 0, 6), ("test", 6, 9)):
        rows = [
            {"history": [f"{kind}{(n + step) % 6}" for step in range(3)], "item": f"{kind}{first + n % (end - first)}"}
            for kind in ("war", "love")
            for n in range(30)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(
        """name: films
data: {train: train.jsonl, test: test.jsonl, split: {}}
inputs:
  history:
    type: items
    content: {file: films.jsonl, inputs: {genre: category}, id_dropout: 0.5}
outputs:
  item: {type: item, candidates: new, bias: false}
model: {kind: transformer, preset: tiny}
train: {steps: 60, batch_size: 32, device: cpu, optimizer: {kind: adamw, lr: 0.01}}
"""
    )
    recipe = recipes.load(folder / "recipe.yaml", [f"data.cache={folder / 'cache'}"])
    with pytest.warns(Note):
        yield lifecycle._train(recipe, folder / "run", True, lambda _: None)


def test_new_items_are_suggested_by_what_is_known_of_them(run: Run) -> None:
    answers = run.predict([{"history": ["war1", "war2"]}, {"history": ["love5", "love0"]}])
    for kind, answer in zip(("war", "love"), answers, strict=True):
        best = [each["item"] for each in answer["item"]["top"]]
        assert len(best) == 6
        assert {*best[:3]} == {f"{kind}{n}" for n in (6, 7, 8)}


def test_ranked_are_the_new_items_alone(run: Run) -> None:
    result = lifecycle.evaluate(run, split="test")
    assert result.metrics["item.hit_rate_10"].value == 1.0
    batch = run.encode([{"history": ["war1"], "item": "war0"}], None, [*run.inputs, *run.outputs])
    with torch.no_grad():
        assert run.model.predict(batch)["item"]["rank"].tolist() == [NEVER]
        assert int(run.model.counts(batch)["item"]) == 0


def test_items_that_were_chosen_are_not_told_from_those_that_nobody_could_choose(run: Run) -> None:
    """A new item that loses each time in training would be held down for having been held out."""
    head = run.model.head(run.outputs[0])
    assert head.train().rivals == (0, 12)
    assert head.eval().rivals == (12, 18)


def test_the_path_is_that_of_the_recipe_and_the_data_are_new_where_it_is(run: Run) -> None:
    recipe = run.recipe
    file = Path(recipe.inputs["history"].content.file)
    assert file.is_absolute()
    assert not run.data_changed()
    before = file.read_bytes()
    try:
        file.write_bytes(before + b'{"item": "war99", "genre": "war"}\n')
        assert run.data_changed()
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": {"history": "items"}, "outputs": {"item": {"type": "item", "candidates": "new"}}},
         ("outputs.item.candidates", "no content")),
        ({"inputs": {"history": {"type": "items", "content": {"file": "x.jsonl", "inputs": {"title": "txt"}}}}},
         ("inputs.history.content.inputs.title.type", "'txt'", "write 'text'")),
        ({"inputs": {"history": {"type": "items", "content": {"file": "x.jsonl", "inputs": {"a": {"type": "text", "len": 3}}}}}},
         ("inputs.history.content.inputs.a.len", "no such key")),
        ({"inputs": {"history": {"type": "items", "content": {"file": "x.jsonl", "inputs": {"of": "items"}}}}},
         ("inputs.history.content.inputs.of.type", "says something of an item")),
        ({"inputs": {"history": {"type": "items", "content": {"file": "x.jsonl", "inputs": {}}}}},
         ("inputs.history.content.inputs", "at least one column")),
        ({"inputs": {"history": {"type": "items", "content": {"file": "x.jsonl", "inputs": {"a": "text"}, "id_dropout": 2}}}},
         ("inputs.history.content.id_dropout",)),
        ({"outputs": {"item": {"type": "item", "content": {"file": "x.jsonl", "inputs": {"title": "text"}}}}},
         ("outputs.item.content", "write it under inputs.history")),
    ],
)  # fmt: skip
def test_a_content_that_cannot_be_is_refused_with_the_recipe(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    plain = {
        "name": "x",
        "data": {"train": "x.jsonl"},
        "inputs": {"history": "items"},
        "outputs": {"item": "item"},
        "train": {"steps": 1},
    }
    with clear_error(*words, error=RecipeError):
        recipes.load(plain | changes)


def test_its_file_must_be_there(tmp_path: Path) -> None:
    config = config_of(tmp_path / "none.jsonl")
    assert items.files(config) == [tmp_path / "none.jsonl"]
