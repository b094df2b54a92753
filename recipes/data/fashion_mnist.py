"""Fashion-MNIST (Xiao et al. 2017, MIT) -> fashion-mnist-train.parquet (60,000 rows), …-test.parquet (10,000).

    python recipes/data/fashion_mnist.py        # on Debian or Ubuntu, whose package dataset-fashion-mnist holds it

Columns: `image`, a grey PNG of 28 x 28 pixels, and `label`, the name of the garment.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import fetch
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tables

LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SPLITS = {"train": "train", "test": "t10k"}


def main() -> None:
    folder = fetched()
    for split, name in SPLITS.items():
        images, labels = read(folder, name)
        columns = {
            "image": pa.array([png(image) for image in images], pa.binary()),
            "label": pa.array([LABELS[label] for label in labels]),
        }
        file = f"fashion-mnist-{split}.parquet"
        with tables.writing(file) as path:
            pq.write_table(pa.table(columns), path, row_group_size=5_000)
        tables.tell(file, len(labels))


def fetched() -> Path:
    """The folder of the four files."""
    return fetch.debian(
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        keep="*-ubyte.gz",
    )


def read(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 28, 28) and the numbers of their labels (N,) of `train` or `t10k`."""
    images = read_idx(next(folder.rglob(f"{name}-images-idx3-ubyte.gz")))
    return images, read_idx(next(folder.rglob(f"{name}-labels-idx1-ubyte.gz")))


def read_idx(path: Path) -> np.ndarray:
    """An idx file: two zero bytes, type (8 = uint8), number of axes, their sizes as big-endian int32, the values."""
    data = gzip.decompress(path.read_bytes())
    zero, kind, axes = struct.unpack_from(">HBB", data)
    if (zero, kind) != (0, 8):
        raise fetch.FetchError(f"{path.name} is no idx file of bytes")
    shape = struct.unpack_from(f">{axes}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def png(image: np.ndarray) -> bytes:
    """A grey image (H, W) uint8 as a PNG file: signature, header, one compressed data chunk, end (RFC 2083)."""
    height, width = image.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # filter 0 (none) before each row
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, grey
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


if __name__ == "__main__":
    main()
