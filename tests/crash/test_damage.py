"""T4 and A1: flip, cut and swap what is on disk; each damage is named, the one before it used, nothing executed."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dougong.core.artefacts import write_sealed
from dougong.core.errors import ArtefactError
from dougong.training import checkpoint

SHARE = int(os.environ.get("DOUGONG_NIGHTLY", "1"))  # `make nightly` multiplies every count of these tests


def two_checkpoints(folder: Path) -> tuple[Path, Path]:
    """An older and a newer one, small, so that a flip hits headers, JSON and tensors alike."""
    paths = [checkpoint.save(folder, step, {"w": torch.full((40,), float(step))}, {"step": step}) for step in (1, 2)]
    return paths[0], paths[1]


def test_t4_of_2000_random_flips_cuts_and_growths_each_is_noticed_by_file_and_the_older_one_is_used(
    tmp_path: Path,
) -> None:
    rng = random.Random(4)
    older, newer = two_checkpoints(tmp_path)
    files = sorted(newer.iterdir())
    assert len(files) == 4
    for _ in range(2000 * SHARE):
        file = rng.choice(files)
        good = file.read_bytes()
        file.write_bytes(damaged(rng, good))
        path, refused = checkpoint.find_latest(tmp_path)
        assert path == older
        assert len(refused) == 1
        assert str(file) in refused[0]
        file.write_bytes(good)
    assert checkpoint.find_latest(tmp_path) == (newer, [])


def damaged(rng: random.Random, good: bytes) -> bytes:
    kind = rng.randrange(6)
    at = rng.randrange(len(good))
    if kind < 3:
        return good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :]
    if kind == 3:
        return good[:at]
    if kind == 4:
        return good + bytes(rng.randrange(1, 9))
    end = min(len(good), at + rng.randrange(1, 600))  # a block of zeros, as a power cut leaves it
    bad = good[:at] + bytes(end - at) + good[end:]
    return bad if bad != good else good[:-1]


def test_t4_files_swapped_between_two_checkpoints_are_noticed(tmp_path: Path) -> None:
    older, newer = two_checkpoints(tmp_path)
    for name in ("rank-0000.safetensors", "state.json", "manifest.json"):
        good = (newer / name).read_bytes()
        (newer / name).write_bytes((older / name).read_bytes())
        path, refused = checkpoint.find_latest(tmp_path)
        assert path == older
        assert len(refused) == 1
        (newer / name).write_bytes(good)


CHILD = """
import sys
from pathlib import Path
import torch
from dougong.core.errors import ArtefactError
from dougong.training import checkpoint

good, bad = Path(sys.argv[1]), Path(sys.argv[2])
def load(path):
    return checkpoint.load(path, {"w": torch.zeros(40)})
load(good)  # imports happen here, before the watch begins
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, str(arguments)[:200])))
try:
    load(bad)
except ArtefactError as error:
    print("refused", error)
for folder in (good.parent, bad.parent):
    checkpoint.find_latest(folder)
    checkpoint.best(folder)
load(good)
code = ("pickle.", "exec", "compile", "os.system", "subprocess.", "ctypes.")
foreign = (".metadata", ".pt'", ".npy")
forbidden = [entry for entry in seen if entry[0].startswith(code)]
opened = [entry for entry in seen if entry[0] == "open" and any(name in entry[1] for name in foreign)]
print("watched", len(seen) > 50, forbidden, opened)
"""


class Canary:
    """Leaves a file behind if anything unpickles it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("listed", [False, True])
def test_a1_a_pickle_in_a_checkpoint_is_never_unpickled_nor_a_foreign_file_opened(tmp_path: Path, listed: bool) -> None:
    good = checkpoint.save(tmp_path / "good", 1, {"w": torch.ones(40)}, {})
    checkpoint.save(tmp_path / "bad", 1, {"w": torch.ones(40)}, {})
    bad = checkpoint.save(tmp_path / "bad", 2, {"w": torch.ones(40)}, {})
    canary = pickle.dumps(Canary(tmp_path / "sprung"))
    names = (".metadata", "model.pt", "x.npy")
    for name in names:
        (bad / name).write_bytes(canary)
    if listed:  # an attacker seals the manifest anew
        manifest = checkpoint.read_json(bad / "manifest.json")
        entry = {"bytes": len(canary), "sha256": hashlib.sha256(canary).hexdigest()}
        write_sealed(bad / "manifest.json", manifest | {"files": manifest["files"] | dict.fromkeys(names, entry)})
    said = subprocess.run(
        [sys.executable, "-c", CHILD, str(good), str(bad)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    ).stdout.splitlines()
    assert said[0].startswith("refused ")
    assert any(name in said[0] for name in names)
    assert said[1] == "watched True [] []"
    assert not (tmp_path / "sprung").exists()


def test_a1_a_checkpoint_of_torchs_own_format_is_refused_unread(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Canary(tmp_path / "sprung")))
    (folder / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(ArtefactError, match="none of its 1 checkpoints is good"):
        checkpoint.find_latest(tmp_path)
    assert not (tmp_path / "sprung").exists()
