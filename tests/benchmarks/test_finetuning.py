"""The fine-tuning benchmark: texts that can be told apart, the same settings for all, and what is held against a result."""

from __future__ import annotations

import json
import random
import statistics
from typing import Any

import pytest

from benchmarks import finetuning, table
from benchmarks.data import LABELS, LONGEST, classified
from benchmarks.peers import finetuning_job as same
from benchmarks.peers.job import Clock
from dougong import recipe

JOB: dict[str, Any] = {
    "contestant": "it",
    "rows_file": "",
    "tokenizer": "",
    "precision": "bf16",
    "grouped": False,
    "dropout": 0.0,
}


def result(contestant: str, *losses: float, **more: Any) -> dict[str, Any]:
    answer = {
        "contestant": contestant, "precision": "bf16", "rows": 64, "steps": 4, "tokens": 5000, "parameters": 10,
        "losses": list(losses), "threads": 2, "versions": {}, "rows_per_second": 10.0, "tokens_per_second": 800.0,
        "peak_memory": 1e9,
    }  # fmt: skip
    return finetuning.summary(contestant, [answer | more])


def test_texts_have_log_normal_lengths_and_lean_to_the_words_of_their_class() -> None:
    vocabulary = [first + second for first in "abcdefghijklmnop" for second in "xyz"]
    rows = list(classified(400, vocabulary, dict.fromkeys(vocabulary, 2), random.Random(0)))
    lengths = [2 * len(row["text"].split()) + 1 for row in rows]
    assert 60 < statistics.mean(lengths) < 90
    assert statistics.median(lengths) < 0.85 * statistics.mean(lengths)
    assert max(lengths) <= LONGEST
    own = {label: "abcdefghijklmnop"[2 * place : 2 * place + 2] for place, label in enumerate(LABELS)}
    words = [(word[0] in own[row["label"]]) for row in rows for word in row["text"].split()]
    assert 0.3 < statistics.mean(words) < 0.5  # by chance 1 in 8


def test_the_recipe_says_what_the_peers_are_told() -> None:
    found = recipe.load(finetuning.RECIPE)
    model, train, optimizer = found.model, found.train, found.train.optimizer
    assert (model.layers, model.width, model.heads) == (same.LAYERS, same.WIDTH, same.HEADS)
    assert model.max_length == found.inputs["text"].max_length == same.LONGEST == LONGEST
    assert (train.batch_size, train.schedule.warmup) == (same.BATCH, same.WARMUP)
    assert (optimizer.lr, optimizer.weight_decay) == (same.LR, same.WEIGHT_DECAY)
    assert (model.norm_first, model.input_norm, model.final_norm, model.qk_norm) == (False, True, False, False)


def test_rows_a_second_are_tokens_a_second_by_the_mean_length(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock("cpu")
    clock.stamps, clock.losses = [10.0, 11.0, 12.0], [2.0, 1.9, 1.8]
    same.answer(same.Job(**JOB, rows=6, warmup=1), clock, [400, 100, 100, 999], [])  # the last was read ahead
    told = json.loads(capsys.readouterr().out)
    assert told["tokens_per_second"] == 100
    assert told["rows_per_second"] == 1  # 6 rows have 600 tokens
    assert told["tokens"] == 600


def test_equal_curves_on_equal_tokens_pass_and_everything_else_is_said() -> None:
    peer = result("trainer", 2.08, 1.8, 1.5, 1.0)
    assert finetuning.wrong_with([peer, result("dougong", 2.07, 1.7, 1.5, 1.02)]) == []
    assert "numbers of tokens differ" in finetuning.wrong_with([peer, result("dougong", 2.08, 1, 1, 1.0, tokens=9)])[0]
    told = finetuning.wrong_with([peer, result("dougong", 3.0, 1.0, 1.0, 3.5)])
    assert [any(words in each for each in told) for words in ("far from log(8)", "does not fall", "the last quarter")] == [
        True, True, True
    ]  # fmt: skip


def test_it_has_its_table() -> None:
    shared = {"machine": "a machine", "commit": "abc1234", "benchmark": "finetuning", "run": "2026-01-01"}
    ours = result("dougong", 2.08, 1.0, rows_per_second=25.0)
    text = table.tables([shared | one for one in (result("trainer", 2.08, 1.0), ours)])
    assert "### Fine-tuning, 64 rows, 2 threads" in text
    assert "| dougong | 25.0 | 2.50 | 800 | 1.00 GB | 10 | 2.080 → 1.000 | 25.0 |" in text
