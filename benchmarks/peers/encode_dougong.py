"""Text to shards with `dougong.prepare`: read, cleaned, hashed, encoded, written with checksums.

Without torch, as the command `dougong prepare` does it.
"""

from __future__ import annotations

import dougong
from benchmarks.peers.text_job import Job, Stopwatch, answer, read_job
from dougong.core import torchless


def main() -> None:
    torchless.install()
    job = read_job()
    measured = Stopwatch()
    with measured():
        prepared = dougong.prepare(recipe(job))
    answer(measured, ["dougong", "tokenizers", "pyarrow"], tokens=len(prepared.split("train").stream("text.tokens")))


def recipe(job: Job) -> dict[str, object]:
    return {
        "name": "tokenization",
        "data": {"train": job.text, "text_rows": "paragraph", "split": {}, "cache": job.folder},
        "outputs": {"text": {"type": "text", "tokenizer": {"kind": "file", "path": job.tokenizer}}},
        "train": {"steps": 1},
    }


if __name__ == "__main__":  # its processes import this file again
    main()
