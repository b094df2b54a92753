"""Small talk of two people, the first of whom is the user and the other the assistant -> chitchat.jsonl.

    python recipes/data/chitchat.py

Chit Chat Challenge of the BYU PCC lab, MIT; out of the package chitchat-dataset. Nearly half of its conversations hold one
speaker only: nobody replied, and there is nothing to learn from them.
"""

from __future__ import annotations

import json
from typing import Any

import fetch
import tables

ROLES = ("user", "assistant")


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
    tables.write_jsonl("chitchat.jsonl", rows)


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
