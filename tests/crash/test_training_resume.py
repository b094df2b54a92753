"""Whole trainings as processes: killed, stopped, started twice, out of disk, with other data; the same bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dougong.core.tensors import load_tensors
from dougong.training import checkpoint
from tests.clear_error import check_clear
from tests.crash.trainings import ENVIRONMENT, SHARE, Trainings, recipe, serve

Make = Callable[..., Trainings]


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    process = serve()
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def trainings(server: subprocess.Popen[str], tmp_path: Path) -> Make:
    return lambda name="reviews", **train: Trainings(tmp_path / name, server, recipe(name, **train))


@pytest.fixture(scope="module")
def undisturbed(server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trainings]:
    """The run that nobody interrupted, trained once for all tests."""
    known: dict[str, Trainings] = {}

    def get(name: str = "reviews") -> Trainings:
        if name not in known:
            known[name] = Trainings(tmp_path_factory.mktemp("undisturbed") / name, server, recipe(name))
            assert known[name].do("--quiet") == 0, known[name].said()
        return known[name]

    return get


def newest_step(training: Trainings) -> int:
    path, refused = checkpoint.find_latest(training.run / "checkpoints")
    assert path is not None
    assert not refused
    return int(checkpoint.read_state(path)["progress"]["step"])


# --------------------------------------------------------------------------------------------------- kill -9, and again


@pytest.mark.parametrize(("name", "kills"), [("reviews", 12 * SHARE), ("verses", 2 * SHARE)])
def test_t1_t15_t16_a_run_killed_again_and_again_ends_bit_for_bit_as_the_undisturbed_one(
    trainings: Make, undisturbed: Callable[[str], Trainings], name: str, kills: int
) -> None:
    training, draw, done = trainings(name), random.Random(5), 0
    for number in range(kills):
        pid, going = training.start("--quiet"), True
        if number % 4 == 0:  # anywhere: while it reads the recipe, prepares, loads the checkpoint …
            time.sleep(draw.random() * 0.5)
        elif number % 4 == 1:  # in the first steps after it went on, which it has taken before
            going = training.wait_for_steps_taken(pid, 1)
        else:  # or when it has come some steps further than ever before, so that the loop ends
            going = training.wait_for_lines(pid, training.lines() + draw.randint(1, 3))
            time.sleep(draw.random() * 0.05)
        if not going:  # on a busy machine kills come late: it has taken its last step before the last of them
            assert training.wait(pid) == 0, training.said()
            break
        os.kill(pid, signal.SIGKILL)
        assert training.wait(pid) == -signal.SIGKILL, training.said()
        done += 1
    assert done >= kills // 3  # on a fast machine a few steps pass between the line seen and the kill
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed(name))


@pytest.mark.nightly
def test_t15_a_hundred_kills_in_one_run_each_third_at_the_first_step_after_it_went_on(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    training, draw, again = trainings("plain"), random.Random(11), 0
    for number in range(100):
        before = training.lines()
        pid = training.start("--quiet")
        if number % 3 == 2:
            assert training.wait_for_steps_taken(pid, 1), training.said()
        else:
            assert training.wait_for_lines(pid, before + draw.randint(1, 3)), training.said()
            time.sleep(draw.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
        assert training.wait(pid) == -signal.SIGKILL, training.said()
        again += training.lines() <= before
    assert again > 20, "so many kills must have hit steps that had been taken before"
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed("plain"))


def test_t1_t15_kills_after_the_last_step_leave_a_run_that_the_next_start_finishes(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    """While the best weights are loaded, model and receipt written, the evaluation made and the report drawn."""
    training, whole, draw = trainings(), undisturbed("reviews"), random.Random(6)
    training.interrupt(whole.lines(), "--quiet", number=signal.SIGKILL)
    for _ in range(3 * SHARE):
        pid = training.start("--quiet", charts=True)
        time.sleep(draw.random() * 2)
        os.kill(pid, signal.SIGKILL)
        training.wait(pid)
    assert training.do("--quiet", charts=True) == 0, training.said()
    training.same_as(whole)


def test_t1_a_model_folder_without_its_seal_is_not_taken_for_a_finished_run(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    training = trainings()
    assert training.interrupt(5, "--quiet") == 143
    (training.run / "model").mkdir()  # a kill between the model and the receipt; and a half-written one lies there too
    (training.run / "model" / "model.safetensors").write_bytes(b"half")
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed("reviews"))


# -------------------------------------------------------------------------------------------------------------- signals


def test_t7_sigterm_at_any_moment_ends_with_143_and_loses_no_step(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    training, draw = trainings(), random.Random(8)
    for _ in range(10 * SHARE):
        pid = training.start()
        assert training.wait_for_lines(pid, training.lines() + draw.randint(1, 2)), training.said()
        time.sleep(draw.random() * 0.04)
        os.kill(pid, signal.SIGTERM)
        assert training.wait(pid) == 143, training.said()
        step = newest_step(training)
        assert [record["step"] for record in training.log()][-1] == step
        assert f"step {step:,}: stopped; every step is saved" in training.said()
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed("reviews"))


def test_t7_sigterm_before_the_first_step_ends_with_143_too(trainings: Make) -> None:
    training = trainings()
    pid = training.start()
    until = time.monotonic() + 30
    while not training.said_if_any() and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(pid, signal.SIGTERM)
    assert training.wait(pid) == 143, training.said()


def test_t7_sigint_ends_with_130(trainings: Make) -> None:
    training = trainings()
    assert training.interrupt(4, number=signal.SIGINT) == 130
    assert newest_step(training) >= 3


def test_t7_a_second_signal_leaves_at_once_and_the_last_checkpoint_is_good(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    training, draw = trainings(), random.Random(9)
    for _ in range(3 * SHARE):
        pid = training.start("--quiet")
        assert training.wait_for_lines(pid, training.lines() + 4), training.said()
        os.kill(pid, signal.SIGTERM)
        time.sleep(draw.random() * 0.02)
        os.kill(pid, signal.SIGTERM)
        assert training.wait(pid) == 143, training.said()
        assert newest_step(training) >= 3
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed("reviews"))


# ----------------------------------------------------------------------------------------------- two runs in one folder


def test_t12_a_second_training_of_the_same_run_is_refused_and_names_the_first(trainings: Make) -> None:
    training = trainings()
    first = training.start("--quiet")
    assert training.wait_for_lines(first, 3), training.said()
    assert training.do("--quiet", errors="second.txt") == 4
    check_clear(training.error("second.txt"), "in use by", f"process {first} ")
    os.kill(first, signal.SIGKILL)
    assert training.wait(first) == -signal.SIGKILL
    third = training.start("--quiet")
    assert training.wait_for_lines(third, training.lines() + 1), training.said()  # the dead one's lock is taken over
    assert f"taken over from process {first} " in training.said()
    os.kill(third, signal.SIGKILL)
    training.wait(third)


# -------------------------------------------------------------------------------------------- recipe, data, disk, bytes


def test_t13_a_changed_rate_needs_a_flag_and_is_then_really_used(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    training = trainings()
    assert training.interrupt(6, "--quiet") == 143
    change = ("-s", "train.optimizer.lr=0.001", "--quiet")
    assert training.do(*change) == 4
    check_clear(training.error(), "train.optimizer.lr: 0.002 -> 0.001", "--accept-changes", "--fresh")
    step = newest_step(training)
    assert training.do(*change, "--accept-changes") == 0, training.said()
    rates = {record["step"]: record["lr"] for record in training.log() if "lr" in record}
    for record in undisturbed("reviews").log():
        if "lr" in record:
            wanted = record["lr"] * (1 if record["step"] <= step else 0.5)
            assert rates[record["step"]] == pytest.approx(wanted, rel=1e-9)


def test_d11_a_data_file_that_changed_since_the_interruption_is_refused(trainings: Make) -> None:
    training = trainings()
    assert training.interrupt(4, "--quiet") == 143
    before, step = training.lines(), newest_step(training)
    with (training.folder / "rows.csv").open("a") as file:
        file.write("bright and warm,yes\n")
    for _ in range(2):  # nor the second time, when the new data is prepared already
        assert training.do("--quiet") == 3
        check_clear(training.error(), "reviews", "a data file has changed", "--fresh")
    assert (training.lines(), newest_step(training)) == (before, step)
    assert training.do("--fresh", "--quiet", "-s", "train.steps=2") == 0, training.said()  # the fix that it names works
    assert (training.folder / "runs" / "reviews~1" / "log.jsonl").exists()


def test_t4_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_leads_to_the_same_end(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    training = trainings()
    assert training.interrupt(10, "--quiet") == 143
    newest = training.checkpoints()[-1]
    file = newest / "rank-0000.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert training.do("--quiet") == 0, training.said()  # quiet is about progress, not about damage
    assert f"checkpoint refused, another one is used: {file.relative_to(training.folder)}" in training.said()
    training.same_as(undisturbed("reviews"))


def test_t4_with_every_checkpoint_damaged_the_run_does_not_start_over_by_itself(trainings: Make) -> None:
    training = trainings()
    assert training.interrupt(8, "--quiet") == 143
    for path in training.checkpoints():
        os.truncate(path / "rank-0000.safetensors", 100)
    assert training.do("--quiet") == 4
    check_clear(training.error(), "checkpoints is good", "rank-0000.safetensors")


def test_t2_a_disk_that_is_full_is_told_with_path_and_bytes_and_the_last_checkpoint_stays_good(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    training = trainings()
    assert training.interrupt(5, "--quiet") == 143
    step = newest_step(training)
    assert training.do("--quiet", largest_file=20_000) == 5
    check_clear(training.error(), "checkpoints", "bytes needed", "bytes free", "ulimit -f")
    assert newest_step(training) == step
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed("reviews"))


def test_t5_a_run_that_diverges_stops_with_the_rows_and_keeps_finite_weights(trainings: Make) -> None:
    training = trainings(max_skipped=3)
    assert training.do("-s", "train.optimizer.lr=1e30", "-s", "train.clip_norm=null", "--quiet") == 2
    check_clear(training.error(), "not finite for 3 steps in a row", "rows", "train.optimizer.lr")
    records = training.log()
    assert [record["loss"] for record in records][-3:] == [None] * 3
    assert all(len(record["skipped_rows"]) == 16 or record["rows"] < 16 for record in records[-3:])
    assert all_finite(training)


def all_finite(training: Trainings) -> bool:
    files = list(training.run.glob("checkpoints/step-*/*.safetensors"))
    return all(tensor.isfinite().all() for file in files for tensor in load_tensors(file).values())


def test_t5_a_run_that_diverges_goes_on_as_its_message_advises_and_ends_well(trainings: Make) -> None:
    training = trainings()
    assert training.interrupt(10, "--quiet") == 143
    wild = ("-s", "train.optimizer.lr=1e39", "-s", "train.clip_norm=null", "--accept-changes", "--quiet")
    assert training.do(*wild) == 2
    check_clear(training.error(), "not finite", "the next start goes on from step", "lower train.optimizer.lr")
    assert "--accept-changes" in training.error()
    assert training.checkpoints()
    assert all_finite(training)
    assert training.do("--accept-changes", "--quiet") == 0, training.said()  # the recipe's own rate
    training_losses = [record["loss"] for record in training.log() if "loss" in record]
    validations = [record["validation"]["loss"] for record in training.log() if "validation" in record]
    assert all(0 < loss < 2 for loss in training_losses + validations)
    assert training.do(verb="verify") == 0, training.said()


# --------------------------------------------------------------------------------------------------------- data workers


def test_d9_t9_a_killed_data_worker_ends_the_run_with_a_clear_error_and_leaves_no_process(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    """A process of its own, so that it also has to come to its end as one; then the run goes on without workers."""
    training = trainings()
    command = [sys.executable, "-m", "dougong.cli", "train", "recipe.yaml", "--quiet", "-s", "train.workers=2"]
    with (training.folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(command, cwd=training.folder, env=ENVIRONMENT, stderr=errors, stdout=errors)
    assert training.wait_for_lines(process.pid, 4), training.said()
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    killed = time.monotonic()
    assert process.wait(60) == 5, training.said()
    assert time.monotonic() - killed < 20
    check_clear(training.error(), "train.workers = 2", "has died", "train.workers: 0")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed("reviews"))


def test_t7_d9_a_signal_to_the_whole_process_group_saves_too_and_leaves_no_process(
    trainings: Make, undisturbed: Callable[[str], Trainings]
) -> None:
    """As systemd, slurm and kill -TERM -PGID send it: the data workers get it as well."""
    training = trainings()
    for _ in range(2):
        pid = training.start("--quiet", "-s", "train.workers=2", group=True)
        assert training.wait_for_steps_taken(pid, 3), training.said()
        workers = children(pid)
        assert len(workers) == 2
        os.killpg(pid, signal.SIGTERM)
        assert training.wait(pid) == 143, training.said()
        assert newest_step(training) == training.log()[-1]["step"]
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert training.do("--quiet") == 0, training.said()
    training.same_as(undisturbed("reviews"))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_helpers_notice_a_log_with_a_gap(trainings: Make) -> None:
    """The check must be able to fail."""
    training = trainings()
    training.run.mkdir(parents=True)
    (training.run / "log.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 4)))
    with pytest.raises(AssertionError):
        training.log()
