"""Start-up: seconds until `dougong train` of a prepared small recipe has taken its first step, and what else one waits for.

    .venv/bin/python -m benchmarks.startup --repeats 5
    .venv/bin/python -m benchmarks.startup --repeats 1 --dry       # tries everything, keeps nothing

The first step counts as taken when its line stands in the run's log. `import torch` is what no program that trains with it
can go below. Each is a new process; the files are in the system's cache, since each is run once before.

Trials that mattered, what was predicted and what came out:
    torch's compiler not imported   predicted 3 s of 8; torch imports it for the first draw on the meta device, the first
                                    optimizer, the first step and for counting operations: 8.1 -> 4.6 s to the first step
    no garbage collection while     predicted a tenth of the import of torch: 0.4 s of 3; and at the end of a command, where
      torch is imported, or ends    Python looks through all of it again, 0.6 s: `check` 4.5 -> 3.1 s
    peak rate measured when first   0.2 s that the first step need not wait for
      shown
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import contest, table
from benchmarks.contest import OURS, Result
from benchmarks.data import PREPARED, ROOT, WORK

RECIPE = ROOT / "benchmarks" / "startup.yaml"
DOUGONG = str(OURS.with_name("dougong"))
EVERY = 0.005  # seconds between two looks at the log
PATIENCE = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    arguments = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    ended([DOUGONG, "prepare", str(RECIPE), "-s", f"data.cache={PREPARED}"])

    contest.warn_if_busy()
    shared = contest.circumstances() | {"benchmark": "startup", "contestant": "dougong", "cores": os.cpu_count()}
    seconds: dict[str, list[float]] = {label: [] for label in WAITS}
    for wait in WAITS.values():  # once each, not timed: from now on the files are in the system's cache
        wait()
    for _ in range(arguments.repeats):
        for label, wait in WAITS.items():
            seconds[label].append(wait())
    results: list[Result] = [
        shared | {"label": label, "seconds": statistics.median(found), "rounds": found}
        for label, found in seconds.items()
    ]
    print(table.starting(results))
    if not arguments.dry:
        contest.keep(results)


def first_step() -> float:
    """`dougong train` until its log has a line; then it may end."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        log = Path(folder, "runs", "startup", "log.jsonl")
        command = [DOUGONG, "train", str(RECIPE), "-s", f"data.cache={PREPARED}", "--quiet"]
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as one:
            while not (log.is_file() and log.stat().st_size):
                if one.poll() is not None or time.perf_counter() - started > PATIENCE:
                    one.kill()
                    sys.exit(f"{' '.join(command)} took no step:\n{one.communicate()[0]}")
                time.sleep(EVERY)
            taken = time.perf_counter() - started
            one.communicate()
    return taken


def wrong_recipe() -> float:
    """`dougong check` of a recipe with a mistake, which it has to find."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        recipe = Path(folder, "wrong.yaml")
        recipe.write_text(RECIPE.read_text("utf-8").replace("layers: 4", "layer: 4"), "utf-8")
        return ended([DOUGONG, "check", str(recipe)], code=2)


def ended(command: list[str], code: int = 0) -> float:
    """Seconds until a command has ended, with this exit code."""
    started = time.perf_counter()
    found = subprocess.run(command, cwd=WORK, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if found.returncode != code:
        sys.exit(f"{' '.join(command)} ended with {found.returncode}:\n{found.stdout}{found.stderr}")
    return seconds


WAITS: dict[str, Callable[[], float]] = {
    "dougong train, to the first step": first_step,
    "dougong check of a wrong recipe": wrong_recipe,
    "dougong --help": lambda: ended([DOUGONG, "--help"]),
    "python -c 'import torch'": lambda: ended([str(OURS), "-c", "import torch"]),
    "python -c 'import dougong'": lambda: ended([str(OURS), "-c", "import dougong"]),
}


if __name__ == "__main__":
    main()
