"""Small talk of two people, the first of whom is the user and the other the assistant -> chitchat-{pretrain,train,test}.jsonl.

    python recipes/data/chitchat.py

Chit Chat Challenge of the BYU PCC lab, MIT; out of the package chitchat-dataset. Nearly half of its conversations hold one
speaker only: nobody replied, and there is nothing to learn from them. Of the others eight tenths are to pretrain on, one
to train on and one to test on, by a hash of what was said.
"""

from __future__ import annotations

import json
from typing import Any

import fetch
import tables

ROLES = ("user", "assistant")
PARTS = {"test": 0.1, "train": 0.2, "pretrain": 1.0}  # where each ends


def main() -> None:
    folder = fetch.pypi(
        "chitchat-dataset",
        "0.9.0",
        "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        keep="chitchat_dataset/dataset.json",
    )
    found = json.loads((folder / "chitchat_dataset/dataset.json").read_bytes()).values()
    rows = [{"messages": messages} for messages in map(conversation, found) if len({m["role"] for m in messages}) == 2]
    print(f"{len(found) - len(rows):,} of {len(found):,} conversations have one speaker only and are left out")
    parted: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for row in rows:
        parted[part_of(row["messages"])].append(row)
    for part, held in parted.items():
        tables.write_jsonl(f"chitchat-{part}.jsonl", held)


def part_of(messages: list[dict[str, str]]) -> str:
    """By a hash of what was said, whoever said it: copies fall on one side."""
    place = tables.place("\n".join(message["content"] for message in messages))
    return next(part for part, end in PARTS.items() if place < end)


def conversation(found: dict[str, Any]) -> list[dict[str, str]]:
    """Its turns; what a person sent in several pieces is one message of so many lines."""
    messages = []
    speakers: list[str] = []
    for turn in found["messages"]:
        text = "\n".join(piece["text"].strip() for piece in turn if piece["text"].strip())
        if not text:
            continue
        speaker = turn[0]["sender"]
        if speaker not in speakers:
            speakers.append(speaker)
        messages.append({"role": ROLES[speakers.index(speaker)], "content": text})
    return messages


if __name__ == "__main__":
    main()
