"""A byte-pair tokenizer with `sentencepiece`, on the whole text, on all cores."""

from __future__ import annotations

import os
from pathlib import Path

import sentencepiece

from benchmarks.peers.text_job import Stopwatch, answer, read_job


def main() -> None:
    job = read_job()
    measured = Stopwatch()
    prefix = str(Path(job.folder, "model"))
    with measured():
        sentencepiece.SentencePieceTrainer.train(
            input=job.text,
            model_prefix=prefix,
            model_type="bpe",
            vocab_size=job.vocab_size,
            hard_vocab_limit=False,  # a small text does not give so many
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            num_threads=os.cpu_count(),
            minloglevel=2,
        )
    vocab_size = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model").vocab_size()
    with Path(job.text).open(encoding="utf-8") as stream:
        characters = sum(len(line) - 1 for line in stream)
    answer(measured, ["sentencepiece"], characters=characters, vocab_size=vocab_size)


if __name__ == "__main__":
    main()
