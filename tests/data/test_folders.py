"""Labelled folders: a row is a file, its label the folder that it lies in."""

from __future__ import annotations

from pathlib import Path

from dougong.data.sources import BadRow, Row, find_files, read_rows
from tests.data.sample_files import values


def make(base: Path, *names: str) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("a text\n")


def test_a_folder_of_images_is_a_table_of_image_and_label(tmp_path: Path) -> None:
    make(
        tmp_path,
        "photos/cat/2.png",
        "photos/cat/1.JPG",
        "photos/dog/a.webp",
        "photos/.hidden/x.png",
        "photos/dog/.DS_Store",
    )
    assert find_files("photos", tmp_path) == [tmp_path / "photos"]
    assert values(tmp_path / "photos") == [
        {"image": "cat/1.JPG", "label": "cat"},
        {"image": "cat/2.png", "label": "cat"},
        {"image": "dog/a.webp", "label": "dog"},
    ]


def test_a_folder_of_texts_is_a_table_of_text_and_label(tmp_path: Path) -> None:
    make(tmp_path, "mails/spam/1.txt", "mails/ham/2.txt")
    (tmp_path / "mails/spam/3.txt").write_bytes(b"")
    (tmp_path / "mails/spam/4.txt").write_bytes(b"caf\xe9")
    (tmp_path / "mails/spam/5.gif").write_bytes(b"GIF")
    rows = list(read_rows(tmp_path / "mails"))
    assert [row.values["label"] for row in rows if isinstance(row, Row)] == ["ham", "spam"]
    reasons = [row.reason for row in rows if isinstance(row, BadRow)]
    assert reasons == [
        "spam/3.txt: empty",
        "spam/4.txt: byte 3 (0xe9) is not UTF-8: convert the file to UTF-8",
        "spam/5.gif: not one of .txt",
    ]


def test_a_folder_of_clips_is_a_table_of_video_and_label(tmp_path: Path) -> None:
    make(tmp_path, "acts/run/2.mp4", "acts/run/1.gif", "acts/sit/a/1.png", "acts/sit/a/2.png", "acts/sit/notes.txt")
    rows = list(read_rows(tmp_path / "acts"))
    assert [row.values for row in rows if isinstance(row, Row)] == [
        {"video": "run/1.gif", "label": "run"},
        {"video": "run/2.mp4", "label": "run"},
        {"video": "sit/a", "label": "sit"},
    ]
    assert [row.reason.partition(":")[0] for row in rows if isinstance(row, BadRow)] == ["sit/notes.txt"]


def test_folders_of_frames_alone_are_clips(tmp_path: Path) -> None:
    make(tmp_path, "acts/run/b/1.png", "acts/run/a/1.png", "acts/sit/c/1.jpg")
    assert find_files("acts", tmp_path) == [tmp_path / "acts"]
    assert [row["video"] for row in values(tmp_path / "acts")] == ["run/a", "run/b", "sit/c"]
