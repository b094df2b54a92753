"""What the tests of whole trainings share: a workplace with data and a recipe, and what must be equal in the end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SHARE = int(os.environ.get("DOUGONG_NIGHTLY", "1"))  # `make nightly` multiplies every count of these tests
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TRAIN = {"batch_size": 16, "checkpoint_every": 3, "validate_every": 8}
SMALL = {"kind": "transformer", "preset": "tiny", "layers": 1, "dropout": 0.1}
TAKEN = {
    "reviews": {  # everything that a checkpoint has to keep: dropout's generator, momentum, an average, a best loss
        "data": {"train": "rows.csv"},
        "inputs": {"review": "text"},
        "outputs": {"label": "category"},
        "model": SMALL,
        "train": {"steps": 40 * SHARE, "optimizer": {"kind": "adamw", "lr": 0.002}, "ema": 0.9, **TRAIN},
    },
    "verses": {
        "data": {"train": "verses.txt", "text_rows": "line"},
        "outputs": {"text": {"type": "text", "max_length": 32}},
        "model": SMALL,
        "train": {"epochs": 12 * SHARE, "optimizer": {"kind": "muon"}, **TRAIN},
    },
    "plain": {  # quick, for as many kills as can be
        "data": {"train": "rows.csv"},
        "inputs": {"review": "text"},
        "outputs": {"label": "category"},
        "model": {"kind": "mlp", "preset": "tiny"},
        "train": {"steps": 800, "batch_size": 16, "checkpoint_every": 5, "validate_every": 40},
    },
}
WORDS = {"yes": ["good", "fine", "great", "lovely", "bright"], "no": ["bad", "poor", "awful", "grim", "cold"]}


def recipe(name: str, **train: Any) -> dict[str, Any]:
    taken = TAKEN[name]
    return {"name": name, "seed": 3, **taken, "train": {**taken["train"], **train}}  # type: ignore[dict-item]


def write_data(folder: Path, rows: int = 160) -> None:
    draw = random.Random(7)
    texts = []
    for number in range(rows):
        label = ("yes", "no")[number % 2]
        texts.append((" ".join(draw.choices([*WORDS[label], "the", "a", "was"], k=draw.randint(3, 9))), number, label))
    lines = [f"{text} {number},{label}\n" for text, number, label in texts]
    (folder / "rows.csv").write_text("review,label\n" + "".join(lines))
    (folder / "verses.txt").write_text("".join(f"{text} {number}\n" for text, number, _ in texts))


class Trainings:
    """One folder in which `dougong train` is run, killed and run again."""

    def __init__(self, folder: Path, server: subprocess.Popen[str], plain: dict[str, Any]):
        self.folder, self.server, self.name = folder, server, plain["name"]
        folder.mkdir()
        write_data(folder)
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(plain))
        self.run = folder / "runs" / self.name

    def ask(self, **order: Any) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *arguments: str, verb: str = "train", errors: str = "errors.txt", **order: Any) -> int:
        """`dougong train …` in a new process. `charts=True`: with a whole report, which takes longer than all else."""
        words = [verb, "recipe.yaml" if verb in ("train", "prepare") else str(self.run), *arguments]
        return int(self.ask(start=words, cwd=str(self.folder), errors=str(self.folder / errors), **order)["pid"])

    def wait(self, pid: int) -> int:
        return int(self.ask(wait=pid)["code"])

    def do(self, *arguments: str, **order: Any) -> int:
        return self.wait(self.start(*arguments, **order))

    def said(self, errors: str = "errors.txt") -> str:
        return (self.folder / errors).read_text()

    def said_if_any(self) -> str:
        return self.said() if (self.folder / "errors.txt").exists() else ""

    def error(self, errors: str = "errors.txt") -> str:
        """The message that the process ended with."""
        return self.said(errors).partition("error: ")[2]

    # ---------------------------------------------------------------------------------------------- how far it has come

    def lines(self) -> int:
        path = self.run / "log.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def wait_for_lines(self, pid: int, count: int, seconds: float = 60.0) -> bool:
        """Until the log has so many lines; False if the process is over before."""
        until = time.monotonic() + seconds
        while self.lines() < count:
            if _over(pid):
                return False
            assert time.monotonic() < until, self.said()
            time.sleep(0.0005)
        return True

    def wait_for_steps_taken(self, pid: int, count: int, seconds: float = 60.0) -> bool:
        """Until this process has logged so many steps, beyond where it cut the log back to; False if it is over."""
        until, lowest = time.monotonic() + seconds, self.lines()
        while (lines := self.lines()) < lowest + count:
            lowest = min(lowest, lines)
            if _over(pid):
                return False
            assert time.monotonic() < until, self.said()
            time.sleep(0.0005)
        return True

    def interrupt(self, after_lines: int, *arguments: str, number: int = signal.SIGTERM, delay: float = 0.0) -> int:
        """Start, signal once the log has grown by so many lines, and wait; the exit code."""
        pid = self.start(*arguments)
        if self.wait_for_lines(pid, after_lines):
            time.sleep(delay)
            os.kill(pid, number)
        return self.wait(pid)

    def checkpoints(self) -> list[Path]:
        return sorted((self.run / "checkpoints").glob("step-*"))

    # -------------------------------------------------------------------------------------- what it has come to at last

    def weights(self) -> str:
        return hashlib.sha256((self.run / "model" / "model.safetensors").read_bytes()).hexdigest()

    def log(self) -> list[dict[str, Any]]:
        """The records without what a clock says; the steps must be 1, 2, 3 …"""
        records = [json.loads(line) for line in (self.run / "log.jsonl").read_text().splitlines()]
        steps = [record["step"] for record in records if "validation" not in record]
        assert steps == list(range(1, len(steps) + 1))
        return [{key: value for key, value in record.items() if "seconds" not in key} for record in records]

    def same_as(self, other: Trainings) -> None:
        assert self.log() == other.log()
        assert self.weights() == other.weights()
        assert self.do(verb="verify") == 0, self.said()
        assert (self.run / "evaluations" / "test" / "result.json").read_bytes() == (
            other.run / "evaluations" / "test" / "result.json"
        ).read_bytes()
        assert (self.run / "report.html").is_file()


def _over(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def serve() -> subprocess.Popen[str]:
    script = str(Path(__file__).with_name("trainer.py"))
    return subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
