"""A byte-pair tokenizer as dougong fits it on a text field's training rows: on a sample of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.data import read_paragraphs
from benchmarks.peers.text_job import Stopwatch, answer, read_job
from dougong.data import tokenizers
from dougong.fields import text


def main() -> None:
    job = read_job()
    measured = Stopwatch()
    read = 0

    def rows() -> Iterator[str]:
        nonlocal read
        for row in read_paragraphs(Path(job.text)):
            read += len(row)
            yield row

    with measured():
        codec = text.Codec.fit(text.Config(tokenizer=tokenizers.BPETokenizer(vocab_size=job.vocab_size)), rows())
    answer(measured, ["dougong", "tokenizers"], characters=read, vocab_size=codec.vocab_size)


if __name__ == "__main__":
    main()
