"""Text to shards with `datasets`: the text loader, then `map` in batches with a fast tokenizer, in two processes."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerFast

from benchmarks.peers.text_job import Stopwatch, answer, read_job

PROCESSES = 2


def main() -> None:
    job = read_job()
    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=job.tokenizer)

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        ids = tokenizer(rows["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*row, job.end] for row in ids]}

    measured = Stopwatch()
    with measured():
        rows = datasets.load_dataset(
            "text", data_files=job.text, sample_by="paragraph", split="train", cache_dir=job.folder
        )
        shards = rows.map(encode, batched=True, num_proc=PROCESSES, remove_columns=["text"])
    column = shards.data.column("input_ids")
    tokens = sum(int(np.diff(chunk.offsets.to_numpy()).sum()) for chunk in column.chunks)
    answer(measured, ["datasets", "transformers", "tokenizers", "pyarrow"], tokens=tokens)


if __name__ == "__main__":
    main()
