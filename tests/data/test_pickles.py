"""D12: data that could hold pickles is refused by its name, with what to use instead, and nothing of it is executed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dougong.core.errors import DataError
from dougong.data import sources
from dougong.data.sources import find_files, read_rows
from tests.clear_error import clear_error

ENDINGS = ["npy", "npz", "pkl", "pickle", "joblib", "h5", "hdf5", "pt", "pth", "ckpt", "bin"]


class Canary:
    """Makes a folder if anything unpickles it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_D12_the_canary_sings_when_it_is_unpickled(tmp_path: Path) -> None:
    """The check must be able to fail."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "sprung")))
    assert (tmp_path / "sprung").is_dir()


def test_D12_every_ending_that_can_hold_a_pickle_is_known() -> None:
    assert sorted(sources.UNSAFE) == sorted(ENDINGS)


@pytest.mark.parametrize("ending", ENDINGS)
def test_D12_a_pickle_under_every_such_ending_is_refused_with_the_alternative_and_never_run(
    tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"data.{ending}"
    file.write_bytes(pickle.dumps(Canary(tmp_path / "sprung"), protocol=0))
    for use in (
        lambda: find_files(file.name, tmp_path),
        lambda: list(read_rows(file)),
        lambda: find_files(".", tmp_path),
    ):
        with clear_error(file.name, f".{ending}", "pickled", f"Fix: {sources.UNSAFE[ending]}", error=DataError):
            use()
    assert not (tmp_path / "sprung").exists()


WATCH = """
import sys
from pathlib import Path
from dougong.core.errors import DataError
from dougong.data.sources import read_rows
folder = Path(sys.argv[1])
list(read_rows(folder / "good.csv"))  # imports happen here, before the watch begins
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, str(arguments)[:200])))
for file in sorted(folder.glob("bad*")):
    try:
        list(read_rows(file))
        sys.exit(f"{file.name} was read")
    except DataError:
        pass
for _ in range(60):
    list(read_rows(folder / "good.csv"))
forbidden = ("pickle.", "exec", "compile", "os.system", "subprocess.", "ctypes.", "os.mkdir")
print(len(seen) > 50, [entry for entry in seen if entry[0].startswith(forbidden)])
print([arguments for event, arguments in seen if event == "open" and "'bad-unsafe." in arguments])
if len(sys.argv) > 2:
    import pickle
    pickle.loads((folder / "bad-unsafe.pkl").read_bytes())
    print([event for event, _ in seen if event.startswith(forbidden)])
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    canary = Canary(tmp_path / "sprung")
    plain = pickle.dumps(canary)
    (tmp_path / "good.csv").write_text("a,b\n1,2\n")
    for ending in ENDINGS:
        (tmp_path / f"bad-unsafe.{ending}").write_bytes(plain)
    np.save(tmp_path / "bad-unsafe.npy", np.array([canary], dtype=object), allow_pickle=True)
    for name in ("bad.csv", "bad.tsv", "bad.txt", "bad.jsonl", "bad.parquet", "bad.arrow", "bad.csv.gz"):
        (tmp_path / name).write_bytes(plain)
    field = pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "arrow.py_extension_type"})
    table = pa.Table.from_arrays([pa.array([plain])], schema=pa.schema([field]))
    with pa.OSFile(str(tmp_path / "bad-extension.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return tmp_path


def watched(folder: Path, *more: str) -> list[str]:
    command = [sys.executable, "-c", WATCH, str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_D12_an_audit_hook_sees_nothing_executed_and_no_unsafe_file_opened(hostile: Path) -> None:
    assert watched(hostile) == ["True []", "[]"]
    assert not (hostile / "sprung").exists()


def test_D12_the_audit_hook_would_see_a_pickle_being_read(hostile: Path) -> None:
    """The check must be able to fail."""
    events = watched(hostile, "unpickle")[2]
    assert "pickle.find_class" in events
    assert "os.mkdir" in events
    assert (hostile / "sprung").exists()
