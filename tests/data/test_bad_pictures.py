"""D8: pictures made to take all memory or time, in a whole preparation: each costs its row, and little else."""

from __future__ import annotations

import csv
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dougong.data.pictures import MAX_SCANS, SCAN
from dougong.fields.image import Codec

GOOD = 40


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def many_scans(scans: int, side: int = 1000) -> bytes:
    """A progressive JPEG whose last scan is said again and again."""
    data = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data[data.rindex(SCAN) : -2]
    return data[:-2] + last * scans + data[-2:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


ZEROS = zlib.compress(bytes(256 << 20), 9)  # 256 MB in 255 kB
TEXTS = b"".join(chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(900_000))) for _ in range(200))
BOMBS = {
    "scans.jpg": (many_scans(5000), "5,"),
    "header.png": (png(50_000, 50_000, chunk(b"IDAT", ZEROS)), "image"),
    "wide.png": (png(2**31 - 1, 1, chunk(b"IDAT", ZEROS)), "image"),
    "pixels.png": (png(7_100, 7_100, chunk(b"IDAT", ZEROS)), "50,000,000"),
    "texts.png": (png(100, 100, TEXTS, chunk(b"IDAT", ZEROS[:1000])), "image"),
    "torn.png": (png(4_000, 4_000, chunk(b"IDAT", ZEROS[:1000])), "damaged PNG"),
    "fake.png": (b"\x80\x04\x95" + bytes(100), "image"),
}

PREPARE = """
import json, resource, sys
from pathlib import Path
from dougong.core.config import read
from dougong.data import pictures, prepare
from dougong.fields import category, image
pictures.opened(Path("good0.png").read_bytes()).load()  # imports are no part of what is measured
cleaning = read(prepare.Config, {"train": "x", "cleaning": {"max_bad": 0.5}})[0].cleaning
config = prepare.Config(train="rows.csv", cache="cache", cleaning=cleaning)
used = [prepare.Used("image", image.Config(), False, image), prepare.Used("label", category.Config(), True, category)]
before = resource.getrusage(resource.RUSAGE_SELF)
prepared = prepare.prepare(config, used, workers=0)
after = resource.getrusage(resource.RUSAGE_SELF)
rows = sum(count for parts in prepared.rows.values() for count in parts.values())
spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps([rows, after.ru_maxrss - before.ru_maxrss, spent, str(prepared.folder)]))
"""


def test_D8_bombs_end_in_quarantine_with_bounded_memory_and_time(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = [f"good{index}.png" for index in range(GOOD)]
    for name in names:
        (tmp_path / name).write_bytes(saved(Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)), "PNG"))
    for name, (data, _) in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        rows = [(name, "ab"[index % 2]) for index, name in enumerate([*names, *BOMBS])]
        csv.writer(stream).writerows([("image", "label"), *rows])
    done = subprocess.run([sys.executable, "-c", PREPARE], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    used, grown_kb, seconds, folder = json.loads(done.stdout)
    assert used == GOOD
    assert grown_kb < 200_000
    assert seconds < 10
    lines = (tmp_path / folder / "quarantine.jsonl").read_text().splitlines()
    refused = {record["row"]: record["reason"] for record in map(json.loads, lines)}
    assert sorted(refused) == list(range(GOOD + 1, GOOD + 1 + len(BOMBS)))
    for row, (_, part) in zip(sorted(refused), BOMBS.values(), strict=True):
        assert part in refused[row]


def test_D8_an_ordinary_progressive_jpeg_is_read_and_one_of_many_scans_is_not() -> None:
    usual = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    assert 1 < usual.count(SCAN) < MAX_SCANS
    assert Codec.parse(usual) == usual
    with pytest.raises(ValueError, match=r"a JPEG image of 1\d\d scans; at most 100 are read"):
        Codec.parse(many_scans(MAX_SCANS, side=16))
