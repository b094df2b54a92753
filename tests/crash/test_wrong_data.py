"""D3: `dougong train` on data that holds nothing to learn from ends at once, with exit code 3 and what to do."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clear_error import check_clear
from tests.crash.trainings import Trainings, recipe, serve

HEADER = "review,label\n"
WRONG = {  # what rows.csv holds, and what the message must name
    "empty": ("", ["rows.csv", "the file is empty"]),
    "header_only": (HEADER, ["rows.csv", "no rows"]),
    "missing_column": ("review,labels\ngood,yes\nbad,no\n", ["rows.csv", "no column 'label'", "write column: labels"]),
    "column_twice": ("review,label,label\ngood,yes,yes\n", ["rows.csv", "'label' stands twice", "rename"]),
    "one_class": (HEADER + "good,yes\n" * 200, ["label", "'yes'"]),
    "no_answers": (HEADER + "good,\n" * 200, ["no row is left to train on"]),
    "all_bad": (HEADER + "a,b,c\n" * 200, ["rows.csv", "no row can be read"]),
    "not_text": ("\x7fELF\0\0" * 100, ["rows.csv", "NUL"]),
}


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    process = serve()
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


@pytest.mark.parametrize("kind", WRONG)
def test_d3_training_on_wrong_data_ends_with_3_within_5_seconds_of_work(
    server: subprocess.Popen[str], tmp_path: Path, kind: str
) -> None:
    training = Trainings(tmp_path / "work", server, recipe("reviews"))
    content, parts = WRONG[kind]
    (training.folder / "rows.csv").write_text(content)
    pid = training.start("--quiet")
    seconds = seconds_of_work(pid)
    assert training.wait(pid) == 3, training.said()
    check_clear(training.error(), *parts)
    assert seconds < 5
    assert not (training.run / "log.jsonl").exists()


def seconds_of_work(pid: int) -> float:
    """What a process of the server has used of the processor when it ends; its imports were made before it began."""
    until = time.monotonic() + 120
    while True:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if words[0] == "Z":
            return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        assert time.monotonic() < until
        time.sleep(0.01)
