"""Forty values of every type of field, as a data file would hold them. A new type needs one entry here.

Each value is clean: parsing and encoding it and decoding it again gives the parsed value back. `known` says which
of what is decoded can be compared.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from dougong import fields
from dougong.data import sounds
from dougong.fields import Field

ROWS = 40


@dataclass(frozen=True)
class Values:
    """What the contract tests must know of a type."""

    make: Callable[[int], Any]  # row number -> a raw value as a source gives it
    unseen: Any  # a value that no training row holds
    settings: dict[str, Any] = field(default_factory=dict)  # of its Config, to be small
    metrics: tuple[str, ...] = ()  # the names of design.md section 6 that its METRICS must offer
    missing: Any = None  # what a missing value is parsed to
    same: Callable[[Any, Any], bool] = lambda parsed, decoded: bool(parsed == decoded)


def _picture(row: int) -> bytes:
    pixels = np.random.default_rng(row).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _clip(row: int) -> list[bytes]:
    return [_picture(100 * row + frame) for frame in range(1 + row % 5)]


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def _sound(row: int, size: int = 0) -> bytes:
    """A WAV file of a tone and noise, at 4,000 samples a second."""
    size = size or 500 + 37 * row
    noise = np.random.default_rng(row).integers(-900, 900, size)
    tone = 9000 * np.sin(np.arange(size) * (0.1 + 0.05 * (row % 3)))
    return sounds.wav((tone + noise).astype(np.int16), 4000)


VALUES = {
    "text": Values(
        make=lambda row: f"row {row}: {'good' if row % 2 else 'bad'} 好 {'x' * (row % 7)}",
        unseen="\u0416 never seen \u2603",
        settings={"tokenizer": {"kind": "byte"}, "max_length": 24},
        metrics=("bits_per_byte", "perplexity", "loss"),
    ),
    "chat": Values(
        make=lambda row: [
            {"role": "user", "content": f"row {row} 好?"},
            {"role": "assistant", "content": "good" if row % 2 else "bad <|end|>"},
        ],
        unseen=[{"role": "assistant", "content": "\u0416 never seen \u2603"}],
        settings={"tokenizer": {"kind": "byte"}, "max_length": 48},
        metrics=("bits_per_byte", "perplexity", "loss"),
    ),
    "words": Values(
        make=lambda row: f"row {'good' if row % 2 else 'bad'} 好 thing",
        unseen="never-seen"[:5],
        settings={"min_count": 1, "window": 2, "negatives": 3, "subsample": 0},
        metrics=("loss", "noise_auc"),
    ),
    "category": Values(
        make=lambda row: "abc"[row % 3],
        unseen="never seen",
        metrics=("accuracy", "f1_macro", "f1_weighted", "auc"),
    ),
    "labels": Values(
        make=lambda row: [name for place, name in enumerate(("p", "q", "r")) if row >> place & 1],
        unseen=["never seen"],
        metrics=("f1_macro", "exact_match", "auc"),
    ),
    "number": Values(
        make=lambda row: float(row * row) - 3.5,
        unseen=1e30,
        metrics=("r2", "rmse", "mae", "mse", "pearson", "spearman"),
    ),
    "date": Values(
        make=lambda row: f"2023-{row % 12 + 1:02}-{row % 28 + 1:02}T{row % 24:02}:{row:02}:00",
        unseen="9998-01-02",
        metrics=("r2", "mae"),
        same=lambda parsed, decoded: bool(parsed == decoded),
    ),
    "tags": Values(  # as many as the text of the row before has words: pairs are trained with outputs one row further on
        make=lambda row: ["O", "B-x", "I-x", "B-y", "O"][: 4 + ((row - 1) % 7 > 0)],
        unseen=["never-seen"],
        metrics=("f1", "accuracy"),
    ),
    "span": Values(  # of the text of the row before, as tags
        make=lambda row: {"text": "good" if (row - 1) % 2 else "bad", "start": len(f"row {row - 1}: ")},
        unseen="never seen",
        settings={"max_answer": 8},
        metrics=("f1", "exact_match"),
        same=lambda parsed, decoded: bool(parsed["texts"][0] == decoded),
        missing={"texts": [], "start": None, "times": 1},  # that there is no answer is an answer
    ),
    "boxes": Values(  # as JSON: parquet has no lists of numbers and names; all within the pictures of `_picture`
        make=lambda row: json.dumps(
            [[x, x / 2, x + 2 + row % 2, 4 + x, "pq"[(row + x) % 2]] for x in range(row % 3)] if row else []
        ),
        unseen='[[0, 1, 2, 3, "never seen"]]',
        settings={"head": {"kind": "fcos", "width": 16}, "most": 4},
        metrics=("map", "map_50"),
        same=lambda parsed, decoded: bool(
            len(parsed["labels"]) == len(decoded)
            and all(
                name == label and np.allclose(sides, box, atol=1e-3)
                for (*box, name), sides, label in zip(decoded, parsed["boxes"], parsed["labels"], strict=True)
            )
        ),
    ),
    "pairing": Values(
        make=lambda row: [row, (1 << 64) - 1 - row % 7],  # hashes of inputs: it has no column
        unseen=[1 << 63, 0],  # nor a hash that is unseen
        settings={"dim": 8},
        metrics=("recall_1", "recall_10", "mrr"),
    ),
    "items": Values(
        make=lambda row: [f"i{place % 9}" for place in range(row % 5, row % 5 + row % 7)],
        unseen=["never seen"],
        settings={"max_length": 12},
    ),
    "item": Values(
        make=lambda row: f"i{(row - 1) % 5 + (row - 1) % 7 % 9}",
        unseen="never seen",
        metrics=("hit_rate_10", "ndcg_10", "hit_rate_10_of_100", "ndcg_10_of_100", "mrr"),
    ),
    "audio": Values(
        make=_sound,
        unseen=_sound(10**6, 700),
        settings={"sample_rate": 4000, "mels": 16, "max_seconds": 2.0},
        same=lambda parsed, decoded: parsed == fields.load("audio").Codec.parse(decoded, config_of("audio")),
    ),
    "image": Values(
        make=_picture,
        unseen=_picture(10**6),
        metrics=("loss",),
        same=lambda parsed, decoded: bool((_pixels(parsed) == decoded).all()),
    ),
    "video": Values(
        make=_clip,
        unseen=_clip(10**6),
        settings={"frames": 3},
        same=lambda parsed, decoded: bool((_pixels(parsed[len(parsed) // 2]) == decoded[1]).all()),
    ),
}


def values_of(kind: str) -> Values:
    assert kind in VALUES, f"the field type {kind!r} has no values: add an entry to VALUES in tests/contracts/values.py"
    return VALUES[kind]


def config_of(kind: str) -> Any:
    """A small config of the type, read as a recipe would read it."""
    from dougong.core.config import read

    config, problems = read(fields.load(kind).Config, {"type": kind, **values_of(kind).settings})
    assert not problems, problems
    return config


def parsed_of(kind: str) -> list[Any]:
    config = config_of(kind)
    return [fields.load(kind).Codec.parse(values_of(kind).make(row), config) for row in range(ROWS)]


def field_of(kind: str, name: str) -> Field:
    """A fitted field of the type."""
    config = dataclasses.replace(config_of(kind), column=name)
    return Field(name, config, fields.load(kind).Codec.fit(config, parsed_of(kind)))


def with_side(side: str) -> list[str]:
    """The types that have an Encoder, or a Head."""
    return fields.having(side)
