"""Contestants as processes of their own: started one after the other, watched, and their answers kept.

Interleaved: every round runs all of them, and each round begins with another, so that a machine that gets slower or
warmer is unfair to none.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.data import PREPARED, ROOT, WORK

RESULTS = ROOT / "benchmarks" / "results.jsonl"
OURS = ROOT / ".venv" / "bin" / "python"
PEERS = ROOT / "benchmarks" / ".venv" / "bin" / "python"
LITGPT = ROOT / "benchmarks" / ".venv-litgpt" / "bin" / "python"
PROC = Path("/proc")
Result = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """A module that prints one JSON line at its end, and the environment that it runs in."""

    label: str
    module: str
    python: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


class Failed(Exception):  # noqa: N818 - the name says what happened
    """A contestant that gave no answer."""


def rounds(
    contestants: list[Contestant],
    repeats: int,
    *,
    watch_tree: bool = False,
    seeds: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, list[Result]]:
    """The answers of each by its label. One that fails is said, and not asked again. With `seeds` each round has its own."""
    answers: dict[str, list[Result]] = {contestant.label: [] for contestant in contestants}
    left = list(contestants)
    for turn in range(repeats):
        first = turn % max(len(left), 1)
        for contestant in [*left[first:], *left[:first]]:
            say(f"round {turn + 1} of {repeats}: {contestant.label}")
            try:
                one = seeded(contestant, turn) if seeds else contestant
                answers[contestant.label].append(run(one, watch_tree=watch_tree))
            except Failed as error:
                say(str(error))
                left.remove(contestant)
    return {label: found for label, found in answers.items() if found}


def seeded(contestant: Contestant, seed: int) -> Contestant:
    """The same one, with this seed in its job, which is its only argument."""
    (job,) = contestant.arguments
    return replace(contestant, arguments=(json.dumps(json.loads(job) | {"seed": seed}),))


def run(contestant: Contestant, *, watch_tree: bool = False) -> Result:
    """Run one to its end; with `watch_tree` its answer also has `tree_memory`, the peak of all its processes together."""
    if not contestant.python.exists():
        raise Failed(f"{contestant.label}: there is no {contestant.python}. Fix: benchmarks/setup.sh")
    WORK.mkdir(exist_ok=True)
    log = WORK / "logs" / f"{contestant.label.replace(' ', '-')}.txt"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(contestant.python), "-m", contestant.module, *contestant.arguments],
            cwd=ROOT,
            env=os.environ | contestant.environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with Watch(process.pid if watch_tree else None) as watch:
            output, _ = process.communicate()
    lines = output.strip().splitlines()
    if process.returncode or not lines:
        told = "\n    ".join((output + log.read_text(errors="replace")).strip().splitlines()[-8:])
        raise Failed(f"{contestant.label} ended with {process.returncode}; all of it in {log}:\n    {told}")
    answer: Result = json.loads(lines[-1])
    return answer | ({"tree_memory": watch.peak} if watch_tree else {})


def prepare(recipe: Path, overrides: Iterable[str] = ()) -> None:
    """dougong's shards are there before it is timed, as what the others read is; made by a process of its own."""
    command = [str(OURS.with_name("dougong")), "prepare", str(recipe)]
    for override in (f"data.cache={PREPARED}", *overrides):
        command += ["-s", override]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"{' '.join(command)} ended with {found.returncode}:\n{found.stdout}{found.stderr}")


class Watch:
    """The most memory that a process and its children held together: shared pages count once (PSS)."""

    EVERY = 0.1  # seconds

    def __init__(self, pid: int | None):
        self.pid, self.peak = pid, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self) -> Watch:
        if self.pid is not None:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        if self.pid is not None:
            self.thread.join()

    def look(self) -> None:
        assert self.pid is not None
        while not self.done.wait(self.EVERY):
            self.peak = max(self.peak, sum(map(proportional, tree(self.pid))))


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, left = [], [pid]
    while left:
        pid = left.pop()
        found.append(pid)
        for children in PROC.glob(f"{pid}/task/*/children"):
            try:
                left += map(int, children.read_text().split())
            except OSError:  # the thread has ended meanwhile
                continue
    return found


def proportional(pid: int) -> int:
    """Bytes of resident memory of a process, what it shares divided among those who share it; 0 if it has ended."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


# --------------------------------------------------------------------------------------------------------- what is kept


def median(answers: Iterable[Result], key: str) -> float:
    return statistics.median(float(answer[key]) for answer in answers)


def keep(results: list[Result], path: Path = RESULTS) -> None:
    """Append one line a result."""
    with path.open("a") as stream:
        stream.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in results)


def end(results: list[Result], wrong: list[str], *, dry: bool) -> NoReturn:
    """End a benchmark: say what is wrong, keep the results unless it was a dry run; the exit status is 1 where something is."""
    for told in wrong:
        print(f"WRONG  {told}", file=sys.stderr)
    if not dry:
        keep(results)
    sys.exit(1 if wrong else 0)


def circumstances() -> Result:
    """When, where and on which state of the code: what every result of one run has in common."""
    return {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "dougong") else ""),
        "load_before": os.getloadavg()[0],
    }


def machine() -> str:
    """In words: processor, cores, memory, system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{name} ({', '.join(units)}), {os.cpu_count()} cores, {memory:.0f} GiB, {system}"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def warn_if_busy() -> None:
    """Speed measured while anything else runs says nothing."""
    load = os.getloadavg()[0]
    if load > 0.3:
        print(f"the machine is busy (load {load:.1f}): these figures will say little", file=sys.stderr)
        time.sleep(1)
