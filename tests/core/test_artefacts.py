"""Artefact folders: complete or absent, every changed byte noticed, every message says what to do."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dougong.core import artefacts
from dougong.core.artefacts import (
    Process,
    append_line,
    commit_folder,
    inside,
    need_space,
    read_json,
    read_sealed,
    remove_folder,
    repair_jsonl,
    sweep,
    sync_file,
    verify_folder,
    write_file,
    write_folder,
    write_json,
    write_sealed,
)
from dougong.core.errors import ArtefactError, DougongError, MachineError


def make(final: Path, text: str = "one") -> Path:
    with write_folder(final, "model", {"step": 3}) as folder:
        (folder / "a.txt").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "b.bin").write_bytes(b"\0" * 100)
    return final


def test_a_written_folder_verifies_and_its_manifest_names_kind_meta_and_files(tmp_path: Path) -> None:
    manifest = verify_folder(make(tmp_path / "deep" / "run"), "model")
    assert (manifest.kind, manifest.meta) == ("model", {"step": 3})
    assert {name: entry.bytes for name, entry in manifest.files.items()} == {"a.txt": 3, "inner/b.bin": 100}


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()


def test_an_error_while_writing_leaves_nothing_and_is_the_same_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with write_folder(tmp_path / "run", "model") as folder:
            (folder / "a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_folder_is_hidden_and_names_its_process(tmp_path: Path) -> None:
    with write_folder(tmp_path / "run", "model") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".run.")
        assert f".{os.getpid()}." in folder.name
        assert not (tmp_path / "run").exists()


def test_replacing_gives_the_new_one_and_leaves_no_trace_of_the_old(tmp_path: Path) -> None:
    make(make(tmp_path / "run"), "two")
    assert (tmp_path / "run" / "a.txt").read_text() == "two"
    verify_folder(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_replacement_that_fails_between_its_two_renames_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "run")
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        if Path(target).name == "run" and ".tmp" in Path(source).name:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(MachineError, match="the disk itself fails"):
        make(tmp_path / "run", "two")
    assert (tmp_path / "run" / "a.txt").read_text() == "one"


def test_a_replacer_that_died_between_its_two_renames_is_undone_by_the_next_reader(tmp_path: Path) -> None:
    make(tmp_path / "run")
    os.rename(tmp_path / "run", tmp_path / ".run.elsewhere.7.7.0123abcd.old")
    assert verify_folder(tmp_path / "run").kind == "model"


def test_a_replacer_whose_old_one_a_reader_brings_back_in_between_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "run")
    real, meddled = os.rename, []

    def rename(source: Any, target: Any) -> None:
        real(source, target)
        if Path(target).name.endswith(".old") and not meddled:
            meddled.append(target)
            real(target, source)  # as verify_folder of another process would

    monkeypatch.setattr(os, "rename", rename)
    make(tmp_path / "run", "two")
    assert meddled
    assert (tmp_path / "run" / "a.txt").read_text() == "two"


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: (run / "a.txt").write_text("ons"),
            r"a\.txt: its bytes are not those that were written \(sha256\)",
        ),
        (lambda run: (run / "a.txt").write_text("on"), r"a\.txt: 2 bytes where 3 were written"),
        (lambda run: (run / "a.txt").unlink(), r"a\.txt: this file is missing"),
        (lambda run: (run / "x.pt").write_text(""), r"x\.pt: this file is not in the manifest"),
        (lambda run: (run / "inner" / "link").symlink_to("/etc/passwd"), r"link: a link or device, not a plain file"),
        (lambda run: os.mkfifo(run / "pipe"), r"pipe: a link or device"),
        (lambda run: (run / "manifest.json").unlink(), r"manifest\.json: cannot be read \(No such file"),
        (lambda run: (run / "manifest.json").write_text("{}"), r"manifest\.json: its bytes are not those"),
        (
            lambda run: (run / "manifest.json").write_text("[" * 10**5),
            r"manifest\.json: .*nested deeper than 64 levels",
        ),
    ],
)
def test_t4_each_damage_is_refused_by_the_name_of_the_file(tmp_path: Path, damage: Any, message: str) -> None:
    run = make(tmp_path / "run")
    damage(run)
    with pytest.raises(ArtefactError, match=message + r".*Fix: ") as caught:
        verify_folder(run)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 4


def test_a_file_replaced_by_a_link_to_its_equal_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    os.rename(run / "a.txt", tmp_path / "elsewhere")
    (run / "a.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match="not a plain file"):
        verify_folder(run)


def test_a_folder_of_another_kind_or_format_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    with pytest.raises(ArtefactError, match=r"this is a 'model', not a checkpoint. Fix: give the path of a checkpoint"):
        verify_folder(run, "checkpoint")
    write_sealed(run / "manifest.json", {"format": "dougong/9", "kind": "model", "meta": {}, "files": {}})
    with pytest.raises(ArtefactError, match="format 'dougong/9' where 'dougong/1' is known"):
        verify_folder(run)
    with pytest.raises(ArtefactError, match=r"there is no such folder. Fix: check the path"):
        verify_folder(tmp_path / "none")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a/./b", "", "a\\b", "a\0b", "..", "inner/../a.txt"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    run = make(tmp_path / "run")
    with pytest.raises(ArtefactError, match=r"the file name .* is not allowed"):
        inside(run, name)
    write_sealed(
        run / "manifest.json",
        {"format": "dougong/1", "kind": "model", "meta": {}, "files": {name: {"bytes": 0, "sha256": ""}}},
    )
    with pytest.raises(ArtefactError):
        verify_folder(run)


def test_a_path_through_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(ArtefactError, match="leads out of its folder"):
        inside(tmp_path, "out/passwd")
    assert inside(tmp_path, "in/passwd") == tmp_path / "in" / "passwd"


@pytest.mark.parametrize(
    "entry", [None, 3, {}, {"bytes": True, "sha256": ""}, {"bytes": 1.0, "sha256": ""}, {"bytes": 1}]
)
def test_a_sealed_manifest_with_wrong_entries_is_refused(tmp_path: Path, entry: object) -> None:
    run = make(tmp_path / "run")
    write_sealed(run / "manifest.json", {"format": "dougong/1", "kind": "m", "meta": {}, "files": {"a.txt": entry}})
    with pytest.raises(ArtefactError, match=r"the entry of 'a.txt' is not a size and a sha256"):
        verify_folder(run)


def test_a_flipped_bit_in_any_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    good = (run / "manifest.json").read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        (run / "manifest.json").write_bytes(bad)
        with pytest.raises(ArtefactError, match=r"manifest\.json"):
            artefacts.read_manifest(run)


def test_what_a_killed_writer_left_in_a_folder_is_not_sealed_with_it(tmp_path: Path) -> None:
    """A preparation goes on in the folder that a killed process was filling, perhaps on another machine."""
    folder = artefacts.begin_folder(tmp_path / "run")
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("x")
    (folder / "inner" / ".a.txt.elsewhere.7.7.0123abcd.tmp").write_text("half")
    (folder / ".inner.elsewhere.7.7.0123abcd.tmp").mkdir()
    manifest = commit_folder(folder, tmp_path / "run", "model", {})
    assert manifest.files.keys() == {"inner/a.txt"}
    verify_folder(tmp_path / "run")


def test_a_writer_that_changes_a_file_after_it_was_hashed_is_caught(tmp_path: Path) -> None:
    folder = artefacts.begin_folder(tmp_path / "run")
    known = {"a.bin": write_file(folder / "a.bin", b"abc")}
    (folder / "a.bin").write_bytes(b"abcd")
    with pytest.raises(ArtefactError, match="changed while it was written"):
        commit_folder(folder, tmp_path / "run", "model", {}, known)


# ------------------------------------------------------------------------------------------------------- the order (T3)


class Recorder:
    """Notes what is done to files and folders, in order, by their paths at that moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.done: list[tuple[str, str]] = []
        real_fsync, real_rename, real_replace, real_write = os.fsync, os.rename, os.replace, os.write

        def path_of(handle: int) -> str:
            return os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else ""

        def fsync(handle: int) -> None:
            self.done.append(("fsync", path_of(handle)))
            real_fsync(handle)

        def write(handle: int, data: Any) -> int:
            self.done.append(("write", path_of(handle)))
            return real_write(handle, data)

        def rename(source: Any, target: Any) -> None:
            self.done.append(("rename", f"{source} {target}"))
            real_rename(source, target)

        def replace(source: Any, target: Any) -> None:
            self.done.append(("rename", f"{source} {target}"))
            real_replace(source, target)

        for name, function in {"fsync": fsync, "write": write, "rename": rename, "replace": replace}.items():
            monkeypatch.setattr(os, name, function)

    def last(self, what: str, path: str) -> int:
        return max((index for index, entry in enumerate(self.done) if entry == (what, path)), default=-1)


def test_t3_files_then_manifest_then_folders_are_fsynced_before_the_rename_and_the_parent_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    with write_folder(tmp_path / "run", "model") as folder:
        (folder / "inner").mkdir()
        for name in ("a.txt", "inner/b.txt"):
            (folder / name).write_text("x")
    renamed = recorder.last("rename", f"{folder} {tmp_path / 'run'}")
    files = [recorder.last("fsync", str(folder / name)) for name in ("a.txt", "inner/b.txt")]
    manifest = next(
        index for index, entry in enumerate(recorder.done) if entry[1].endswith(f" {folder / 'manifest.json'}")
    )
    folders = [recorder.last("fsync", str(path)) for path in (folder / "inner", folder)]
    assert min(files) >= 0
    assert max(files) < manifest < min(folders)
    assert max(folders) < renamed < recorder.last("fsync", str(tmp_path))


def test_t3_a_file_is_fsynced_after_its_last_write_then_renamed_then_its_folder_fsynced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    write_file(tmp_path / "a", b"x" * (artefacts.PIECE + 1))
    assert [what for what, _ in recorder.done] == ["write", "write", "fsync", "rename", "fsync"]
    hidden = recorder.done[0][1]
    assert recorder.done[2:] == [("fsync", hidden), ("rename", f"{hidden} {tmp_path / 'a'}"), ("fsync", str(tmp_path))]


def test_t3_new_parents_are_fsynced_into_their_own_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    make(tmp_path / "x" / "y" / "run")
    first = recorder.done.index(("fsync", str(tmp_path)))
    assert first < recorder.done.index(("fsync", str(tmp_path / "x")))


# -------------------------------------------------------------------------------------------------------- failures (T2)


CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_t2_a_failure_of_any_call_names_path_and_free_bytes_and_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    make(tmp_path / "run")
    failures = 0
    for fail_at in range(1, 200):
        with monkeypatch.context() as patch:
            counter = break_call(patch, fail_at, code)
            told = None
            try:
                make(tmp_path / "run", "two")
            except MachineError as error:
                told = str(error)
        if told is not None:
            failures += 1
            assert str(tmp_path) in told
            assert "bytes free" in told
            assert "Fix: " in told
        verify_folder(tmp_path / "run")
        if counter[0] < fail_at:
            break
    assert failures > 12
    assert (tmp_path / "run" / "a.txt").read_text() == "two"
    sweep(tmp_path, everyone=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def break_call(patch: pytest.MonkeyPatch, fail_at: int, code: int) -> list[int]:
    """Make the call number `fail_at` to the file system fail; return the counter of calls."""
    counter = [0]

    def wrap(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counter[0] += 1
            if counter[0] == fail_at:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrap(getattr(os, name)))
    return counter


def test_t2_a_file_beyond_the_size_limit_names_the_bytes_needed_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"old")
    code = (
        "import resource, sys; from pathlib import Path; from dougong.core.artefacts import write_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_file(Path(sys.argv[1]), b'x' * 5000)\n"
        "except ValueError as error: print(type(error).__name__, error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert said.startswith(f"MachineError {tmp_path / 'a'}: File too large (5,000 bytes needed, ")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_t2_a_full_device_is_a_machine_error(tmp_path: Path) -> None:
    with pytest.raises(
        MachineError, match=r"/dev/full: No space left on device \(14 bytes needed, .* bytes free\)\. Fix: free space"
    ):
        append_line(Path("/dev/full"), {"step": 100})


def test_t2_space_is_asked_for_before_the_start(tmp_path: Path) -> None:
    need_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(
        MachineError, match=r"1,000,000,000,000,000,000 bytes needed, [\d,]+ bytes free. Fix: free [\d,]+ bytes"
    ):
        need_space(tmp_path, 10**18)


def test_errors_of_the_caller_that_are_not_the_disks_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_folder(tmp_path / "run", "model"):
        (tmp_path / "missing").read_text()


# ------------------------------------------------------------------------------------------------------------ leftovers


def test_what_dead_processes_left_is_swept_by_the_next_write_and_what_living_ones_write_stays(tmp_path: Path) -> None:
    me = Process.this()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = tmp_path / f".run.{me.host}.{dead.pid}.1.0123abcd.tmp"
    reused = tmp_path / f".run.{me.host}.{me.pid}.{me.start + 1}.0123abcd.tmp"  # our number, but another start
    mine = tmp_path / f".run.{me.host}.{me.pid}.{me.start}.0123abcd.tmp"
    foreign = tmp_path / f".run.elsewhere.{dead.pid}.1.0123abcd.tmp"
    other = tmp_path / ".hidden.tmp"
    for path in (gone, reused, mine, foreign, other):
        path.mkdir()
        (path / "x").write_text("x")
    make(tmp_path / "run")
    assert not gone.exists()
    assert not reused.exists()
    assert mine.exists()
    assert foreign.exists()
    sweep(tmp_path, everyone=True)  # only for who holds the lock
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.tmp", "run"]


def test_many_files_of_one_process_list_their_folder_once_and_the_next_process_sweeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = Process.this()
    left = tmp_path / f".a.{me.host}.{me.pid}.{me.start + 1}.0123abcd.tmp"
    left.write_text("half")
    listed, real = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or real(path))
    for number in range(50):
        write_file(tmp_path / f"{number}.txt", b"x")
    assert len(listed) == 1
    assert not left.exists()
    left.write_text("half")  # what a process leaves that dies after the first write of ours
    code = "import sys; from pathlib import Path; from dougong.core.artefacts import write_file as w; w(Path(sys.argv[1]), b'x')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "last.txt")], check=True, timeout=60)
    assert not left.exists()


def test_removing_a_folder_hides_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run")
    monkeypatch.setattr(artefacts.shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    remove_folder(run)
    assert not run.exists()
    assert [path.name[:5] for path in tmp_path.iterdir()] == [".run."]


# ----------------------------------------------------------------------------------------------------------------- JSON


def test_a_json_file_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ArtefactError, match="1,000,000,000,000 bytes, more than the 536,870,912"):
        read_json(tmp_path / "big.json")


def test_json_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        1_000_000 * (60 * len("\\u8a69") + len(' "",\n') + 8) < artefacts.JSON_BYTES
    )  # the most that a category keeps
    monkeypatch.setattr(artefacts, "JSON_BYTES", 1000)
    for write in (lambda path, value: write_json(path, value, "colour"), write_sealed):
        with pytest.raises(
            DougongError, match=r"= '[\d,]+ bytes of JSON': expected at most 1,000. Fix: keep less in it"
        ):
            write(tmp_path / "a.json", {"classes": ["x" * 60] * 20})
    assert list(tmp_path.iterdir()) == []


def test_what_is_appended_is_made_durable_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_line(tmp_path / "log.jsonl", {"step": 1})
    recorder = Recorder(monkeypatch)
    sync_file(tmp_path / "log.jsonl")
    assert recorder.done == [("fsync", str(tmp_path / "log.jsonl")), ("fsync", str(tmp_path))]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"loss": [1.0, float("nan")]}, r"state\.loss\.1 = nan: expected a finite number"),
        ({"a": {1: 2}}, r"state\.a key = 1: expected text"),
        ({"a": {"b": b"x"}}, r"state\.a\.b = b'x': expected a number, text, list or mapping"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_its_place(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DougongError, match=message):
        write_json(tmp_path / "a.json", value, "state")
    assert list(tmp_path.iterdir()) == []


def test_sealed_json_round_trips(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": "詩", "nested": {"z": {}}}
    write_sealed(tmp_path / "a.json", value)
    assert read_sealed(tmp_path / "a.json") == value


# ----------------------------------------------------------------------------------------------------------- logs (T16)


def test_t16_a_torn_last_line_and_the_records_after_the_resumed_step_go(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for step in range(10):
        append_line(log, {"step": step, "text": "詩" * step}, sync=step == 9)
    before = log.read_bytes()
    with log.open("ab") as file:
        file.write(b'{"step": 10, "te')
    assert repair_jsonl(log) == 1
    assert log.read_bytes() == before
    assert repair_jsonl(log, lambda record: record["step"] <= 6) == 3
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(7))
    assert repair_jsonl(log, lambda record: record["step"] <= 6) == 0
    assert repair_jsonl(tmp_path / "none.jsonl") == 0


def test_t16_a_log_cut_at_any_byte_keeps_every_whole_record(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for step in range(4):
        append_line(log, {"step": step})
    whole = log.read_bytes()
    for cut in range(len(whole) + 1):
        log.write_bytes(whole[:cut])
        repair_jsonl(log)
        append_line(log, {"step": 99})
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert steps == [*range((cut + 1) // 12), 99]  # a record of 12 bytes is whole without its newline


def test_t16_zeros_at_the_end_as_a_power_cut_leaves_them_go_but_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 0}\n' + b"\0" * 500)
    assert repair_jsonl(log) == 1
    log.write_bytes(b'{"step": 0}\nxx\n{"step": 2}\n')
    with pytest.raises(ArtefactError, match=r"log\.jsonl: line 2 is not a record.*Fix: remove that line"):
        repair_jsonl(log)


def test_t16_a_record_that_does_not_fit_is_taken_back_so_that_the_next_one_starts_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    append_line(log, {"step": 0})
    real = os.write

    def half(handle: int, data: Any) -> int:
        real(handle, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(MachineError, match=r"log\.jsonl: No space left"):
            append_line(log, {"step": 1})
    append_line(log, {"step": 2})
    assert log.read_text() == '{"step": 0}\n{"step": 2}\n'


def test_t16_a_log_takes_no_nan(tmp_path: Path) -> None:
    with pytest.raises(DougongError, match=r"log\.jsonl\.loss = nan: expected a finite number"):
        append_line(tmp_path / "log.jsonl", {"loss": float("nan")})


def test_random_damage_anywhere_in_a_folder_is_always_noticed(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "some text of a file")
    rng = random.Random(0)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    for _ in range(300):
        file = rng.choice(files)
        good = file.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        file.write_bytes(bad if rng.random() < 0.5 else good[: rng.randrange(len(good))])
        with pytest.raises(ArtefactError, match=file.name):
            verify_folder(run)
        file.write_bytes(good)
    verify_folder(run)
