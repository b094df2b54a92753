"""Fashion-MNIST (Xiao et al. 2017, MIT) set in motion -> moving-fashion-{train,validation,test}.parquet.

    python recipes/data/moving_fashion.py        # on Debian or Ubuntu, whose package dataset-fashion-mnist holds it

Composed, in the manner of Moving MNIST (Srivastava et al. 2015): a garment moves over a black field of 40 x 40 pixels for
eight frames, in one of eight directions, one or two pixels a frame along each axis that it moves on. What leaves the field
on one side comes in on the other, and it begins anywhere: a single frame says nothing of the motion. Columns: `clip`, the
frames as PNG files, `motion`, one of 16 labels such as `north-east fast`, and `garment`. Each garment moves once; those
of the test are Fashion-MNIST's own test images.
"""

from __future__ import annotations

import fashion_mnist
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tables

SIDE = 40
FRAMES = 8
DIRECTIONS = {  # pixels down and to the right
    "north": (-1, 0),
    "north-east": (-1, 1),
    "east": (0, 1),
    "south-east": (1, 1),
    "south": (1, 0),
    "south-west": (1, -1),
    "west": (0, -1),
    "north-west": (-1, -1),
}
SPEEDS = {"slow": 1, "fast": 2}
MOTIONS = [f"{direction} {speed}" for direction in DIRECTIONS for speed in SPEEDS]
SPLITS = {"train": ("train", 0, 16_000), "validation": ("train", 16_000, 18_000), "test": ("t10k", 0, 4_000)}


def main() -> None:
    folder = fashion_mnist.fetched()
    for split, (source, first, last) in SPLITS.items():
        images, garments = fashion_mnist.read(folder, source)
        rows = range(first, last)
        random = np.random.default_rng([len(split), first])
        columns = {"clip": [], "motion": [], "garment": []}
        for row in rows:
            motion = MOTIONS[int(random.integers(len(MOTIONS)))]
            start = random.integers(SIDE, size=2)
            columns["clip"].append([fashion_mnist.png(frame) for frame in moving(images[row], motion, start)])
            columns["motion"].append(motion)
            columns["garment"].append(fashion_mnist.LABELS[garments[row]])
        types = {"clip": pa.list_(pa.binary()), "motion": pa.string(), "garment": pa.string()}
        table = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
        file = f"moving-fashion-{split}.parquet"
        with tables.writing(file) as path:
            pq.write_table(table, path, row_group_size=1_000)
        tables.tell(file, len(rows))


def moving(image: np.ndarray, motion: str, start: np.ndarray) -> np.ndarray:
    """(28, 28) -> (FRAMES, SIDE, SIDE) uint8, its upper left corner at `start` (down, right) in the first frame."""
    direction, speed = motion.rsplit(" ", 1)
    step = SPEEDS[speed] * np.array(DIRECTIONS[direction])
    field = np.zeros((SIDE, SIDE), np.uint8)
    field[: image.shape[0], : image.shape[1]] = image
    return np.stack([np.roll(field, start + frame * step, axis=(0, 1)) for frame in range(FRAMES)])


if __name__ == "__main__":
    main()
