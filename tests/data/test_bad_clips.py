"""D8, D9, D10: hostile and damaged clips in a whole preparation: each costs its row, its reason is listed, the run goes on."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from dougong.core.config import read
from dougong.data import prepare
from dougong.fields import category, video
from tests.data.test_clips import animation, gif_bomb, png
from tests.data.test_clips import video as encoded

GOOD = 40


def test_D8_D10_bad_clips_end_in_quarantine_by_name_and_the_others_are_prepared(tmp_path: Path) -> None:
    def folder(name: str, *frames: bytes) -> None:
        (tmp_path / name).mkdir()
        for index, frame in enumerate(frames):
            (tmp_path / name / f"{index}.png").write_bytes(frame)

    for index in range(GOOD):
        folder(f"good{index}", *(png((40 * index + frame) % 256) for frame in range(1 + index % 3)))
    (tmp_path / "secret.png").write_bytes(png(1))
    folder("empty")
    folder("torn", png(1), png(2)[:-35], png(3))
    folder("linked", png(1))
    os.symlink("../secret.png", tmp_path / "linked" / "9.png")
    folder("fake", png(1), b"\x80\x04\x95" + bytes(40))
    files = {
        "cut.mp4": encoded(frames=30)[:900],
        "fake.mp4": b"not a clip",
        "playlist.mp4": b"#EXTM3U\nfile:///etc/passwd\n",
        "bomb.gif": gif_bomb(30_000, 7_000),
        "cut.gif": animation("GIF", height=60, width=80)[:-900],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    bad = {
        "empty": "empty: a clip without any frame",
        "torn": "torn: 1.png: a damaged PNG",
        "linked": "linked: 9.png is a link that leads outside",
        "fake": "fake: 1.png: not a PNG",
        "none": "none: no such clip",
        "cut.mp4": "cut.mp4: a damaged video",
        "fake.mp4": "fake.mp4: not an animated GIF",
        "playlist.mp4": "playlist.mp4: not an animated GIF",
        "bomb.gif": "bomb.gif: 30,000 frames of 7000",
        "cut.gif": "cut.gif: a damaged GIF",
    }
    rows = [(name, "ab"[index % 2]) for index, name in enumerate([*(f"good{index}" for index in range(GOOD)), *bad])]
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("clip", "label"), *rows])
    cleaning = read(prepare.Config, {"train": "x", "cleaning": {"max_bad": 0.5}})[0].cleaning
    config = prepare.Config(train=str(tmp_path / "rows.csv"), cache=str(tmp_path / "cache"), cleaning=cleaning)
    used = [
        prepare.Used("clip", video.Config(frames=4), False, video),
        prepare.Used("label", category.Config(), True, category),
    ]
    prepared = prepare.prepare(config, used, workers=0)
    assert sum(count for parts in prepared.rows.values() for count in parts.values()) == GOOD
    lines = (prepared.folder / "quarantine.jsonl").read_text().splitlines()
    refused = {record["row"]: record["reason"] for record in map(json.loads, lines)}
    assert sorted(refused) == list(range(GOOD + 1, GOOD + 1 + len(bad)))
    for row, words in zip(sorted(refused), bad.values(), strict=True):
        assert words in refused[row]


def test_a_frame_that_changes_makes_other_data(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    for index in range(3):
        (tmp_path / "walk" / f"{index}.png").write_bytes(png(index))
    (tmp_path / "rows.csv").write_text("clip,label\nwalk,a\nwalk,b\n")
    config = prepare.Config(train=str(tmp_path / "rows.csv"), cache=str(tmp_path / "cache"), split={})
    used = [
        prepare.Used("clip", video.Config(frames=2), False, video),
        prepare.Used("label", category.Config(), True, category),
    ]
    first = prepare.prepare(config, used, workers=0).folder
    assert prepare.prepare(config, used, workers=0).folder == first
    (tmp_path / "walk" / "1.png").write_bytes(png(99))
    assert prepare.prepare(config, used, workers=0).folder != first
