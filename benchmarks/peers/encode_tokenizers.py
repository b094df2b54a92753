"""Text to one file of ids with `tokenizers`: `encode_batch` on all cores, and numpy."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.data import read_paragraphs
from benchmarks.peers.text_job import Stopwatch, answer, read_job

ROWS = 1000  # encoded at once


def main() -> None:
    job = read_job()
    tokenizer = Tokenizer.from_file(job.tokenizer)
    measured = Stopwatch()
    tokens = 0
    with measured(), Path(job.folder, "ids.bin").open("wb") as stream:
        rows = read_paragraphs(Path(job.text))
        while group := list(islice(rows, ROWS)):
            encodings = tokenizer.encode_batch(group, add_special_tokens=False)
            ids = np.concatenate([[*encoding.ids, job.end] for encoding in encodings]).astype(np.uint16)
            tokens += len(ids)
            ids.tofile(stream)
    answer(measured, ["tokenizers", "numpy"], tokens=tokens)


if __name__ == "__main__":
    main()
