"""Boxes: what stands in a picture, and where – object detection. Told by one of two heads, `fcos` or `detr`.

Within the model boxes are shares of the picture's width and height, so that its size does not matter; as values they are
in pixels of the picture as it came, whose size the image codec keeps beside the pixels (`sizes`).
"""

# N rows, B batch, K boxes of a row, M boxes told at most, D width, C classes

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import Problem, bad_field
from dougong.data import boxes, class_names, pictures
from dougong.data.boxes import Boxes
from dougong.data.columns import Columns, Ragged
from dougong.fields import FieldConfig, Whole
from dougong.layers.boxes import area
from dougong.layers.detr import Detr, DetrHead
from dougong.layers.fcos import Fcos, FcosHead
from dougong.layers.features import Features, length_mask
from dougong.layers.losses import Loss
from dougong.metrics.detection import MeanAveragePrecision
from dougong.metrics.metric import Metric

OF, NAMES = "image", "sizes"  # the type of input in whose pixels they are told, and the key by which it keeps its size
UNSEEN = -1  # the number of a label that the training rows did not hold
VISIBLE = 0.25  # share of a box that must be left in a picture that was moved, for it to be learnt


@config
class Config(FieldConfig):
    """Boxes in a picture. The classes are those of the training rows unless listed."""

    type: Literal["boxes"] = "boxes"
    of: str | None = None  # the input that they are told of; None: the only image
    head: Annotated[Fcos | Detr, Field(discriminator="kind")] = Fcos()
    classes: tuple[str, ...] | None = None
    min_count: Count = 1  # rarer labels count as unseen
    threshold: Fraction = 0.3  # score from which on `predict` gives a box; metrics look at all
    most: Annotated[Count, Field(le=1000)] = 100  # boxes told of one picture; COCO's metrics look at no more than 100
    loss: Loss | None = None

    def __post_init__(self) -> None:
        class_names.check_listed(self, least=1)


def check(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    """What it asks of the inputs: one picture, whole, and not blended with another."""
    if len(whole.inputs) > 1:
        others = ", ".join(name for name in whole.inputs if name != config.of)
        expected = f"the image alone as input of boxes: beside {others} its grid would be lost"
        yield Problem("inputs", ", ".join(whole.inputs), expected, f"remove {others}")
    augment = getattr(whole.inputs.get(config.of or ""), "augment", None)
    for blend in ("mixup", "cutmix"):
        if getattr(augment, blend, 0):
            expected = f"0 where {key} tells boxes, which cannot be blended"
            yield Problem(f"inputs.{config.of}.augment.{blend}", getattr(augment, blend), expected, "remove it")


class Codec(class_names.NamesCodec):
    """Boxes in pixels <-> shares of the picture, and numbers of classes; labels that training did not hold are unseen."""

    RAW = pa.struct(
        [
            ("boxes", pa.list_(pa.list_(pa.float64()))),
            ("labels", pa.list_(pa.large_string())),
            ("size", pa.list_(pa.int64())),
        ]
    )
    CALLED = "labels of boxes"
    MOST = 10_000

    def __init__(self, config: Any, classes: Sequence[str], crowd: int = 0):
        super().__init__(config, classes)
        self.crowd = crowd  # boxes in the fullest training picture

    @staticmethod
    def parse(value: object, config: Config | None = None) -> Boxes | None:
        """As `data/boxes.py` reads them. An empty list is a picture with nothing in it, an empty text none."""
        return None if value is None or value == "" else boxes.read(value)

    @staticmethod
    def check(value: Boxes | None, picture: bytes | None) -> Boxes | None:
        """The boxes with the size of their picture. ValueError where one stands out of it."""
        if value is None:
            return None
        if picture is None:
            raise ValueError("boxes of a picture that is missing")
        return boxes.placed(value, pictures.upright_size(picture))

    @classmethod
    def fit(cls, config: Config, values: Iterable[Boxes | None]) -> Codec:  # type: ignore[override] # names stand in boxes
        crowd = 0

        def names() -> Iterator[list[str]]:
            nonlocal crowd
            for value in values:
                if value is not None:
                    crowd = max(crowd, len(value["labels"]))
                    yield value["labels"]

        return cls(config, super().fit(config, names()).classes, crowd)

    def encode(self, values: Sequence[Boxes | None]) -> tuple[Columns, dict[str, int]]:
        """{"boxes": ragged (K, 4) float32, "labels": ragged int32, "size": (N, 2) int32: height and width in pixels}."""
        found = [value or {"boxes": [], "labels": [], "size": None} for value in values]
        size = np.array([value["size"] or extent(value["boxes"]) for value in found], dtype=np.int32).reshape(-1, 2)
        counts = np.array([len(value["boxes"]) for value in found], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        sides = np.array([box for value in found for box in value["boxes"]], dtype=np.float64).reshape(-1, 4)
        sides /= np.tile(size[:, ::-1], 2).repeat(counts, axis=0)
        names = [self.index.get(name, UNSEEN) for value in found for name in value["labels"]]
        labels = np.array(names, dtype=np.int32)
        missing = sum(value is None for value in values)
        return (
            {"boxes": Ragged(sides.astype(np.float32), offsets), "labels": Ragged(labels, offsets), "size": size},
            {"missing": missing, "unseen values": int((labels == UNSEEN).sum())},
        )

    def decode(self, columns: Columns) -> list[list[list[Any]]]:
        """[x_min, y_min, x_max, y_max, label] in pixels, None for a label that is unseen."""
        sides, labels = columns["boxes"], columns["labels"]
        assert isinstance(sides, Ragged)
        assert isinstance(labels, Ragged)
        sizes = np.asarray(columns["size"])
        return [self.told(sides.row(row), labels.row(row), sizes[row]) for row in range(len(sizes))]

    def told(self, sides: np.ndarray, labels: np.ndarray, size: np.ndarray) -> list[list[Any]]:
        """The boxes of one picture of `size` (height, width)."""
        pixels = sides.astype(np.float64) * np.tile(size[::-1], 2)  # (K, 4)
        names = [None if label == UNSEEN else self.classes[label] for label in labels]
        return [[*(round(side, 3) for side in box), name] for box, name in zip(pixels.tolist(), names, strict=True)]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """The boxes of a picture whose score reaches the threshold, the likeliest first, and their scores."""
        keys = ("boxes", "labels", "scores", "size")
        found = []
        for sides, labels, scores, size in zip(*(np.asarray(prediction[key]) for key in keys), strict=True):
            sure = scores >= max(self.config.threshold, np.finfo(np.float32).tiny)  # what pads has a score of 0
            value = self.told(sides[sure], labels[sure], size)
            found.append({"value": value, "scores": [round(float(score), 4) for score in scores[sure]]})
        return found

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "crowd": self.crowd}

    @classmethod
    def from_json(cls, config: Any, saved: dict[str, Any]) -> Codec:
        return cls(config, saved["classes"], saved["crowd"])


def extent(sides: Sequence[Sequence[float]]) -> list[int]:
    """Height and width that hold some boxes, where the picture's own are not known."""
    return [max([1, *(int(np.ceil(box[side])) for box in sides)]) for side in (3, 2)]


HEADS: dict[str, Any] = {"fcos": FcosHead, "detr": DetrHead}


class Head(nn.Module):
    """The features of a picture's grid, and of finer ones -> boxes."""

    AUTOREGRESSIVE: ClassVar[bool] = False
    FINER: ClassVar[bool] = True
    LOSSES: ClassVar[tuple[str, ...]] = ("auto",)  # each head has its own

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss, finer: Sequence[int] = ()):
        super().__init__()
        if loss.kind not in self.LOSSES or loss.label_smoothing:
            raise bad_field("train.loss", loss.kind, "auto for boxes: focal loss and GIoU", "remove it")
        queries = getattr(config.head, "queries", None)
        if queries is not None and codec.crowd > queries:
            expected = f"at least the {codec.crowd:,} boxes of the fullest training picture"
            raise bad_field("head.queries", queries, expected, f"use queries: {codec.crowd}")
        self.of = config.of
        self.net = HEADS[config.head.kind](config.head, [*finer, width], len(codec.classes), config.most)

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        """Boxes; a picture without any counts as one: that there is nothing is also to be told."""
        return batch[f"{name}.boxes.length"].clamp(min=1).sum()

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        sides, labels = batch[f"{name}.boxes"], batch[f"{name}.labels"]
        total: Tensor = self.net.loss(
            features, sides, labels, length_mask(batch[f"{name}.boxes.length"], sides.shape[1])
        )
        return total

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"boxes": (B, M, 4), "labels", "scores": (B, M)}, each with its length; "size": (B, 2) of the picture in pixels."""
        sides, labels, scores, count = self.net.predict(features)
        size = batch[f"{self.of}.size"] if f"{self.of}.size" in batch else batch[f"{name}.size"]
        found = {"boxes": sides, "labels": labels, "scores": scores}
        return found | {f"{key}.length": count for key in found} | {"size": size}


def augment(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The boxes where their picture's places came to lie, as far as they are still in it; those hardly so are left out."""
    affine = batch.get(f"{field.config.of}.affine")  # (B, 2, 3)
    if affine is None:
        return batch
    sides, labels, count = (batch[f"{field.name}.{key}"] for key in ("boxes", "labels", "boxes.length"))
    corners = torch.stack([sides[..., pair] for pair in ([0, 1], [2, 1], [0, 3], [2, 3])], dim=2)  # (B, K, 4, 2)
    moved = (affine[:, None, None, :, :2] @ corners[..., None])[..., 0] + affine[:, None, None, :, 2]
    whole = torch.cat([moved.amin(2), moved.amax(2)], dim=-1)  # (B, K, 4)
    within = whole.clamp(0, 1)
    kept = (area(within) >= VISIBLE * area(whole)) & (area(within) > 0) & length_mask(count, sides.shape[1])
    order = kept.int().argsort(dim=1, descending=True, stable=True)  # (B, K): those that are kept come first
    within = (within * kept[..., None]).gather(1, order[..., None].expand_as(within))
    left = kept.sum(1)
    changed = {"boxes": within, "labels": (labels * kept).gather(1, order), "boxes.length": left, "labels.length": left}
    return batch | {f"{field.name}.{key}": value for key, value in changed.items()}


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    classes = len(codec.classes)
    return [MeanAveragePrecision(classes), MeanAveragePrecision(classes, 0.5), MeanAveragePrecision(classes, 0.75)]
