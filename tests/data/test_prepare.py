"""Preparation: the same input gives the same bytes, whatever was killed in between; no row is lost in silence."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dougong.core.artefacts import read_sealed, verify_folder, write_sealed
from dougong.core.config import read
from dougong.core.errors import ArtefactError, DataError, FieldError
from dougong.core.locks import lock
from dougong.data import lines, plain_text, preparation, prepare
from dougong.data import rows as cleaned_rows
from dougong.data.columns import Ragged
from dougong.data.prepare import Config, Prepared, Used, inspect, installed
from dougong.data.report import DataReport
from dougong.fields import category, image, labels, number, text
from tests.clear_error import check_clear, clear_error
from tests.data.prepare_child import used as small_fields

ROOT = Path(__file__).parents[2]
SHARE = int(os.environ.get("DOUGONG_NIGHTLY", "1"))  # `make nightly` multiplies every count of these tests


def write_csv(path: Path, rows: int, start: int = 0) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "size", "label"])
        for row in range(start, start + rows):
            writer.writerow([f"row {row} says {row * row % 97} things", row / 7, "ab"[row % 2]])
    return path


def config_of(tmp_path: Path, train: Path, **more: Any) -> Config:
    plain = {"train": str(train), "cache": str(tmp_path / "prepared"), **more}
    config, problems = read(Config, plain)
    assert not problems, problems
    return config


def prepared_of(tmp_path: Path, train: Path, fields: list[Used] | None = None, **more: Any) -> Prepared:
    return prepare.prepare(config_of(tmp_path, train, **more), fields or small_fields())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def texts(prepared: Prepared, split: str) -> list[str]:
    field = next(field for field in small_fields() if field.name == "text")
    codec = text.Codec.from_json(field.config, prepared.codec_json("text"))
    rows = prepared.split(split)
    return codec.decode({"tokens": rows.take(np.arange(rows.rows))["text.tokens"]}) if rows.rows else []


def used_rows(report: DataReport) -> int:
    return sum(report.used.values())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaned_rows, "CHUNK_ROWS", 20)


def child(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.data.prepare_child", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def answer(process: subprocess.Popen[bytes], seconds: float = 120) -> dict[str, Any]:
    out, err = process.communicate(timeout=seconds)
    assert out, err.decode()
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


# ------------------------------------------------------------------------------------------------------- keys and bytes


def test_the_same_input_gives_the_same_key_and_the_same_bytes(tmp_path: Path, small_chunks: None) -> None:
    file = write_csv(tmp_path / "a.csv", 100)
    first = prepared_of(tmp_path / "one", file)
    second = prepared_of(tmp_path / "two", file)
    assert first.key == second.key
    assert contents(first.folder) == contents(second.folder)
    assert len(first.rows["train"]) == 5
    verify_folder(first.folder, "prepared")


def test_prepared_data_is_used_again_without_being_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_csv(tmp_path / "a.csv", 100)
    first = prepared_of(tmp_path, file)
    monkeypatch.setattr(prepare, "Preparation", None)
    assert prepared_of(tmp_path, file).folder == first.folder


def test_an_interrupted_run_goes_on_with_what_an_older_dougong_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_csv(tmp_path / "a.csv", 100)
    with monkeypatch.context() as older:
        older.setattr(prepare, "key_of", lambda contents, used: "0" * 24)
        first = prepared_of(tmp_path, file)

    def again() -> Prepared:
        return prepare.prepare(config_of(tmp_path, file), small_fields(), known=first.key)

    assert again().folder == first.folder
    assert prepared_of(tmp_path, file).key != first.key  # a new run takes the new code
    write_csv(file, 101)
    assert again().key != first.key  # other contents are other data, whatever prepared them


def test_other_code_of_any_field_and_another_package_have_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [Used("tags", labels.Config(), True, labels)]  # its classes are fitted by category.py
    before = prepare.key_of("contents", fields)
    read = Path.read_bytes
    with monkeypatch.context() as edited:
        edited.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "category.py"))
        assert prepare.key_of("contents", fields) != before
    for package in ("tokenizers", "pillow", "pyarrow", "ftfy", "py3langid"):
        with monkeypatch.context() as other:
            other.setattr(
                prepare, "installed", lambda name, package=package: "9.9" if name == package else installed(name)
            )
            assert prepare.key_of("contents", fields) != before
    assert prepare.key_of("contents", fields) == before


def test_a_preparation_of_an_older_dougong_that_does_not_tell_its_contents_opens(tmp_path: Path) -> None:
    folder = prepared_of(tmp_path, write_csv(tmp_path / "a.csv", 30)).folder
    manifest = read_sealed(folder / "manifest.json")
    del manifest["meta"]["contents"]
    write_sealed(folder / "manifest.json", manifest)
    assert Prepared(folder).contents is None


def other_input(tmp_path: Path, change: str) -> tuple[Config, list[Used]]:
    file, fields, more = tmp_path / "a.csv", small_fields(), {}
    if change == "contents":
        write_csv(file, 101)
    elif change == "cleaning":
        more = {"cleaning": {"min_length": 3}}
    elif change == "split":
        more = {"split": {"validation": 0.2}}
    elif change == "field":
        fields[1] = Used("size", number.Config(normalize="log"), False, number)
    elif change == "fewer fields":
        del fields[1]
    elif change == "unit":
        more = {"text_rows": "line"}
    return config_of(tmp_path, file, **more), fields


@pytest.mark.parametrize("change", ["contents", "cleaning", "split", "field", "fewer fields", "unit"])
def test_another_input_has_another_key(tmp_path: Path, change: str) -> None:
    write_csv(tmp_path / "a.csv", 100)
    before = prepare.prepare(*other_input(tmp_path, "")).key
    config, fields = other_input(tmp_path, change)
    assert prepare.prepare(config, fields).key != before


def test_where_a_file_lies_does_not_change_the_key(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = write_csv(tmp_path / "a.csv", 50)
    second = write_csv(tmp_path / "elsewhere" / "a.csv", 50)
    assert prepared_of(tmp_path, first).key == prepared_of(tmp_path, second).key


def test_a_changed_tokenizer_file_is_another_input(tmp_path: Path) -> None:
    file, path = write_csv(tmp_path / "a.csv", 50), tmp_path / "tokenizer.json"
    finished = read(text.Config, {"tokenizer": {"kind": "file", "path": str(path)}})[0]
    fields = [Used("text", finished, False, text), small_fields()[2]]
    with clear_error("tokenizer.json", "no such file", error=DataError):
        prepared_of(tmp_path, file, fields)
    keys = []
    for learnt in ("so it goes", "and goes on"):
        text.Codec.fit(text.Config(), [learnt]).tokenizer.save(str(path))
        keys.append(prepared_of(tmp_path, file, fields).key)
    assert keys[0] != keys[1]


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def pictures(tmp_path: Path) -> tuple[Path, list[Used]]:
    """A table of pictures, and its fields."""
    (tmp_path / "pictures").mkdir()
    for number_ in range(30):
        (tmp_path / "pictures" / f"{number_}.png").write_bytes(picture(number_))
    file = tmp_path / "a.csv"
    rows = "".join(f"pictures/{number_}.png,{'ab'[number_ % 2]}\n" for number_ in range(30))
    file.write_text("photo,label\n" + rows)
    return file, [Used("photo", image.Config(), False, image), Used("label", category.Config(), True, category)]


def test_a_changed_picture_that_a_row_names_is_another_input(tmp_path: Path) -> None:
    file, fields = pictures(tmp_path)
    first = prepared_of(tmp_path, file, fields)
    assert used_rows(first.report) == 30
    (tmp_path / "pictures" / "7.png").write_bytes(picture(99))
    assert prepared_of(tmp_path, file, fields).key != first.key


def test_D8_a_damaged_picture_is_quarantined_and_the_rest_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for number_ in range(30):
        path = folder / "ab"[number_ % 2] / f"{number_}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number_)[: 60 if number_ == 5 else None])
    fields = [Used("image", image.Config(), False, image), Used("label", category.Config(), True, category)]
    prepared = prepared_of(tmp_path, folder, fields, cleaning={"max_bad": 0.1})
    assert used_rows(prepared.report) == 29
    (line,) = quarantine_of(prepared)
    assert line["bad"]
    assert "image" in line["reason"]


# ------------------------------------------------------------------------------------------------- rows and their splits


def quarantine_of(prepared: Prepared) -> list[dict[str, Any]]:
    lines = (prepared.folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_splits_stay_when_rows_are_added_or_reordered(tmp_path: Path, small_chunks: None) -> None:
    few = prepared_of(tmp_path, write_csv(tmp_path / "few.csv", 200))
    lines = write_csv(tmp_path / "many.csv", 400).read_text().splitlines()
    shuffled = lines[1:]
    random.Random(0).shuffle(shuffled)
    (tmp_path / "many.csv").write_text("\n".join([lines[0], *shuffled]) + "\n")
    many = prepared_of(tmp_path, tmp_path / "many.csv")
    for split in prepare.SPLITS:
        assert set(texts(few, split)) <= set(texts(many, split))
        assert few.split(split).rows > 0
    assert sum(many.split(split).rows for split in prepare.SPLITS) == 400


def test_shares_are_about_those_asked_for(tmp_path: Path) -> None:
    prepared = prepared_of(tmp_path, write_csv(tmp_path / "a.csv", 2000), split={"validation": 0.3})
    assert prepared.split("validation").rows == pytest.approx(600, rel=0.1)
    assert prepared.split("test").rows == 0


def messy(path: Path) -> Path:
    """Rows of every fate."""
    rows = [[f"text {row}", str(row), "ab"[row % 2]] for row in range(200)]
    rows += [["", "1", "a"], ["  ", "2", "b"], ["no label", "3", ""], ["no size", "", "a"], ["bad size", "x", "b"]]
    rows += [rows[0]] * 3 + [["one field"], ["far out", "1e9", "a"]]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text", "size", "label"], *rows])
    return path


@pytest.mark.parametrize(
    "rules",
    [{}, {"duplicates": "drop"}, {"missing": "drop"}, {"outliers": 50.0}, {"near_duplicates": "drop"}]
    + [{"duplicates": "drop", "outliers": 50.0, "missing": "drop", "min_length": 6, "near_duplicates": "drop"}],
)
def test_D1_rows_read_are_rows_used_and_rows_in_quarantine(
    tmp_path: Path, rules: dict[str, Any], small_chunks: None
) -> None:
    file = messy(tmp_path / "a.csv")
    prepared = prepared_of(tmp_path, file, cleaning={"max_bad": 0.1, **rules}, split={"validation": 0.0})
    lines, report = quarantine_of(prepared), prepared.report
    assert report.rows_read == 210
    assert report.rows_read == used_rows(report) + len(lines)
    assert used_rows(report) == sum(prepared.split(split).rows for split in prepare.SPLITS)
    assert len({(line["file"], line["row"]) for line in lines}) == len(lines), "a row stands there twice"
    assert {line["file"] for line in lines} == {str(file)}
    reasons = {line["row"]: line["reason"] for line in lines}
    assert reasons[201] == reasons[202] == "empty"
    assert reasons[203] == "missing label" if "missing" not in rules else "missing"
    assert "is not a number" in reasons[205]
    assert sum(line["bad"] for line in lines) == 2
    if rules.get("duplicates") == "drop":
        assert [reasons[row] for row in (206, 207, 208)] == ["duplicates"] * 3
    else:
        assert not {206, 207, 208} & set(reasons), "exact copies are no business of the other rules"
    if "outliers" in rules:
        assert reasons[210] == "outliers"


def test_a_row_whose_answer_is_missing_is_dropped_and_an_input_that_is_missing_is_kept(tmp_path: Path) -> None:
    prepared = prepared_of(tmp_path, messy(tmp_path / "a.csv"), cleaning={"max_bad": 0.1})
    assert prepared.report.dropped["missing label"] == 1
    assert sum(texts(prepared, split).count("no size") for split in prepare.SPLITS) == 1


def test_D5_rows_of_test_that_stand_in_train_are_counted(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", 100)
    test = write_csv(tmp_path / "test.csv", 30, start=90)
    prepared = prepared_of(tmp_path, train, test=str(test), split={"validation": 0.0})
    assert (prepared.report.leaked["test"], prepared.report.compared["test"]) == (10, 30)
    assert any("10 of 30 rows of test stand in train" in warning for warning in prepared.report.warnings())


def test_D5_a_file_in_two_splits_is_refused_by_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", 30)
    test = write_csv(tmp_path / "test.csv", 20)
    (tmp_path / "link.csv").symlink_to(test)
    for named in ("test.csv", "link.csv"):
        more = {"test": str(tmp_path / named)}
        check_both(tmp_path, tmp_path / "[at]*.csv", named, "data.train", "data.test", "leaves this file out", **more)


@pytest.mark.parametrize("split", [{}, {"validation": 0.0}, {"validation": 0.0, "test": 0.0}])
def test_no_row_is_held_out_where_the_recipe_says_so(tmp_path: Path, split: dict[str, float]) -> None:
    file = write_csv(tmp_path / "a.csv", 100)
    prepared = prepared_of(tmp_path, file, split=split)
    assert {name: prepared.split(name).rows for name in prepare.SPLITS} == {"train": 100, "validation": 0, "test": 0}
    report = inspect(config_of(tmp_path, file, split=split), small_fields())
    assert (report.kept["train"], report.kept["validation"]) == (100, 0)


def test_a_recipe_may_stand_in_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "proj[1]"
    (tmp_path / "proj1").mkdir()
    folder.mkdir()
    names = ["a.csv", "b[2].csv"]
    for name in (*names, "../proj1/c.csv"):
        write_csv(folder / name, 10)
    found = prepare.find_files(prepare.rooted(Config(train="*.csv", test=("../proj1/*.csv",)), folder))
    assert found["train"] == [folder / name for name in names]
    assert [path.name for path in found["test"]] == ["c.csv"]
    for name in names:
        twice = prepare.rooted(prepare.rooted(Config(train=name), folder), folder)
        assert prepare.find_files(twice) == {"train": [folder / name]}
    with clear_error("c.csv", error=DataError):  # it stands in the folder that the name would match
        prepare.find_files(prepare.rooted(Config(train="c.csv"), folder))


def test_D5_duplicates_are_counted_and_dropped_where_the_recipe_says_so(tmp_path: Path) -> None:
    lines = write_csv(tmp_path / "a.csv", 50).read_text().splitlines()
    (tmp_path / "a.csv").write_text("\n".join([lines[0], *lines[1:], *lines[1:]]) + "\n")
    kept = prepared_of(tmp_path, tmp_path / "a.csv", split={"validation": 0.0})
    dropped = prepared_of(tmp_path, tmp_path / "a.csv", split={"validation": 0.0}, cleaning={"duplicates": "drop"})
    assert (kept.split("train").rows, dropped.split("train").rows) == (100, 50)
    assert texts(dropped, "train") == texts(kept, "train")[:50]


def test_D6_a_class_that_only_the_test_rows_hold_is_unseen_and_told(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text("text,size,label\nx,1,never seen\ny,2,a\n")
    prepared = prepared_of(tmp_path, write_csv(tmp_path / "train.csv", 50), test=str(test))
    index = prepared.split("test").take(np.arange(2))["label.index"]
    assert np.asarray(index).tolist() == [category.UNSEEN, 0]
    assert prepared.codec_json("label")["classes"] == ["a", "b"]
    assert any("unseen" in note for note in prepared.report.to_json()["notes"])


def test_labels_are_cut_at_the_separator_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,tags\n" + "".join(f"{row},red;big\n{row},blue\n" for row in range(20)))
    fields = [
        Used("x", number.Config(), False, number),
        Used("tags", labels.Config(separator=";"), True, labels),
    ]
    assert prepared_of(tmp_path, tmp_path / "a.csv", fields).codec_json("tags")["classes"] == ["big", "blue", "red"]


def test_encoded_rows_are_the_clean_rows(tmp_path: Path, small_chunks: None) -> None:
    prepared = prepared_of(tmp_path, write_csv(tmp_path / "a.csv", 100), split={"validation": 0.0})
    split = prepared.split("train")
    rows = split.take(np.arange(100))
    assert texts(prepared, "train") == [f"row {row} says {row * row % 97} things" for row in range(100)]
    assert np.asarray(rows["size.value"]) == pytest.approx([row / 7 for row in range(100)])
    assert np.asarray(rows["label.index"]).tolist() == [row % 2 for row in range(100)]
    assert isinstance(rows["text.tokens"], Ragged)


# --------------------------------------------------------------------------------------------------------------- errors


def check_both(tmp_path: Path, file: Path, *parts: str, error: type[Exception] = DataError, **more: Any) -> None:
    """`prepare` and `inspect` (which is what `dougong check` does) say the same."""
    config = config_of(tmp_path, file, **more)
    for act in (
        lambda: prepare.prepare(config, small_fields()),
        lambda: inspect(config, small_fields()),
    ):
        with pytest.raises(error) as caught:
            act()
        check_clear(str(caught.value), *parts)


def test_D3_one_class_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,size,label\n" + "".join(f"row {row},1,same\n" for row in range(40)))
    check_both(tmp_path, tmp_path / "a.csv", "outputs.label", "two classes", "'same'")


def test_D3_a_missing_column_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,size,lable\nx,1,a\n")
    check_both(tmp_path, tmp_path / "a.csv", "a.csv", "no column 'label'", "outputs.label", "column: lable")


def test_D3_a_key_of_jsonl_may_come_late_and_is_missing_only_where_no_row_has_it(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"text": f"row {row}", "size": row, "label": "ab"[row % 2]} for row in range(300)]
    late = [{name: value for name, value in row.items() if name != "size" or row["size"] > 250} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in late))
    assert used_rows(prepared_of(tmp_path, file).report) == 300
    file.write_text("".join(json.dumps({"text": "x", "size": 1, "lable": "a"}) + "\n" for _ in rows))
    check_both(tmp_path, file, "a.jsonl", "no column 'label'", "outputs.label", "column: lable")


def test_a_long_text_without_blank_lines_is_read_by_the_unit_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (lines, plain_text):
        monkeypatch.setattr(part, "MAX_RECORD", 2000)  # 16 MB in earnest
    file = tmp_path / "a.txt"
    file.write_text("".join(f"line {row}\n" for row in range(300)))
    fields = [Used("text", text.Config(), True, text)]
    assert used_rows(prepared_of(tmp_path, file, fields, text_rows="line").report) == 300
    assert inspect(config_of(tmp_path, file, text_rows="line"), fields).rows_read == 300
    with clear_error("longer than", error=DataError):
        prepared_of(tmp_path, file, fields)


@pytest.mark.parametrize("content", ["", "text,size,label\n"])
def test_D3_a_file_without_rows_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    check_both(tmp_path, tmp_path / "a.csv", "a.csv")


def test_D1_too_many_bad_rows_stop_the_work_and_say_which(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,size,label\n" + "".join(f"row {row},x,a\n" for row in range(40)))
    check_both(tmp_path, tmp_path / "a.csv", "40 of 40 rows", f"40 in {tmp_path / 'a.csv'}", "is not a number")
    with pytest.raises(DataError) as caught:
        inspect(config_of(tmp_path, tmp_path / "a.csv"), small_fields())
    assert "that file" not in str(caught.value), "it names a list that is not there"


def test_D1_bad_rows_are_counted_for_the_file_that_holds_them(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text("text,size,label\n" + "".join(f"row {row},x,a\n" for row in range(40)))
    check_both(tmp_path, write_csv(tmp_path / "a.csv", 60), f": 40 in {test}\n", "40 of 100 rows", test=str(test))


def test_D3_classes_are_judged_as_the_training_will_have_them(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("size,label\n" + "".join(f"{row},{'ab'[row > 29]}\n" for row in range(40)))
    often = Used("label", category.Config(min_count=15), True, category)
    for act in (prepare.prepare, inspect):
        with clear_error("outputs.label", "two classes", "'a'", error=DataError):
            act(config_of(tmp_path, file, split={}), [Used("size", number.Config(), False, number), often])


@pytest.mark.parametrize(
    "rules", [{}, {"duplicates": "drop", "near_duplicates": "keep"}, {"near_duplicates": "drop", "outliers": 50.0}]
)
def test_D5_check_reports_what_prepare_reports_and_leaves_nothing(tmp_path: Path, rules: dict[str, Any]) -> None:
    write_csv(tmp_path / "test.csv", 30)
    more: dict[str, Any] = {"test": str(tmp_path / "test.csv"), "cleaning": {"max_bad": 0.1, **rules}}
    file = messy(tmp_path / "a.csv")
    with file.open("a") as stream:
        stream.write("row 0 says 0 things,0.0,a\n")
    looked = inspect(config_of(tmp_path, file, **more), small_fields())
    assert not list((tmp_path / "prepared").iterdir())
    found = prepared_of(tmp_path, file, **more).report
    assert looked.exact_duplicates >= 3
    assert looked.leaked["test"] == 1
    found.used.clear()  # only what is encoded is used, and gives notes
    found.notes.clear()
    assert looked.to_json() == found.to_json()


def test_D1_no_row_left_is_an_error_not_an_empty_model(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,size,label\n" + "".join(f" ,{row},a\n" for row in range(40)))
    check_both(tmp_path, tmp_path / "a.csv", "no row is left")


def test_outliers_without_a_number_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, write_csv(tmp_path / "a.csv", 30), cleaning={"outliers": 3.0})
    for act in (prepare.prepare, inspect):
        with clear_error("data.cleaning.outliers", error=FieldError):
            act(config, [small_fields()[0], small_fields()[2]])


def test_a_mended_file_is_prepared_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,size,label\nx,1,a\ny,z,b\n")
    with pytest.raises(DataError):
        prepared_of(tmp_path, tmp_path / "a.csv")
    assert used_rows(prepared_of(tmp_path, write_csv(tmp_path / "a.csv", 30)).report) == 30


@pytest.mark.parametrize("damage", ["cut", "longer", "gone"])
def test_D11_a_prepared_shard_that_changed_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    file = write_csv(tmp_path / "a.csv", 100)
    folder = prepared_of(tmp_path, file).folder
    shard = folder / "train" / "part-00000.arrow"
    data = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data[:-8] if damage == "cut" else data + b"\0")
    with clear_error(str(Path("train") / "part-00000.arrow"), str(folder), error=ArtefactError):
        prepared_of(tmp_path, file)


def test_D11_every_file_of_a_preparation_is_checked_when_it_is_read_and_by_verify(tmp_path: Path) -> None:
    folder = prepared_of(tmp_path, write_csv(tmp_path / "a.csv", 100)).folder
    reads: dict[str, Any] = {
        "train/part-00000.arrow": lambda prepared: prepared.split("train").take(np.arange(1)),
        "fields/label.json": lambda prepared: prepared.codec_json("label"),
        "report.json": lambda prepared: prepared.report,
    }
    Prepared(folder).verify()
    for name, reading in reads.items():
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)
        for act in (reading, Prepared.verify):
            with clear_error(name, f"delete {folder}; it is prepared again", error=ArtefactError):
                act(Prepared(folder))
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)
    Prepared(folder).verify()


def changing(monkeypatch: pytest.MonkeyPatch, change: Any, when: int) -> None:
    """Let `change` happen when chunk `when` of the files is read."""
    read = preparation.chunked

    def reading(*arguments: Any) -> Iterator[Any]:
        for index, chunk in enumerate(read(*arguments)):
            if index == when:
                change()
            yield chunk

    monkeypatch.setattr(preparation, "chunked", reading)


def written_again(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data.replace(b"things", b"stuffs"))


@pytest.mark.parametrize("when", [0, 3])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (written_again, "it was written again"),
        (lambda file: write_csv(file, 101), "bytes and has"),
        (lambda file: file.write_text("text,size,label\nx,y\n"), "bytes and has"),
        (Path.unlink, "it is gone"),
    ],
    ids=["rewritten", "longer", "damaged", "gone"],
)
def test_D11_a_file_that_changes_while_it_is_prepared_is_never_sealed_under_its_old_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_chunks: None, change: Any, said: str, when: int
) -> None:
    file = write_csv(tmp_path / "a.csv", 100)
    data = file.read_bytes()
    with monkeypatch.context() as while_it_works:
        changing(while_it_works, lambda: change(file), when)
        with clear_error(str(file), said, "run it again", error=DataError):
            prepared_of(tmp_path, file)
    assert [path.suffix for path in (tmp_path / "prepared").iterdir()] == [".lock"]
    file.write_bytes(data)
    assert texts(prepared_of(tmp_path, file, split={}), "train")[99] == "row 99 says 4 things"


def test_D11_a_picture_that_changes_or_goes_while_it_is_prepared_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, fields = pictures(tmp_path)
    for change in (lambda path: path.write_bytes(picture(99)), Path.unlink):
        path = tmp_path / "pictures" / "7.png"
        with monkeypatch.context() as while_it_works:
            changing(while_it_works, partial(change, path), 0)
            with clear_error("7.png", "it changed while the data was prepared", error=DataError):
                prepared_of(tmp_path, file, fields)


def test_D11_what_was_read_of_a_file_that_changed_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_chunks: None
) -> None:
    """Killed after it had read rows of another version of the file, which then came back."""
    file = write_csv(tmp_path / "a.csv", 100)
    data = file.read_bytes()

    class Killed(BaseException):
        pass

    def kill() -> None:
        file.write_bytes(data)
        raise Killed

    with monkeypatch.context() as while_it_works:
        while_it_works.setattr(preparation.Preparation, "choose", lambda *_: kill())
        changing(while_it_works, lambda: written_again(file), 0)
        with pytest.raises(Killed):
            prepared_of(tmp_path, file, split={})
    assert list((tmp_path / "prepared").glob("*.partial"))
    assert texts(prepared_of(tmp_path, file, split={}), "train")[99] == "row 99 says 4 things"
    assert not list((tmp_path / "prepared").glob("*.partial"))


def test_what_was_left_half_done_a_week_ago_is_removed_unless_somebody_works_on_it(tmp_path: Path) -> None:
    cache, week = tmp_path / "prepared", prepare.ABANDONED + 60
    for name, age in (("old", week), ("young", 60), ("locked", week)):
        for folder in (cache / f"{name}.0.partial" / "rows", cache / f"{name}.0.partial"):
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder, (time.time() - age,) * 2)
    with lock(cache / "locked.lock"):
        prepared_of(tmp_path, write_csv(tmp_path / "a.csv", 30))
    assert sorted(path.name for path in cache.glob("*.partial")) == ["locked.0.partial", "young.0.partial"]


def test_D11_a_damaged_manifest_is_refused_by_name(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", 100)
    manifest = prepared_of(tmp_path, file).folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"part-00000", b"part-00001", 1))
    with clear_error("manifest.json", error=ArtefactError):
        prepared_of(tmp_path, file)


# --------------------------------------------------------------------------------------------- kills, races, all cores


def test_two_processes_give_the_same_bytes_as_one(tmp_path: Path, small_chunks: None) -> None:
    file = messy(tmp_path / "a.csv")
    more: dict[str, Any] = {"cleaning": {"max_bad": 0.1, "duplicates": "drop"}}
    inline = prepare.prepare(config_of(tmp_path / "one", file, **more), small_fields(), workers=0)
    parallel = prepare.prepare(config_of(tmp_path / "two", file, **more), small_fields(), workers=2)
    assert contents(inline.folder) == contents(parallel.folder)
    assert len(inline.rows["train"]) > 5


def test_two_at_once_end_in_one_good_folder_or_the_second_says_who_is_at_work(tmp_path: Path) -> None:
    file, cache = write_csv(tmp_path / "a.csv", 3000), tmp_path / "prepared"
    both = [child(file, cache, 0, 300) for _ in range(2)]
    said = [answer(process) for process in both]
    assert [process.returncode for process in both].count(0) >= 1
    for one, process in zip(said, both, strict=True):
        if process.returncode:
            check_clear(one["error"], "in use by ")
            assert process.returncode == ArtefactError.exit_code
    (folder,) = [path for path in cache.iterdir() if path.suffix == ""]
    verify_folder(folder, "prepared")
    assert sum(sum(parts.values()) for parts in Prepared(folder).rows.values()) == 3000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A file in many parts, and what its preparation gives."""
    folder = tmp_path_factory.mktemp("whole")
    file = write_csv(folder / "a.csv", 300)
    said = answer(child(file, folder / "prepared", 0, 20))
    return file, contents(folder / "prepared" / said["key"])


class Victims:
    """Preparations to be killed, one at a time."""

    def __init__(self, server: subprocess.Popen[str]):
        self.server = server

    def prepare(self, *arguments: object, kill_after: float | None = None) -> int:
        """Its exit code: -9 where it was killed before its end."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps([kill_after, [str(argument) for argument in arguments]]) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@pytest.fixture
def victims() -> Iterator[Victims]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.data.prepare_child"],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        yield Victims(server)
        assert server.stdin is not None
        server.stdin.close()


def test_D_kill_9_at_any_point_then_again_gives_the_same_bytes(
    tmp_path: Path, whole: tuple[Path, dict[str, bytes]], victims: Victims
) -> None:
    """Each is killed a random while after it goes on with what those before it left; the last one ends the work."""
    file, expected = whole
    assert victims.prepare(file, tmp_path / "first", 0, 20) == 0
    started = time.monotonic()
    assert victims.prepare(file, tmp_path / "measured", 0, 20) == 0
    needed = time.monotonic() - started
    moments, kills, ended = random.Random(0), 0, 0
    while kills < 20 * SHARE:
        cache = tmp_path / f"prepared-{ended}"
        for _ in range(moments.randint(1, 4)):
            code = victims.prepare(file, cache, 0, 20, kill_after=moments.uniform(0, needed))
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
            for folder in cache.glob("*/manifest.json"):
                if folder.parent.suffix == "":  # it was put in place: it is complete
                    assert contents(folder.parent) == expected
        assert victims.prepare(file, cache, 0, 20) == 0
        (folder,) = [path for path in cache.iterdir() if path.suffix == ""]
        assert contents(folder) == expected
        assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock"], "something is left over"
        ended += 1


def test_D_kill_9_of_a_preparation_on_all_cores_then_again_gives_the_same_bytes(
    tmp_path: Path, whole: tuple[Path, dict[str, bytes]]
) -> None:
    file, expected = whole
    process = child(file, tmp_path, 2, 20)
    wait_for(tmp_path, process)
    others = list(children_of(process.pid))
    assert others, "the work ended before there was something to kill"
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while left := [pid for pid in others if alive(pid)]:
        assert time.monotonic() < deadline, f"processes {left} outlive the one that sends them work"
        time.sleep(0.05)
    assert contents(tmp_path / answer(child(file, tmp_path, 0, 20))["key"]) == expected


def wait_for(cache: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the first part of the work is there."""
    while process.poll() is None and not list(cache.glob("*.partial/rows/*")):
        time.sleep(0.002)


def children_of(parent: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                yield int(path.parent.name)
        except OSError:
            continue


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# --------------------------------------------------------------------------------------------------------------- memory


def generate(path: Path, megabytes: int) -> Path:
    """Rows of text with few repetitions, about so large."""
    words = [f"{a}{b}{c}" for a in "stkmr" for b in "aeiou" for c in ("n", "rd", "lp", "st")]
    choose = random.Random(0)
    block = []
    for row in range(10_000):
        said = " ".join(choose.choices(words, k=15))
        block.append(f"{said},{row / 3:.2f},{'ab'[row % 2]}\n" if path.suffix == ".csv" else f"{said}\n\n")
    joined = "".join(block)
    with path.open("w") as stream:
        stream.write("text,size,label\n" if path.suffix == ".csv" else "")
        for number_ in range(megabytes * (1 << 20) // len(joined) + 1):
            stream.write(joined.replace("stan", f"w{number_}"))
    return path


@pytest.mark.parametrize(
    ("suffix", "megabytes", "rows"),
    [
        (".csv", 2, 500),
        pytest.param(".csv", 60, 20_000, marks=pytest.mark.nightly),
        pytest.param(".txt", 60, 20_000, marks=pytest.mark.nightly),
        pytest.param(".csv", 2000, 20_000, marks=pytest.mark.nightly),
    ],
)
def test_memory_stays_where_it_is_whatever_the_size(tmp_path: Path, suffix: str, megabytes: int, rows: int) -> None:
    file = generate(tmp_path / f"a{suffix}", megabytes)
    most = 80_000 if megabytes < 60 else 500_000  # kB: a few parts of so many rows, and what the tokenizer learns from
    assert answer(child(file, tmp_path / "prepared", 0, rows), 120 + 10 * megabytes)["grown_kb"] < most
