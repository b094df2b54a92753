"""The baseline of the summaries: the lead as it stands, scored as a summarizer is."""

from __future__ import annotations

import pytest

from tests.scripts import load

baseline = load("benchmarks/summarization_baseline.py")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("A tool. It draws.", "A tool."),
        ("Version 2.1 of it? Yes.", "Version 2.1 of it?"),
        ("no full stop\nnext line", "no full stop"),
        ("one line", "one line"),
        ("", ""),
    ],
)
def test_the_first_sentence_ends_at_a_mark_before_a_space_or_with_the_line(text: str, first: str) -> None:
    assert baseline.first_sentence(text) == first


def test_the_lead_is_scored_by_hand() -> None:
    train = [{"synopsis": "draws a tree", "description": ""}]
    test = [
        {"synopsis": "draws a tree", "description": "It draws a tree. And more."},  # 2·3 / (4 + 3), then 2·2 / (3 + 3)
        {"synopsis": "plays music", "description": "Nothing alike here."},
    ]
    found = baseline.baselines(train, test)
    assert found["rouge_l of the first sentence"] == pytest.approx((6 / 7 + 0) / 2)
    assert found["rouge_l of the first 3 words"] == pytest.approx((4 / 6 + 0) / 2)
