"""Contestants are processes: interleaved, watched, and one that fails takes nobody with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import contest
from benchmarks.contest import Contestant, Failed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contestants of these tests are modules of this folder, and their logs go there as well."""
    monkeypatch.setattr(contest, "ROOT", tmp_path)
    monkeypatch.setattr(contest, "WORK", tmp_path / "work")
    (tmp_path / "good.py").write_text("import sys\nprint('prose')\nprint('{\"speed\": ' + sys.argv[1] + '}')")
    (tmp_path / "job.py").write_text("import sys\nprint(sys.argv[1])")
    (tmp_path / "bad.py").write_text("import sys\nprint('{}')\nsys.exit('no such machine')")


def one(name: str, *arguments: str) -> Contestant:
    return Contestant(f"{name} {' '.join(arguments)}".strip(), name, Path(sys.executable), arguments)


def test_each_round_begins_with_another_and_one_that_fails_is_asked_once() -> None:
    said: list[str] = []
    answers = contest.rounds([one("good", "1"), one("bad"), one("good", "2")], 2, say=said.append)
    assert answers == {"good 1": [{"speed": 1}] * 2, "good 2": [{"speed": 2}] * 2}
    assert [line for line in said if line.startswith("round")] == [
        "round 1 of 2: good 1", "round 1 of 2: bad", "round 1 of 2: good 2", "round 2 of 2: good 2", "round 2 of 2: good 1"
    ]  # fmt: skip
    assert "no such machine" in said[2]


def test_an_environment_that_is_not_there_is_named_with_what_makes_it() -> None:
    with pytest.raises(Failed, match=r"there is no /nowhere/python. Fix: benchmarks/setup.sh"):
        contest.run(Contestant("it", "good", Path("/nowhere/python")))


def test_the_memory_of_a_tree_is_that_of_all_its_processes_and_of_an_ended_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "PROC", tmp_path)
    for pid, children, kilobytes in ((1, "2 3", 100), (2, "4", 20), (3, "", 3)):  # 4 has ended since
        (tmp_path / f"{pid}" / "task" / f"{pid}").mkdir(parents=True)
        (tmp_path / f"{pid}" / "task" / f"{pid}" / "children").write_text(children)
        (tmp_path / f"{pid}" / "smaps_rollup").write_text(f"Rss: 999 kB\nPss:  {kilobytes} kB\nPss_Dirty: 1 kB\n")
    assert sorted(contest.tree(1)) == [1, 2, 3, 4]
    assert sum(map(contest.proportional, contest.tree(1))) == 123 * 1024


def test_results_are_appended_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    contest.keep([{"a": 1}], path)
    contest.keep([{"a": 2}, {"a": 3}], path)
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'


def test_with_seeds_each_round_has_its_own_in_the_job() -> None:
    answers = contest.rounds([one("job", '{"seed": 7, "steps": 3}')], 2, seeds=True, say=lambda text: None)
    assert list(answers.values()) == [[{"seed": 0, "steps": 3}, {"seed": 1, "steps": 3}]]


def test_data_that_cannot_be_prepared_ends_the_benchmark_with_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "dougong"
    told.write_text("#!/bin/sh\necho no such file >&2\nexit 3\n")
    told.chmod(0o755)
    monkeypatch.setattr(contest, "OURS", tmp_path / "python")
    with pytest.raises(SystemExit, match=r"(?s)prepare .* ended with 3:.*no such file"):
        contest.prepare(tmp_path / "recipe.yaml", ["a=1"])
