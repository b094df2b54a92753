"""Annotated pictures: COCO's JSON and folders of Pascal VOC's XML, read as tables with the columns `image` and `boxes`.

COCO (Lin et al. 2014, arXiv:1405.0312): `file_name` is the path of a picture beside the JSON. Pascal VOC (Everingham et al.
2010): a folder `Annotations` of XML beside `JPEGImages`, or XML and pictures in one folder; its pixels count from 1, and its
boxes hold the last one, so that 1 is taken off the lower ends. Every picture is a row, also where nothing stands in it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from dougong.core.errors import shown
from dougong.data.json_lines import JSON, check_depth
from dougong.data.lines import open_unpacked
from dougong.data.records import MAX_RECORD, Record, Unit, Unreadable, refuse

MAX_JSON = 1 << 30  # bytes of one COCO file, which is held whole: about eight times that in memory
MAX_NODES = 20_000_000  # lists and objects of it; those of COCO's own training pictures are a third of that
MAX_DEPTH = 32  # of nested XML
SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_coco(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    """One row a picture. Whatever is wrong with an annotation makes its picture's row bad."""
    whole = _coco(file, compression)
    names = {item.get("id"): item.get("name") for item in _dicts(whole["categories"])}
    boxes: dict[Any, list[Any]] = defaultdict(list)
    crowds: Counter[Any] = Counter()
    wrong: dict[Any, str] = {}
    known = {image["id"] for image in _dicts(whole["images"]) if isinstance(image.get("id"), int | str)}
    for number, item in enumerate(whole["annotations"], 1):
        told = item if isinstance(item, dict) else {}
        image = told.get("image_id")
        if not isinstance(image, int | str) or image not in known:
            yield Unreadable(f"annotation {number}: no picture has the image_id {shown(image)}", json.dumps(item))
        elif told.get("iscrowd"):
            crowds[image] += 1  # a region of many, which is no box of one
        else:
            try:
                boxes[image].append(_coco_box(told, names))
            except ValueError as error:
                wrong.setdefault(image, f"annotation {number}: {error}")
    seen: set[Any] = set()
    for image in whole["images"]:
        key, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if not isinstance(key, int | str) or key in seen or not isinstance(name, str) or not name:
            problem = "id stands twice" if isinstance(key, int | str) and key in seen else "id or file_name is missing"
            yield Unreadable(f"a picture whose {problem}", json.dumps(image))
        elif key in wrong:
            yield Unreadable(wrong[key], json.dumps(image))
        else:
            yield {"image": name, "boxes": boxes[key], "crowds": crowds[key]}
        seen.add(key if isinstance(key, int | str) else None)


def _coco(file: Path, compression: str) -> dict[str, list[Any]]:
    """The three lists of a COCO file. Refuses any other JSON."""
    with open_unpacked(file, compression) as stream:
        data = stream.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        fix = "write one object {image, boxes} a line and name the file .jsonl"
        refuse(file, f"JSON of more than {MAX_JSON >> 20:,} MB, which would be held whole", fix)
    try:
        text = data.decode("utf-8-sig")
        if (brackets := text.count("[") + text.count("{")) > MAX_NODES:
            raise Unreadable(f"{brackets:,} brackets: at most {MAX_NODES:,} are read")
        check_depth(text)
        whole = JSON.decode(text.strip())
    except Unreadable as bad:
        refuse(file, bad.reason, "correct the file")
    except (ValueError, RecursionError) as error:
        refuse(file, f"not valid JSON: {shown(str(error)[:100])}", "correct the file, or get it anew")
    lists = ("images", "annotations", "categories")
    if not isinstance(whole, dict) or not all(isinstance(whole.get(key), list) for key in lists):
        found = f"JSON that is no COCO annotations (lists {', '.join(lists)}): one JSON value cannot be streamed"
        refuse(file, found, "write one object a line and name the file .jsonl")
    return whole


def _dicts(items: list[Any]) -> Iterator[dict[str, Any]]:
    return (item for item in items if isinstance(item, dict))


def _coco_box(item: dict[str, Any], names: dict[Any, Any]) -> list[Any]:
    box, category = item.get("bbox"), item.get("category_id")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"expected a bbox [x, y, width, height], found {shown(box)}")
    label = names.get(category) if isinstance(category, int | str) else None
    if label is None:
        raise ValueError(f"no category has the id {shown(category)}")
    x, y, width, height = box
    return [x, y, x + width, y + height, label]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ----------------------------------------------------------------------------------------------------------- Pascal VOC


def voc_files(folder: Path) -> list[Path]:
    """The XML files of a folder in the form of Pascal VOC; none where it is no such folder."""
    place = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    return sorted(file for file in place.glob("*.xml") if not file.name.startswith("."))


def read_voc(folder: Path) -> Iterator[Record]:
    """One row an XML file: `image` (its path within the folder) and `boxes`."""
    for file in voc_files(folder):
        place = str(file.relative_to(folder))
        try:
            yield _voc_row(folder, file)
        except ValueError as error:
            yield Unreadable(f"{place}: {error}", place)


def _voc_row(folder: Path, file: Path) -> Record:
    if file.stat().st_size > MAX_RECORD:
        raise ValueError(f"larger than {MAX_RECORD >> 20} MB")
    root = parse_xml(file.read_bytes())
    name = (root.findtext("filename") or "").strip()
    if root.tag != "annotation" or not name or "/" in name or "\\" in name or name.startswith("."):
        raise ValueError("expected an <annotation> with the <filename> of a picture")
    pictures = folder / "JPEGImages" if (folder / "JPEGImages").is_dir() else file.parent
    boxes = [_voc_box(item, number) for number, item in enumerate(root.findall("object"), 1)]
    return {"image": str((pictures / name).relative_to(folder)), "boxes": boxes}


def _voc_box(item: Element, number: int) -> list[Any]:
    label = (item.findtext("name") or "").strip()
    if not label:
        raise ValueError(f"object {number} has no <name>")
    try:
        low_x, low_y, high_x, high_y = (float(item.findtext(f"bndbox/{side}") or "") for side in SIDES)
    except ValueError:
        raise ValueError(f"object {number}: expected a <bndbox> with numbers {', '.join(SIDES)}") from None
    return [max(low_x - 1, 0.0), max(low_y - 1, 0.0), high_x, high_y, label]  # some writers count from 0


def parse_xml(data: bytes) -> Element:
    """The root element. ValueError for what is no plain XML: a document type could define entities that unfold without end."""
    builder, depth = TreeBuilder(), 0
    parser = expat.ParserCreate()

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"XML nested deeper than {MAX_DEPTH} levels")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refused(*_: Any) -> None:
        raise ValueError("XML with a document type, which is not read: it could define entities")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refused
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"not valid XML: {error}") from None
    return builder.close()
