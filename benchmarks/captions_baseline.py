"""What a model of captions has to beat: the caption of the training picture that is nearest, pixel by pixel. chrF on the test rows.

    python recipes/data/stamps.py && python benchmarks/captions_baseline.py

Nearest is the least mean squared difference of the pictures at 24 x 24 pixels, as they are or mirrored.
"""

# N test rows, M training rows, F numbers of a picture

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from dougong.metrics.writing import CHRF, text_column

PREPARED = Path(__file__).resolve().parents[1] / "recipes" / "data" / "prepared"
SIDE = 24
Rows = tuple[np.ndarray, list[str]]  # pictures (N, SIDE, SIDE, 3), captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=PREPARED / "stamps-train.parquet")
    parser.add_argument("--test", type=Path, default=PREPARED / "stamps-test.parquet")
    arguments = parser.parse_args()
    print(json.dumps(baselines(read(arguments.train), read(arguments.test))))


def read(path: Path) -> Rows:
    table = pq.read_table(path, columns=["image", "caption"])
    pictures = [pixels(data) for data in table["image"].to_pylist()]
    return np.stack(pictures), [caption.lower() for caption in table["caption"].to_pylist()]


def pixels(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32) / 255


def baselines(train: Rows, test: Rows) -> dict[str, float]:
    (known, captions), (asked, right) = train, test
    print(f"{len(right):,} rows, {len(captions):,} training rows")
    return {"chrf of the nearest picture's caption": chrf([captions[index] for index in nearest(asked, known)], right)}


def nearest(asked: np.ndarray, known: np.ndarray) -> np.ndarray:  # -> (N,)
    """Of each picture the nearest known one."""
    flat, *others = (each.reshape(len(each), -1) for each in (asked, known, known[:, :, ::-1]))
    far = [(flat**2).sum(1)[:, None] - 2 * flat @ other.T + (other**2).sum(1) for other in others]  # (N, M)
    return np.minimum(*far).argmin(1)


def chrf(said: list[str], right: list[str]) -> float:
    metric = CHRF()
    return float(metric.value(metric.statistics({"text": text_column(said)}, {"text": text_column(right)}).sum(axis=0)))


if __name__ == "__main__":
    main()
