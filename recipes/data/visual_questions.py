"""easy-VQA (Zhou 2019, MIT): questions about a picture of one shape -> visual-questions-train, -validation, -test.parquet.

    python recipes/data/visual_questions.py

Columns: `image`, a PNG of 64 x 64 pixels, `question`, and `answer`, one of thirteen. Pictures are drawn by a program; the
package has test questions of its own. Validation questions are those of a tenth of the training pictures.
"""

from __future__ import annotations

import json
from pathlib import Path

import fetch
import tables

VALIDATION_SHARE = 0.1


def main() -> None:
    folder = fetch.pypi(
        "easy-vqa", "1.0", "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f", keep="easy_vqa/data/t*"
    )
    train, test = (rows(folder / "easy_vqa" / "data" / part) for part in ("train", "test"))
    held_out = [tables.in_test(f"picture {number}", VALIDATION_SHARE) for number, _ in train]
    parts = {
        "train": [row for (_, row), out in zip(train, held_out, strict=True) if not out],
        "validation": [row for (_, row), out in zip(train, held_out, strict=True) if out],
        "test": [row for _, row in test],
    }
    for part, found in parts.items():
        tables.write_parquet(f"visual-questions-{part}.parquet", found)


def rows(folder: Path) -> list[tuple[int, dict[str, object]]]:
    """(number of the picture, row) of each question."""
    asked = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    pictures = {number: (folder / "images" / f"{number}.png").read_bytes() for _, _, number in asked}
    return [
        (number, {"image": pictures[number], "question": question, "answer": answer})
        for question, answer, number in asked
    ]


if __name__ == "__main__":
    main()
