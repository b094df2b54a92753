"""The tables of docs/benchmarks.md come from the kept results, the last run of each, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table

SHARED = {"machine": "a machine", "commit": "abc1234", "benchmark": "pretrain"}


def result(contestant: str, speed: float, run: str = "2026-01-01T00:00:00", **more: Any) -> dict[str, Any]:
    return {
        **SHARED,
        "run": run,
        "contestant": contestant,
        "label": contestant,
        "shape": "baby",
        "device": "cpu",
        "threads": 2,
        "tokens_per_second": speed,
        "share_of_ceiling": 0.25,
        "peak_memory": 1.5e9,
        "losses": [4.2, 3.0],
        "rounds": [speed],
        "versions": {"torch": "2.13.0"},
        "ceilings": {"bf16": 1.7e12, "fp32": 0.3e12, "copy": 3e10},
        **more,
    }


def test_without_results_it_says_so(tmp_path: Path) -> None:
    assert table.tables(table.read(tmp_path / "results.jsonl")) == table.NONE


def test_contestants_stand_fastest_first_beside_the_best_peer() -> None:
    text = table.tables([result("plain", 1000), result("dougong", 1500, waiting_share=0.011), result("trainer", 750)])
    rows = [line for line in text.splitlines() if line.startswith("| ") and "1.50 GB" in line]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| dougong", "1,500", "1.50"],
        ["| plain", "1,000", "1.00"],
        ["| trainer", "750", "0.75"],
    ]
    assert "1.1%" in rows[0]
    assert "4.200 → 3.000" in rows[0]
    assert "### Pretraining, shape baby, cpu, 2 threads" in text
    assert "a machine; dougong at abc1234; 2026-01-01; matrix product 1.70 TFLOP/s in bf16" in text


def test_of_several_runs_the_last_counts_and_shapes_stand_apart() -> None:
    old, new = result("plain", 1000), result("plain", 2000, run="2026-02-01T00:00:00")
    groups = table.latest([old, result("plain", 3, shape="small"), new])
    assert [[each["tokens_per_second"] for each in group] for group in groups] == [[2000], [3]]


def test_a_later_run_of_one_task_leaves_the_other_tasks_results() -> None:
    shared = SHARED | {"benchmark": "tokenization", "megabytes": 100.0, "seconds": 1.0}
    runs = [
        shared | {"task": task, "run": run, "commit": run}
        for task, run in (("encode", "1"), ("train", "1"), ("encode", "2"))
    ]
    [group] = table.latest(runs)
    assert [(each["task"], each["run"]) for each in group] == [("train", "1"), ("encode", "2")]
    assert "dougong at 1, 2;" in table.circumstances(group)


def test_tokenization_and_start_up_have_their_tables() -> None:
    shared = SHARED | {"run": "2026-01-01", "tree_memory": 4e8, "seconds": 2.0, "rounds": [2.0], "megabytes": 100.0}
    encoded = shared | {"benchmark": "tokenization", "task": "encode", "tokens": 1000, "tokens_per_second": 500.0}
    trained = shared | {"benchmark": "tokenization", "task": "train", "characters": 9, "vocab_size": 16384}
    started = shared | {"benchmark": "startup", "contestant": "dougong", "label": "to the first step"}
    named = [each | {"contestant": name, "label": name} for each in (encoded, trained) for name in ("dougong", "other")]
    text = table.tables([*named, started])
    assert "### Tokenization, 100 MB" in text
    assert "| dougong | 500 | 1.00 | 2.0 | 1,000 | 0.40 GB |" in text
    assert "| other | 2.0 | 9 | 16,384 | 0.40 GB |" in text
    assert "| to the first step | 2.00 | 2.00 |" in text


def test_the_tables_are_put_between_their_marks_and_nothing_else_changes() -> None:
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.placed(page, "new") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    with pytest.raises(ValueError, match="to write between"):
        table.placed("no marks", "new")


def test_the_page_says_what_the_kept_results_say() -> None:
    page = table.PAGE.read_text("utf-8")
    assert table.placed(page, table.tables(table.read(table.RESULTS))) == page, "run python -m benchmarks.table --write"


def test_kept_results_are_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(result("plain", speed)) + "\n" for speed in (1.0, 2.0)))
    assert [each["tokens_per_second"] for each in table.read(path)] == [1.0, 2.0]
