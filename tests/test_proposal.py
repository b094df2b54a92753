from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

import dougong
from dougong import proposal, recipe
from dougong.core.errors import DataError, FieldError
from tests.small_runs import home

QUICK = ["model.preset=tiny", "train={steps: 2, device: cpu}", "data.split={validation: 0.2, test: 0.2}"]
ODD = [
    *("a b", "a: b", "yes", "null", "1st", "été", "列", "x'y\"z", "#1", "- dash", "[list]", "{map}", "tab\there"),
    *("a.b", "row", "%", "&anchor", "*alias", "!tag", "True", "~", "1e3", "mix", "new\nline"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"id": f"k{index}", "words": f"some words number {index} " * 3, "size": index * 0.5, "sort": "ab"[index % 2]}
        for index in range(count)
    ]


def write_table(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows(1)[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows())
    return path


def write_jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    pa.parquet.write_table(pa.Table.from_pylist(rows()), path)
    return path


def write_text(path: Path) -> Path:
    shutil.copy(home() / "poems.txt", path)
    return path


def write_clips(path: Path) -> Path:
    """Of each label fifteen folders of three frames."""
    for index in range(30):
        clip = path / ("dark" if index % 2 else "light") / str(index)
        clip.mkdir(parents=True)
        for frame in range(3):
            shade = np.full((8, 8, 3), (30 if index % 2 else 220) + index + frame, dtype=np.uint8)
            Image.fromarray(shade).save(clip / f"{frame}.png")
    return path


def write_visits(path: Path) -> Path:
    """Each list goes on with what comes next in a circle of forty."""
    starts = [(start, 3 + start % 5) for start in range(120)]
    shown = [([f"i{(start + step) % 40}" for step in range(length)], start + length) for start, length in starts]
    lines = [
        {"size": index * 0.5, "list": listed, "then": f"i{after % 40}"} for index, (listed, after) in enumerate(shown)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_images(path: Path) -> Path:
    for index in range(30):
        folder = path / ("dark" if index % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        pixels = np.full((8, 8, 3), 30 if index % 2 else 220, dtype=np.uint8) + index
        Image.fromarray(pixels).save(stream, "PNG")
        (folder / f"{index}.png").write_bytes(stream.getvalue())
    return path


@pytest.mark.parametrize(
    ("name", "write", "inputs", "outputs"),
    [
        ("table.csv", write_table, {"words": "text", "size": "number"}, {"sort": "category"}),
        ("table.tsv", lambda path: write_table(path, "\t"), {"words": "text", "size": "number"}, {"sort": "category"}),
        ("table.jsonl", write_jsonl, {"words": "text", "size": "number"}, {"sort": "category"}),
        ("table.parquet", write_parquet, {"words": "text", "size": "number"}, {"sort": "category"}),
        ("poems.txt", write_text, {}, {"text": "text"}),
        ("pictures", write_images, {"image": "image"}, {"label": "category"}),
        ("clips", write_clips, {"video": "video"}, {"label": "category"}),
        ("visits.jsonl", write_visits, {"size": "number", "list": "items"}, {"then": "item"}),
    ],
)
def test_a_proposed_recipe_passes_check_and_trains(name: str, write: Any, inputs: Any, outputs: Any, tmp_path: Path):
    path = dougong.new(write(tmp_path / name))
    read = recipe.load(path)
    assert {key: config.type for key, config in read.inputs.items()} == inputs
    assert {key: config.type for key, config in read.outputs.items()} == outputs
    assert dougong.check(path).rows_read >= 30
    assert dougong.train(path, overrides=QUICK).metrics()


@pytest.mark.parametrize("count", [7, 30])
def test_a_file_of_few_rows_works_from_new_to_predict(count: int, tmp_path: Path):
    path = tmp_path / "few.csv"
    path.write_text("size,label\n" + "".join(f"{index},{'xy'[index % 2]}\n" for index in range(count)))
    made = dougong.new(path)
    assert "# early_stop: 4      # needs more rows" in made.read_text()
    assert recipe.load(made).train.early_stop is None
    assert dougong.check(made).rows_read == count
    trained = dougong.train(made, overrides=["model.preset=tiny", "train.epochs=2", "train.device=cpu"])
    assert trained.predict([{"size": 3}])[0]["label"]["value"] in ("x", "y")


def test_what_looks_like_an_identifier_is_left_out_with_the_reason(tmp_path: Path):
    text = dougong.new(write_table(tmp_path / "table.csv")).read_text()
    assert "# id: text      # looks like an identifier: it would only be learnt by heart" in text


def test_a_column_without_a_value_is_left_out_with_the_reason(tmp_path: Path):
    (tmp_path / "x.csv").write_text("a,empty,label\n" + "1.5,,x\n2.5,,y\n" * 30)
    text = dougong.new(tmp_path / "x.csv").read_text()
    assert "# empty: text      # every value is missing" in text
    assert list(recipe.load(tmp_path / "x.yaml").inputs) == ["a"]


def test_odd_names_of_columns_become_names_of_fields(tmp_path: Path):
    path = tmp_path / "odd.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*ODD, "label"])
        for index in range(60):
            writer.writerow([*(index * (place + 1) % 17 + 0.5 for place in range(len(ODD))), "ab"[index % 2]])
    made = dougong.new(path, predict="label")
    read = recipe.load(made)
    assert sorted(config.column or name for name, config in read.inputs.items()) == sorted(ODD)
    assert all(config.type == "number" for config in read.inputs.values())
    assert dougong.check(made).rows_read == 60
    run = dougong.train(made, overrides=QUICK)
    assert run.predict([dict.fromkeys(ODD, 1.5)])[0]["label"]["value"] in ("a", "b")


@pytest.mark.parametrize("name", ["odd: name", "yes", "1st", "a/b", "row", "null"])
def test_an_odd_name_may_be_predicted(name: str, tmp_path: Path):
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [["words", name], *([f"some words {index}", "ab"[index % 2]] for index in range(60))]
        )
    read = recipe.load(dougong.new(path, predict=[name]))
    ((key, config),) = read.outputs.items()
    assert (config.column or key, config.type) == (name, "category")


def test_names_that_become_one_are_told_apart(tmp_path: Path):
    (tmp_path / "x.csv").write_text("a.b,a:b,a_b,label\n" + "1.5,2.5,3.5,x\n4.5,5.5,6.5,y\n" * 30)
    read = recipe.load(dougong.new(tmp_path / "x.csv"))
    assert sorted(config.column or name for name, config in read.inputs.items()) == ["a.b", "a:b", "a_b"]


def types(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    read = recipe.load(path)
    inputs = {name: config.type for name, config in read.inputs.items()}
    return inputs, {name: config.type for name, config in read.outputs.items()}


def as_lines(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def sentences(*, as_text: bool) -> list[dict[str, Any]]:
    words = [[f"w{row}", "went", "to", *[f"x{row * 7 + place}" for place in range(row % 3)]] for row in range(60)]
    tags = [["B-per", "O", "O", *["O"] * (row % 3)] for row in range(60)]
    if as_text:
        return [{"words": " ".join(a), "marks": " ".join(b)} for a, b in zip(words, tags, strict=True)]
    return [{"words": a, "marks": b} for a, b in zip(words, tags, strict=True)]


@pytest.mark.parametrize("as_text", [False, True])
def test_as_many_tags_as_words_are_tags_of_them(as_text: bool, tmp_path: Path):
    made = dougong.new(as_lines(tmp_path / "x.jsonl", sentences(as_text=as_text)))
    assert types(made) == ({"words": "text"}, {"marks": "tags"})
    assert dougong.train(made, overrides=QUICK).metrics()


def test_labels_that_are_not_as_many_as_words_stay_labels(tmp_path: Path):
    found = [{"words": f"some words {row}", "marks": ["a", "b"][: 1 + row % 2]} for row in range(60)]
    assert types(dougong.new(as_lines(tmp_path / "x.jsonl", found))) == ({"words": "text"}, {"marks": "labels"})


QUOTES = {
    "text": lambda answer, place: answer,
    "place": lambda answer, place: {"text": answer, "start": place},
    "squad": lambda answer, place: {"text": [answer], "answer_start": [place]},
}


@pytest.mark.parametrize("form", QUOTES)
def test_answers_that_stand_in_another_column_are_quoted_from_it(form: str, tmp_path: Path):
    path = tmp_path / "questions.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for index in range(60):
            passage = (
                f"The package number {index} was written by person {index} in the year {1900 + index} or before it."
            )
            question, answer = [
                (f"Who wrote number {index}?", f"person {index}"),
                (f"When was {index} written?", str(1900 + index)),
            ][index % 2]
            told = QUOTES[form](answer, passage.index(answer)) if index % 5 else None
            stream.write(json.dumps({"question": question, "the passage": passage, "answer": told}) + "\n")
    made = dougong.new(path)
    read = recipe.load(made)
    assert {name: config.type for name, config in read.inputs.items()} == {"question": "text", "the passage": "text"}
    assert read.outputs["answer"].type == "span"
    assert read.outputs["answer"].of == "the passage"
    trained = dougong.train(made, overrides=QUICK)
    assert "answer.exact_match" in trained.metrics()["test"]
    if form == "text":  # asked for another column, it quotes nothing
        other = recipe.load(dougong.new(path, predict=["question"], output=tmp_path / "other.yaml"))
        assert {config.type for config in other.inputs.values()} == {"text"}


def test_a_class_whose_name_stands_in_the_text_stays_a_category(tmp_path: Path):
    path = tmp_path / "colours.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for index in range(60):
            colour = ["red", "green", "blue"][index % 3]
            row = {
                "title": f"a thing {index} to be seen",
                "text": f"thing {index} is {colour}, as is said",
                "colour": colour,
            }
            stream.write(json.dumps(row) + "\n")
    assert recipe.load(dougong.new(path)).outputs["colour"].type == "category"


def test_conversations_are_learnt_from_themselves_alone(tmp_path: Path):
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    found = [{"source": "ab"[row % 2], "messages": [*said, {"role": "user", "content": f"{row}"}]} for row in range(60)]
    made = dougong.new(as_lines(tmp_path / "x.jsonl", found))
    assert types(made) == ({}, {"messages": "chat"})
    assert (
        "# source: category      # 2 different values; a conversation is learnt from itself alone" in made.read_text()
    )
    assert dougong.check(made).rows_read == 60
    as_text = as_lines(tmp_path / "y.jsonl", [{"messages": json.dumps(row["messages"])} for row in found])
    assert types(dougong.new(as_text)) == ({}, {"messages": "chat"})
    broken = as_lines(tmp_path / "z.jsonl", [{"messages": [{"role": "user", "content": "no reply"}], "n": 1.5}] * 9)
    assert "chat" not in types(dougong.new(broken, predict="n"))[0].values()


@pytest.mark.parametrize("as_text", [True, False])
def test_boxes_are_told_of_their_picture_alone(as_text: bool, tmp_path: Path):
    boxes = [[[1, 2, 3, 4.5, "cat"], [0, 0, 2, 2, "dog"]], []]
    said = [json.dumps(each) if as_text else each for each in boxes]
    lines = [{"photo": f"{index}.png", "place": "ab"[index % 2], "marks": said[index % 2]} for index in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = proposal.propose(Path("rows.jsonl"), [], tmp_path)
    assert "\n  photo: image " in text
    assert "\n  marks: boxes " in text
    assert "\n  # place: category" in text
    assert "boxes are told of a picture alone" in text
    with pytest.raises(DataError, match="beside 'marks' no column can be looked at"):
        proposal.propose(
            write_lines(tmp_path, [{"marks": line["marks"], "place": line["place"]} for line in lines]), [], tmp_path
        )


def test_annotated_pictures_are_proposed_as_boxes(tmp_path: Path):
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    (tmp_path / "cats.coco.json").write_text(json.dumps(content))
    text = proposal.propose(Path("cats.coco.json"), [], tmp_path)
    assert "\n  image: image " in text
    assert "\n  boxes: boxes " in text


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Path("lines.jsonl")


def test_a_history_that_nothing_goes_on_with_is_a_list_of_labels(tmp_path: Path):
    path = write_visits(tmp_path / "visits.jsonl")
    assert "\n  list: labels " in proposal.propose(path, ["size"], tmp_path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    own = [
        {**line, "then": line["list"][0]} for line in lines
    ]  # each has its own first: a label, and nothing that comes next
    assert "items" not in proposal.propose(write_lines(tmp_path, own), ["then"], tmp_path)


def test_of_huge_rows_only_some_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = as_lines(tmp_path / "x.jsonl", sentences(as_text=False))
    monkeypatch.setattr(proposal, "KEPT", 10)  # not even one row: nothing is seen side by side
    assert {column.kind for column in proposal.look(path)[0].values()} == {""}
    late = as_lines(tmp_path / "late.jsonl", [{"a": 1.5, "b": None}, {"a": 2.5, "b": "a text"}])
    assert {column.kind for column in proposal.look(late)[0].values()} == {""}  # what was not kept is no conversation
    monkeypatch.setattr(proposal, "KEPT", 1500)
    assert [column.kind for column in proposal.look(path)[0].values()] == ["text", "tags"]


def test_texts_side_by_side_are_written_one_from_the_other(tmp_path: Path):
    found = [{"en": f"a day {row} and more", "de": f"ein Tag {row} und mehr"} for row in range(60)]
    made = dougong.new(as_lines(tmp_path / "x.jsonl", found))
    assert types(made) == ({"en": "text"}, {"de": "text"})
    assert "# outputs: {match: pairing}      # with both as inputs" in made.read_text()
    assert dougong.check(made).rows_read == 60


def test_a_text_alone_may_also_be_learnt_as_words(tmp_path: Path):
    (tmp_path / "x.txt").write_text("some words that stand here\n\n" * 60)
    made = dougong.new(tmp_path / "x.txt").read_text()
    (instead,) = re.findall(r"^# (outputs: \{text: words\})", made, re.M)
    kept = re.sub(r"^(outputs:\n  .*|model: .*)\n", "", made, flags=re.M)
    (tmp_path / "words.yaml").write_text(f"{kept}{instead}\n")
    read = recipe.load(tmp_path / "words.yaml")
    assert read.outputs["text"].type == "words"
    assert read.model.kind == "identity"


def test_a_column_called_text_may_stand_beside_others(tmp_path: Path):
    (tmp_path / "x.csv").write_text("text,label\n" + "some longer words here,x\nand other words there,y\n" * 30)
    read = recipe.load(dougong.new(tmp_path / "x.csv"))
    assert (list(read.inputs), list(read.outputs)) == (["text"], ["label"])


def test_one_column_alone_is_told_what_it_lacks(tmp_path: Path):
    (tmp_path / "x.csv").write_text("label\n" + "x\ny\n" * 30)
    with pytest.raises(DataError, match=r"beside 'label' no column can be looked at: it has label. Fix: "):
        dougong.new(tmp_path / "x.csv")


def test_what_is_there_is_not_overwritten(tmp_path: Path):
    path = dougong.new(write_table(tmp_path / "table.csv"))
    path.write_text("mine")
    with pytest.raises(FieldError, match=r"expected a file that is not there yet. Fix: give another one with --output"):
        dougong.new(tmp_path / "table.csv")
    assert path.read_text() == "mine"
    other = dougong.new(tmp_path / "table.csv", output=tmp_path / "b/other.yaml")
    assert recipe.load(other).data.train == str(tmp_path / "table.csv")


def test_a_wrong_column_is_told_the_nearest(tmp_path: Path):
    with pytest.raises(FieldError, match=r"predict = 'srot': expected a column of table.csv: id, words.*write 'sort'"):
        dougong.new(write_table(tmp_path / "table.csv"), predict="srot")


def test_pictures_are_proposed_to_be_made_where_they_are_what_is_wanted(tmp_path: Path):
    read = recipe.load(dougong.new(write_images(tmp_path / "pictures"), predict="image"))
    assert {key: config.type for key, config in read.outputs.items()} == {"image": "image"}
    assert (list(read.inputs), read.model.kind) == (["label"], "diffusion")


def test_data_that_cannot_be_read_gives_no_recipe(tmp_path: Path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("a,b\n")
    for name in ("nothing.csv", "empty.csv", "header.csv"):
        with pytest.raises(DataError):
            dougong.new(tmp_path / name)
    assert not list(tmp_path.glob("*.yaml"))


FILES = {"reviews.csv": "reviews", "my data.v2.csv.gz": "my-data", "数据.csv": "model", "-x.csv": "x", ".csv": "model"}


@pytest.mark.parametrize(("file", "name"), [*FILES.items(), ("a" * 200 + ".csv", "a" * 64)])
def test_a_run_is_called_like_its_data(file: str, name: str):
    assert proposal.name_of(Path(file)) == name
