"""The recipes video-classification at tiny size: which way something moves, learnt in seconds by each way to read clips."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dougong

SIDE, FRAMES, ROWS = 8, 4, 240
STEPS = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A light square of 3 x 3 pixels that moves, and comes in again where it left."""
    random, file = np.random.default_rng(0), tmp_path_factory.mktemp("clips") / "clips.parquet"
    clips, motions = [], []
    for row in range(ROWS):
        motion = list(STEPS)[row % 4]
        field = np.zeros((SIDE, SIDE), dtype=np.uint8)
        field[:3, :3] = random.integers(120, 255)
        start = random.integers(SIDE, size=2)
        frames = [np.roll(field, start + index * np.array(STEPS[motion]), axis=(0, 1)) for index in range(FRAMES)]
        clips.append([png(frame) for frame in frames])
        motions.append(motion)
    pq.write_table(pa.table({"clip": pa.array(clips, pa.list_(pa.binary())), "motion": motions}), file)
    return file


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "divided": ({"patch": 4}, {"kind": "transformer", "divided": True, "width": 32, "layers": 2, "heads": 2}),
    "convnet": ({"patch": 2}, {"kind": "convnet", "width": 32, "layers": 2, "stages": 1}),
    "recurrent": (
        {"patch": 2, "per_frame": True, "encoder": {"kind": "convnet", "width": 32, "layers": 1}},
        {"kind": "recurrent", "cell": "gru", "width": 32, "layers": 1},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_read_clips_learns_which_way_something_moves(
    way: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip, model = WAYS[way]
    run = dougong.train(
        {
            "name": "moving",
            "data": {"train": str(data), "split": {"test": 0.2}},
            "inputs": {"clip": {"type": "video", "frames": FRAMES, "tubelet": 2, **clip}},
            "outputs": {"motion": "category"},
            "model": model,
            "train": {"steps": 80, "batch_size": 32, "optimizer": "muon", "device": "cpu"},
        }
    )
    assert run.metrics()["test"]["motion.accuracy"]["value"] > 0.8
    frames = pq.read_table(data).column("clip").to_pylist()[:4]
    told = [answer["motion"]["value"] for answer in run.predict([{"clip": frames[row]} for row in range(4)])]
    assert sum(a == b for a, b in zip(told, STEPS, strict=True)) >= 3
