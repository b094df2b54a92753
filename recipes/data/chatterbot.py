"""Questions to a chatbot and its answers -> chatterbot-{train,test}.jsonl.

    python recipes/data/chatterbot.py

The English part of the package chatterbot-corpus, BSD: the first two turns of each conversation. Most questions stand
there several times, often with the same answer: each pair is kept once, and all answers to a question fall on one side.
"""

from __future__ import annotations

import re

import fetch
import tables

from dougong.core.config import parse_yaml

Row = dict[str, str]


def main() -> None:
    folder = fetch.pypi(
        "chatterbot-corpus",
        "1.3.3",
        "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        keep="chatterbot_corpus/data/english/*.yml",
    )
    found = [row for path in sorted(folder.rglob("english/*.yml")) for row in pairs(path.read_text("utf-8"), path.name)]
    rows = distinct(found)
    print(f"{len(found):,} pairs, {len(found) - len(rows):,} of them copies, left out")
    tables.split_jsonl("chatterbot", rows, key=lambda row: letters(row["question"]))


def pairs(text: str, name: str) -> list[Row]:
    """A question and its answer of each conversation; a turn that YAML reads as a number is written out again."""
    plain, _ = parse_yaml(text, name)
    turns = [[str(turn).strip() for turn in conversation] for conversation in plain["conversations"]]
    return [{"question": each[0], "answer": each[1]} for each in turns if len(each) > 1 and all(each[:2])]


def distinct(rows: list[Row]) -> list[Row]:
    """Each pair once, whatever its case and punctuation."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((letters(row["question"]), letters(row["answer"])), row)
    return list(first.values())


def letters(text: str) -> str:
    """What is left of a text without spaces, punctuation and case."""
    return re.sub(r"[\W_]+", "", text.lower())


if __name__ == "__main__":
    main()
