"""Boxes: from files to pixels and back, moved with their picture, learnt by both heads, told in the picture's own pixels."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dougong import lifecycle
from dougong import recipe as recipes
from dougong.core.config import read
from dougong.core.errors import RecipeError
from dougong.data.loader import collate
from dougong.fields import Field, image
from dougong.fields.boxes import Codec, Config, Head, augment
from dougong.layers.losses import Loss
from tests.clear_error import check_clear


def picture(width: int = 64, height: int = 48, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "JPEG", **options)
    return stream.getvalue()


def told(*values: Any, size: tuple[int, int] = (64, 48)) -> list[Any]:
    return [Codec.check(Codec.parse(value), picture(*size)) for value in values]


# --------------------------------------------------------------------------------------------------------------- codec


def test_boxes_become_shares_of_their_picture_and_come_back_in_its_pixels() -> None:
    values = told([[16, 12, 64, 48, "cat"], [0, 0, 32, 24, "dog"]], [])
    codec = Codec.fit(Config(), values)
    columns, counts = codec.encode([*values, *told([[0, 0, 1, 1, "cow"]])])
    assert codec.classes == ["cat", "dog"]
    assert columns["boxes"].row(0).tolist() == [[0.25, 0.25, 1, 1], [0, 0, 0.5, 0.5]]  # type: ignore[union-attr]
    assert np.asarray(columns["size"]).tolist() == [[48, 64]] * 3
    assert counts == {"missing": 0, "unseen values": 1}
    assert codec.decode(columns) == [[[16, 12, 64, 48, "cat"], [0, 0, 32, 24, "dog"]], [], [[0, 0, 1, 1, None]]]


def test_the_size_is_that_of_the_picture_as_it_was_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: what lay 64 wide stands 64 high
    value = Codec.parse([[0, 50, 48, 64, "cat"]])
    assert (Codec.check(value, picture(exif=exif)) or {})["size"] == [64, 48]
    with pytest.raises(ValueError, match="stands out of its picture of 64 × 48 pixels"):
        Codec.check(value, picture())
    with pytest.raises(ValueError, match="a picture that is missing"):
        Codec.check(value, None)


def test_answers_are_those_that_reach_the_threshold() -> None:
    codec = Codec.fit(Config(threshold=0.5), told([[0, 0, 1, 1, "cat"], [0, 0, 1, 1, "dog"]]))
    prediction = {
        "boxes": np.float32([[[0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]]),
        "labels": np.array([[1, 0, 0]]),
        "scores": np.float32([[0.75, 0.25, 0]]),
        "size": np.array([[100, 200]]),
    }
    assert codec.answers(prediction) == [{"value": [[100, 50, 200, 100, "dog"]], "scores": [0.75]}]
    everything = Codec(dataclasses.replace(codec.config, threshold=0.0), codec.classes)
    assert len(everything.answers(prediction)[0]["value"]) == 2  # what pads is never a box


# ------------------------------------------------------------------------------------------------------------- augment


def test_boxes_move_with_their_picture_and_leave_with_it() -> None:
    values = told([[16, 12, 32, 24, "cat"], [48, 36, 64, 48, "dog"]], [[0, 0, 64, 48, "cat"]])
    field = Field("y", Config(of="x"), Codec.fit(Config(), values))
    columns, _ = field.codec.encode(values)
    batch = collate({f"y.{key}": column for key, column in columns.items()}, np.arange(2), {})
    assert augment(field, batch) is batch
    flip = [[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    there = [[1.0, 0.0, 0.15], [0.0, 1.0, 0.0]]  # the dog is left but for two fifths of it: more than a quarter
    away = [[1.0, 0.0, 0.2], [0.0, 1.0, 0.0]]  # a fifth is left
    for affine, wanted, labels in (
        (flip, [[0.5, 0.25, 0.75, 0.5], [0, 0.75, 0.25, 1]], [0, 1]),
        (there, [[0.4, 0.25, 0.65, 0.5], [0.9, 0.75, 1, 1]], [0, 1]),
        (away, [[0.45, 0.25, 0.7, 0.5]], [0]),
    ):
        moved = augment(field, batch | {"x.affine": torch.tensor([affine] * 2)})
        count = int(moved["y.boxes.length"][0])
        assert torch.allclose(moved["y.boxes"][0, :count], torch.tensor(wanted), atol=1e-6)
        assert moved["y.labels"][0, :count].tolist() == labels
        assert moved["y.labels.length"].tolist() == moved["y.boxes.length"].tolist() == [count, 1]


def test_a_picture_and_its_boxes_are_moved_alike() -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(16, 48, 64, 1, dtype=torch.uint8)
    pixels[:, 12:24, 16:32] = 255
    moving = SimpleNamespace(name="x", config=image.Config(augment=image.Augment(flip=True, crop=6, zoom=0.3)))
    field = Field("y", Config(of="x"), Codec.fit(Config(), told([[16, 12, 32, 24, "cat"]])))
    columns, _ = field.codec.encode(told([[16, 12, 32, 24, "cat"]]) * 16)
    batch = collate({f"y.{key}": column for key, column in columns.items()}, np.arange(16), {})
    moved = augment(field, image.augment(moving, batch | {"x.pixels": pixels}))
    for light, sides in zip(moved["x.pixels"][..., 0] > 127, moved["y.boxes"][:, 0], strict=True):
        y, x = light.nonzero().T
        found = torch.tensor([x.min() / 64, y.min() / 48, (x.max() + 1) / 64, (y.max() + 1) / 48])
        assert (found - sides).abs().max() < 1.5 / 48


# --------------------------------------------------------------------------------------------------------- the recipe


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": "shapes",
        "data": {
            "train": str(folder / "train.coco.json"),
            "test": str(folder / "test.coco.json"),
            "cache": str(folder),
        },
        "inputs": {"image": {"type": "image", "size": [32, 32], "patch": 4}},
        "outputs": {"boxes": "boxes"},
        "model": {"kind": "convnet", "width": 32, "layers": 3, "stages": 2},
        "train": {"steps": 60, "batch_size": 16, "optimizer": {"kind": "adamw", "lr": 4e-3}, "device": "cpu"},
    }
    plain["data"]["split"] = {}
    return plain | changes


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"inputs": {"text": "text"}}, ("outputs.boxes.of", "an input of type image", "add inputs: {image: image}")),
        ({"model": "mlp"}, ("model.kind = 'mlp'", "keeps the places of what it reads")),
        (
            {"inputs": {"image": "image", "name": "text"}, "model": "transformer"},
            ("inputs = 'image, name'", "the image alone", "remove name"),
        ),
        (
            {"inputs": {"image": {"type": "image", "augment": {"mixup": 0.2}}}},
            ("inputs.image.augment.mixup = 0.2", "cannot be blended", "remove it"),
        ),
        (
            {"inputs": {"image": {"type": "image", "augment": {"cutmix": 1.0}}}},
            ("inputs.image.augment.cutmix = 1.0", "cannot be blended"),
        ),
        (
            {"outputs": {"boxes": {"type": "boxes", "head": "yolo"}}},
            ("outputs.boxes.head.kind = 'yolo'", "one of fcos, detr"),
        ),
        (
            {"outputs": {"boxes": {"type": "boxes", "head": {"kind": "detr", "width": 20}}}},
            ("head.width = 20", "a multiple of 4 · heads (16)"),
        ),
        ({"outputs": {"boxes": {"type": "boxes", "loss": "mae"}}}, ("outputs.boxes.loss.kind = 'mae'", "auto")),
        (
            {"inputs": {"image": {"type": "image", "sizes": True}}, "outputs": {"label": "category"}},
            ("inputs.image.sizes = true", "false: no output names its sizes"),
        ),
    ],
)
def test_recipes_that_cannot_tell_boxes_are_refused(
    tmp_path: Path, changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load(recipe(tmp_path, **changes))
    check_clear(str(caught.value), *parts)


def test_the_image_is_told_to_keep_its_size_and_a_head_is_chosen_by_its_name(tmp_path: Path) -> None:
    loaded = recipes.load(recipe(tmp_path, outputs={"boxes": {"type": "boxes", "head": "detr"}}))
    assert loaded.inputs["image"].sizes
    assert loaded.outputs["boxes"].of == "image"
    assert loaded.outputs["boxes"].head.kind == "detr"
    assert recipes.from_resolved(loaded.resolved(), "", "again").outputs == loaded.outputs


def test_too_few_queries_are_refused_with_the_number_that_is_needed() -> None:
    config, _ = read(Config, {"type": "boxes", "head": {"kind": "detr", "queries": 1}})
    codec = Codec.fit(config, told([[0, 0, 1, 1, "cat"], [0, 0, 2, 2, "cat"]]))
    with pytest.raises(ValueError, match=r"head\.queries = 1: expected at least the 2 boxes .* Fix: use queries: 2"):
        Head(config, codec, 16, Loss())


# ------------------------------------------------------------------------------------------------------------- the task


def scene(random: np.random.Generator) -> tuple[Image.Image, list[list[Any]]]:
    """A dark picture of 64 × 48 pixels with a bright red square or a blue disc, or both, left and right."""
    shown = Image.fromarray(random.integers(0, 60, (48, 64, 3), dtype=np.uint8))
    boxes: list[list[Any]] = []
    for half in random.permutation(2)[: random.integers(1, 3)].tolist():
        size = int(random.integers(14, 24))
        x, y = 32 * half + int(random.integers(0, 32 - size)), int(random.integers(0, 48 - size))
        name = ("square", "disc")[random.integers(2)]
        draw = ImageDraw.Draw(shown)
        shape = draw.rectangle if name == "square" else draw.ellipse
        shape([x, y, x + size - 1, y + size - 1], fill=(255, 40, 40) if name == "square" else (60, 60, 255))
        boxes.append([x, y, size, size, name])
    return shown, boxes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Composed scenes as COCO's JSON: 160 to learn from, 24 to be measured on."""
    folder, random = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for split, count in (("train", 160), ("test", 24)):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
        content["categories"].append({"id": 2, "name": "disc"})
        for number in range(count):
            shown, boxes = scene(random)
            name = f"{split}-{number}.png"
            shown.save(folder / name)
            content["images"].append({"id": number, "file_name": name})
            for *box, label in boxes:
                category = {"square": 1, "disc": 2}[label]
                content["annotations"].append({"image_id": number, "category_id": category, "bbox": box})
        (folder / f"{split}.coco.json").write_text(json.dumps(content))
    return folder


HEADS = {
    "fcos": {"kind": "fcos", "width": 32, "convs": 1},
    "detr": {"kind": "detr", "width": 32, "queries": 6, "layers": 2},
}
LEARNT = {"fcos": 0.8, "detr": 0.3}  # a decoder takes longer to find its places


@pytest.mark.parametrize("head", HEADS)
def test_either_head_learns_where_things_are(head: str, shapes: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = lifecycle.train(recipe(shapes, outputs={"boxes": {"type": "boxes", "head": HEADS[head]}}), quiet=True)
    assert run.metrics()["test"]["boxes.map_50"]["value"] > LEARNT[head]
    answer = run.predict([{"image": str(shapes / "test-0.png")}])[0]["boxes"]
    assert len(answer["value"]) == len(answer["scores"])
    assert all(0 <= x < right <= 64 and 0 <= y < low <= 48 for x, y, right, low, _ in answer["value"])
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert report.count('<svg class="drawn"') == 8
    assert 'class="right"' in report


@pytest.mark.parametrize(
    ("image", "model"),
    [
        ({}, {"kind": "transformer", "width": 32, "heads": 4, "layers": 1}),
        (
            {"encoder": {"kind": "convnet", "width": 16, "layers": 2}},
            {"kind": "transformer", "width": 32, "heads": 4, "layers": 1},
        ),
    ],
)
def test_queries_look_at_whatever_gives_a_grid(
    image: dict[str, Any], model: dict[str, Any], shapes: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = recipe(shapes, outputs={"boxes": {"type": "boxes", "head": HEADS["detr"]}}, model=model)
    plain["inputs"]["image"] |= image
    plain["train"]["steps"] = 2
    run = lifecycle.train(plain, quiet=True)
    assert math.isfinite(run.metrics()["test"]["boxes.map"]["value"])


def test_D1_what_is_wrong_with_one_picture_costs_its_row_alone(shapes: Path, tmp_path: Path) -> None:
    content = json.loads((shapes / "train.coco.json").read_text())
    images, annotations = content["images"][:40], [each for each in content["annotations"] if each["image_id"] < 40]
    annotations[0] |= {"bbox": [0, 0, 999, 5]}
    for each in images:
        each["file_name"] = str(shapes / each["file_name"])
    images[5]["file_name"] = str(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    images[6]["file_name"] = "nowhere.png"
    (tmp_path / "train.coco.json").write_text(json.dumps(content | {"images": images, "annotations": annotations}))
    plain = recipe(tmp_path)
    plain["data"] |= {"test": None, "split": {"test": 0.2}, "cleaning": {"max_bad": 0.2}}
    prepared = lifecycle.prepare(plain)
    assert sum(sum(rows.values()) for rows in prepared.rows.values()) == 37
    reasons = " ".join(prepared.report.bad)
    assert "stands out of its picture of # × # pixels" in reasons
    assert "not a PNG, JPEG, WEBP image, or damaged" in reasons
    assert "no such image file: nowhere.png" in reasons
