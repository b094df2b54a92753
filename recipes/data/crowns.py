"""Tree crowns from the air (DeepForest's own examples, MIT) -> crowns-train, -validation, -test.parquet, tiles of 400 x 400.

    python recipes/data/crowns.py

Columns: `image`, a PNG, and `boxes`, JSON of [x_min, y_min, x_max, y_max, "tree"]. Split by photograph: two of Yellowstone and
the Sierra are learnt from, in tiles that overlap by half; another of Yellowstone and one of Florida are the test, in tiles that do
not, so that what is left over at its right and lower edge is left out. The right edge of the first, which no tile of
training reaches, is there to validate on.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import fetch
import tables
from PIL import Image

from dougong.data.annotated import parse_xml

PACKAGE = ("deepforest", "2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54")
LARGE = "2019_YELL_2_528000_4978000_image_crop2"  # 2299 x 2472 pixels, 574 trees
SIDE = 400  # pixels of a tile
EDGE = 1899  # of the large photograph: what lies to the right is validated on
VISIBLE = 0.4  # share of a crown that a tile must hold
PARTS = {  # split -> photographs, from which pixel to which, and how far from tile to tile
    "train": [(LARGE, 0, EDGE, 200), ("SOAP_061", 0, SIDE, SIDE)],
    "validation": [(LARGE, EDGE, EDGE + SIDE, SIDE)],
    "test": [("2019_YELL_2_541000_4977000_image_crop", 0, 1249, SIDE), ("OSBS_029", 0, SIDE, SIDE)],
}


def main() -> None:
    folder = fetch.pypi(*PACKAGE, keep="deepforest/data/*") / "deepforest/data"
    for split, parts in PARTS.items():
        rows = [row for name, first, last, step in parts for row in tiles(folder, name, first, last, step)]
        tables.write_parquet(f"crowns-{split}.parquet", rows)


def tiles(folder: Path, name: str, first: int, last: int, step: int) -> Iterator[dict[str, object]]:
    """The tiles of a photograph between two columns of pixels, with the crowns in each."""
    photograph = Image.open(folder / f"{name}.png").convert("RGB")
    crowns = [
        [float(item.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
        for item in parse_xml((folder / f"{name}.xml").read_bytes()).findall("object")
    ]
    for top in range(0, photograph.height - SIDE + 1, step):
        for left in range(first, last - SIDE + 1, step):
            stream = io.BytesIO()
            photograph.crop((left, top, left + SIDE, top + SIDE)).save(stream, "PNG")
            inside = (within(crown, left, top) for crown in crowns)
            boxes = [[*box, "tree"] for box in inside if box is not None]
            yield {"image": stream.getvalue(), "boxes": json.dumps(boxes)}


def within(crown: list[float], left: int, top: int) -> list[float] | None:
    """A crown in the pixels of a tile, None where too little of it is there."""
    x, y, right, low = crown
    cut = [min(max(side - begin, 0.0), SIDE) for side, begin in zip(crown, (left, top) * 2, strict=True)]
    area = (cut[2] - cut[0]) * (cut[3] - cut[1])
    return cut if area >= VISIBLE * (right - x) * (low - y) else None


if __name__ == "__main__":
    main()
