"""COCO's JSON and Pascal VOC's folders become tables; what is wrong with a picture's annotations makes its row bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dougong.core.errors import DataError
from dougong.data.annotated import parse_xml
from dougong.data.sources import BadRow, Row, columns, find_files, read_rows

COCO: dict[str, Any] = {
    "info": {"year": 2026},
    "images": [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 2, "file_name": "b.png", "width": 64, "height": 48},
        {"id": 3, "file_name": "c.png", "width": 64, "height": 48},
    ],
    "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 20, 5, 6.5], "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 9, "bbox": [0, 0, 64, 48]},
        {"id": 3, "image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4]]},
        {"id": 4, "image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ],
}


def written(folder: Path, content: Any, name: str = "set.coco.json") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def rows_of(file: Path) -> list[Any]:
    return [row.values if isinstance(row, Row) else row.reason for row in read_rows(file)]


def test_coco_gives_a_row_for_each_picture(tmp_path: Path) -> None:
    file = written(tmp_path, COCO)
    assert rows_of(file) == [
        {"image": "a.png", "boxes": [[10, 20, 15, 26.5, "cat"], [1, 2, 4, 6, "dog"]], "crowds": 1},
        {"image": "b.png", "boxes": [], "crowds": 0},
        {"image": "c.png", "boxes": [[0, 0, 64, 48, "dog"]], "crowds": 0},
    ]
    assert columns(file) == ["image", "boxes", "crowds"]
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert rows_of(packed) == rows_of(file)


def test_of_a_folder_only_what_is_called_coco_is_data(tmp_path: Path) -> None:
    written(tmp_path, COCO, "_annotations.coco.json")
    written(tmp_path, {"name": "a package"}, "package.json")
    assert [file.name for file in find_files(".", tmp_path)] == ["_annotations.coco.json"]
    assert [file.name for file in find_files("*.json", tmp_path)] == ["_annotations.coco.json", "package.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_id": 99}, "annotation 1: no picture has the image_id 99"),
        ({"image_id": [1]}, "annotation 1: no picture has the image_id [1]"),
        ({"category_id": 8}, "annotation 1: no category has the id 8"),
        ({"bbox": [1, 2, 3]}, "annotation 1: expected a bbox [x, y, width, height], found [1, 2, 3]"),
        ({"bbox": [1, 2, "3", 4]}, "annotation 1: expected a bbox [x, y, width, height]"),
    ],
)
def test_D1_a_wrong_annotation_makes_the_row_of_its_picture_bad(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    content = COCO | {"annotations": [COCO["annotations"][0] | change, *COCO["annotations"][1:]]}
    rows = list(read_rows(written(tmp_path, content)))
    bad = [row.reason for row in rows if isinstance(row, BadRow)]
    assert len(bad) == 1
    assert bad[0].startswith(told)
    assert len(rows) == (4 if "picture" in told else 3)


def test_D1_pictures_without_a_name_of_their_own_are_bad(tmp_path: Path) -> None:
    images = [*COCO["images"], {"id": 1, "file_name": "again.png"}, {"id": 4}, {"file_name": "x.png"}, "y.png"]
    found = rows_of(written(tmp_path, COCO | {"images": images, "annotations": [*COCO["annotations"], "none"]}))
    assert [each for each in found if isinstance(each, str)] == [
        "annotation 5: no picture has the image_id None",
        "a picture whose id stands twice",
        "a picture whose id or file_name is missing",
        "a picture whose id or file_name is missing",
        "a picture whose id or file_name is missing",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"name": "x"}, "no COCO annotations (lists images, annotations, categories)"),
        ([1, 2], "one JSON value cannot be streamed. Fix: write one object a line and name the file .jsonl"),
        ("{", "not valid JSON"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "the key 'images' stands twice"),
        ("[" * 1000 + "]" * 1000, "nested deeper than 64 levels"),
        (COCO | {"images": [], "annotations": []}, "no rows"),
    ],
)
def test_json_that_is_no_coco_is_refused_as_a_whole(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(written(tmp_path, content, "x.json"))
    assert told in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- Pascal VOC

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def voc(*objects: tuple[Any, ...], name: str = "a.jpg") -> str:
    inside = "".join(OBJECT.format(*each) for each in objects)
    return f'<?xml version="1.0"?><annotation><filename>{name}</filename>{inside}</annotation>'


def test_voc_pixels_count_from_one_and_a_folder_is_the_table(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(voc(("cat", 1, 1, 64, 48), ("dog", 0, 3, 10, 12)))
    (tmp_path / "Annotations" / "b.xml").write_text(voc(name="b.jpg"))
    (tmp_path / "Annotations" / "README").write_text("no XML")
    assert find_files(".", tmp_path) == [tmp_path / "."]
    assert rows_of(tmp_path) == [
        {"image": "JPEGImages/a.jpg", "boxes": [[0, 0, 64, 48, "cat"], [0, 2, 10, 12, "dog"]]},
        {"image": "JPEGImages/b.jpg", "boxes": []},
    ]


def test_voc_beside_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(voc(("cat", 1, 1, 64, 48)))
    (tmp_path / "a.jpg").write_bytes(b"")
    assert rows_of(tmp_path) == [{"image": "a.jpg", "boxes": [[0, 0, 64, 48, "cat"]]}]


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (BOMB, "a document type"),
        (OUTSIDE, "a document type"),
        (BOMB.encode("utf-16"), "a document type"),
        ("<annotation>", "not valid XML"),
        (b"\x00\xff", "not valid XML"),
        ("<a>" * 40 + "</a>" * 40, "nested deeper than 32 levels"),
        ("<note/>", "expected an <annotation>"),
        ("<annotation/>", "expected an <annotation>"),
        (voc(name="../../etc/passwd"), "expected an <annotation>"),
        (voc(("cat", 1, 1, "x", 48)), "object 1: expected a <bndbox>"),
        (voc(("", 1, 1, 2, 48)), "object 1 has no <name>"),
        ("<annotation><filename>a.jpg</filename><object><name>cat</name></object></annotation>", "expected a <bndbox>"),
    ],
)
def test_D1_hostile_xml_makes_its_row_bad_and_no_other(tmp_path: Path, content: str | bytes, told: str) -> None:
    (tmp_path / "bad.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "good.xml").write_text(voc(("cat", 1, 1, 64, 48)))
    bad, good = rows_of(tmp_path)
    assert bad.startswith("bad.xml: ")
    assert told in bad
    assert good["image"] == "a.jpg"


def test_plain_xml_is_read() -> None:
    assert parse_xml("<a><b>1 &amp; 2</b></a>".encode("utf-16")).findtext("b") == "1 & 2"
