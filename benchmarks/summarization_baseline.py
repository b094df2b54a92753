"""What a summarizer has to beat: the lead, copied. ROUGE-L on the test rows of the packages' descriptions.

    python recipes/data/descriptions.py && python benchmarks/summarization_baseline.py

The first sentence is what news summaries are compared with (Nallapati et al. 2017, arXiv:1611.04230). ROUGE-L punishes what is
longer than the right answer, so the first words too, as many as a synopsis of the training rows has (the median).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median

from dougong.metrics.writing import RougeL, text_column, words

PREPARED = Path(__file__).resolve().parents[1] / "recipes" / "data" / "prepared"
Rows = list[dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=PREPARED / "descriptions-train.jsonl")
    parser.add_argument("--test", type=Path, default=PREPARED / "descriptions-test.jsonl")
    arguments = parser.parse_args()
    print(json.dumps(baselines(read(arguments.train), read(arguments.test))))


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def baselines(train: Rows, test: Rows) -> dict[str, float]:
    usual = int(median(len(words(row["synopsis"])) for row in train))
    print(f"{len(test):,} rows; {usual} words in a synopsis of the training rows")
    return {
        "rouge_l of the first sentence": rouge_l(test, first_sentence),
        f"rouge_l of the first {usual} words": rouge_l(test, lambda text: " ".join(words(text)[:usual])),
    }


def rouge_l(rows: Rows, summarize: Callable[[str], str]) -> float:
    metric = RougeL()
    written = {"text": text_column([summarize(row["description"]) for row in rows])}
    right = {"text": text_column([row["synopsis"] for row in rows])}
    return float(metric.value(metric.statistics(written, right).sum(axis=0)))


def first_sentence(text: str) -> str:
    """Up to the first full stop, question or exclamation mark before a space, or the end of the line."""
    return re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0]


if __name__ == "__main__":
    main()
