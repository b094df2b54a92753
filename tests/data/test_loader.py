"""Which rows stand in which batch is a function of (seed, epoch, index): the same for workers, ranks and resumed runs."""

from __future__ import annotations

import math
import os
import pickle
import signal
from collections.abc import Sequence
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.core.errors import ArtefactError, MachineError
from dougong.data.columns import Ragged
from dougong.data.loader import (
    POOL,
    STOPPING,
    Batch,
    Loader,
    Plan,
    Position,
    RowPlan,
    WindowPlan,
    collate,
    once,
    padding,
)
from dougong.data.shards import Split, write_shard
from tests.clear_error import clear_error

END = 0
LIMITS = {"t.tokens": 64}


class Rows(Split):
    """A split in memory: token i of the stream is i + 1, so that every value says where it stands."""

    def __init__(self, lengths: Sequence[int], other: Sequence[int] | None = None):
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        columns = {
            "t.tokens": Ragged(np.arange(1, offsets[-1] + 1), offsets),
            "n.value": np.arange(len(lengths), dtype=np.float32),
        }
        if other is not None:
            columns["u.tokens"] = Ragged.of([np.ones(length, dtype=np.int64) for length in other], np.int64)
        super().__init__("train", [Path("memory")], [len(lengths)])
        self.__dict__["shards"] = [columns]


def lognormal(rows: int, seed: int = 0) -> list[int]:
    """Lengths as of reviews: mean 75 tokens."""
    lengths = np.random.default_rng(seed).lognormal(math.log(75) - 0.32, 0.8, rows)
    return np.clip(lengths, 1, 512).astype(int).tolist()


def epoch_of(plan: Plan, epoch: int = 0) -> list[list[int]]:
    return [plan.rows(epoch, index).tolist() for index in range(plan.batches(epoch))]


def plan_of(lengths: Sequence[int], **options: int | bool | None) -> RowPlan:
    return RowPlan(Rows(lengths), limits=LIMITS, **options)  # type: ignore[arg-type]


BATCHING = st.one_of(
    st.fixed_dictionaries({"batch_rows": st.integers(1, 40)}),
    st.fixed_dictionaries({"batch_tokens": st.integers(1, 2000)}),
)


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=300),
    batching=BATCHING,
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
@settings(max_examples=150)
def test_every_row_stands_in_an_epoch_exactly_once(
    lengths: list[int], batching: dict[str, int], epoch: int, shuffle: bool
) -> None:
    batches = epoch_of(plan_of(lengths, shuffle=shuffle, seed=3, **batching), epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(batches)
    if "batch_rows" in batching:
        assert [len(batch) for batch in batches].count(batching["batch_rows"]) >= len(batches) - 1


def test_every_row_once_also_over_many_pools() -> None:
    for batching in ({"batch_rows": 3}, {"batch_tokens": 130}):
        plan = plan_of(lognormal(3 * POOL * 5 + 7), **batching)
        assert sorted(sum(epoch_of(plan, 1), [])) == list(range(3 * POOL * 5 + 7))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, again = (epoch_of(plan_of([5] * 200, batch_rows=8, seed=1)) for _ in range(2))
    assert first == again
    assert first != epoch_of(plan_of([5] * 200, batch_rows=8, seed=1), 1)
    assert first != epoch_of(plan_of([5] * 200, batch_rows=8, seed=2))
    assert sum(epoch_of(plan_of([5] * 200, batch_rows=8, shuffle=False)), []) == list(range(200))


@given(
    lengths=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=1, max_size=200),
    most=st.integers(1, 1500),
    two=st.booleans(),
)
@settings(max_examples=150)
def test_batch_tokens_is_never_exceeded_with_padding_unless_by_one_row_alone(
    lengths: list[tuple[int, int]], most: int, two: bool
) -> None:
    split = Rows([a for a, _ in lengths], [b for _, b in lengths] if two else None)
    limits = LIMITS | ({"u.tokens": 32} if two else {})
    plan = RowPlan(split, limits=limits, batch_tokens=most)
    for batch in once(plan):
        size = sum(batch[name].numel() for name in limits)
        assert size <= most or len(batch["row"]) == 1


def test_length_bucketing_wastes_at_most_five_per_cent() -> None:
    lengths = lognormal(2400)
    assert 65 < np.mean(lengths) < 85
    limits = {"t.tokens": 512}
    for options in ({"batch_rows": 16}, {"batch_rows": 32}, {"batch_tokens": 4096}):
        assert padding(RowPlan(Rows(lengths), limits=limits, **options)) <= 0.05, options  # type: ignore[arg-type]
    unsorted = RowPlan(Rows(lengths), limits={}, batch_rows=32)
    longest = [max(lengths[row] for row in batch) for batch in epoch_of(unsorted)]
    assert 1 - sum(lengths) / (32 * sum(longest)) > 0.4  # what it would waste otherwise


def test_short_and_long_batches_come_mixed() -> None:
    plan = plan_of(lognormal(2000), batch_rows=16)
    means = [np.mean([plan.split.lengths("t.tokens")[row] for row in batch]) for batch in epoch_of(plan)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


def test_most_takes_evenly_spread_rows() -> None:
    plan = plan_of([5] * 1000, batch_rows=16, shuffle=False, most=100)
    assert sum(epoch_of(plan), []) == list(range(0, 1000, 10))
    assert sum(epoch_of(plan_of([5] * 50, batch_rows=16, shuffle=False, most=100)), []) == list(range(50))


# ------------------------------------------------------------------------------------------------------------- collate


def test_collate_pads_cuts_and_tells_lengths() -> None:
    tokens = Ragged.of([np.array([1, 2, 3]), np.array([4]), np.array([5, 6, 7, 8, 9])], np.uint16)
    batch = collate({"t.tokens": tokens, "n.value": np.float32([1, 2, 3])}, np.array([7, 8, 9]), {"t.tokens": 4})
    assert batch["t.tokens"].tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 7, 8]]
    assert batch["t.tokens.length"].tolist() == [3, 1, 4]
    assert batch["row"].tolist() == [7, 8, 9]
    assert batch["t.tokens"].dtype == torch.int64


def test_collate_pads_rows_of_vectors_and_keeps_what_is_no_whole_number() -> None:
    boxes = Ragged(np.arange(12, dtype=np.float32).reshape(3, 4), np.array([0, 2, 2, 3]))
    batch = collate({"b.boxes": boxes}, np.arange(3), {})
    assert batch["b.boxes"].dtype == torch.float32
    assert batch["b.boxes"].tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0] * 4] * 2, [[8, 9, 10, 11], [0] * 4]]
    assert batch["b.boxes.length"].tolist() == [2, 0, 1]


def test_collate_copies_what_is_mapped_read_only(tmp_path: Path) -> None:
    count = write_shard(tmp_path / "a.arrow", {"n.value": np.float32([1, 2, 3])})
    plan = RowPlan(Split("train", [tmp_path / "a.arrow"], [count]), limits={}, batch_rows=3, shuffle=False)
    batch = plan.collate(plan.rows(0, 0), 0)
    batch["n.value"] += 1
    assert plan.collate(plan.rows(0, 0), 0)["n.value"].tolist() == [1, 2, 3]


# -------------------------------------------------------------------------------------------------------------- loader


def stored(folder: Path, lengths: Sequence[int]) -> Split:
    """The same rows in two shards, which worker processes map themselves."""
    half = len(lengths) // 2
    parts = [lengths[:half], lengths[half:]]
    paths = [folder / f"part-{index}.arrow" for index in range(2)]
    for path, part in zip(paths, parts, strict=True):
        write_shard(path, Rows(part).shards[0])
    return Split("train", paths, [len(part) for part in parts])


def plans(split: Split) -> list[Plan]:
    return [
        RowPlan(split, limits=LIMITS, batch_rows=7, seed=5),
        RowPlan(split, limits=LIMITS, batch_tokens=300, seed=5),
        WindowPlan(split, "t", context=16, batch_rows=4, end=END, seed=5),
    ]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("which", range(3))
def test_batches_are_the_same_with_and_without_workers_and_draw_no_random_number(tmp_path: Path, which: int) -> None:
    plan = plans(stored(tmp_path, lognormal(60)))[which]
    start = Position(0, max(plan.batches(0) - 2, 0))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    inline, parallel = (
        list(islice(Loader(plan, micro_batch=3, workers=workers).batches(start), 6)) for workers in (0, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)  # or a resumed run would augment in another way
    assert [position for position, _ in inline] == [position for position, _ in parallel]
    assert all(same(a, b) for (_, a), (_, b) in zip(inline, parallel, strict=True))


def test_t7_d9_signals_to_the_whole_group_do_not_end_the_workers_and_closing_the_loader_does(tmp_path: Path) -> None:
    plan = plans(stored(tmp_path, lognormal(60)))[0]
    batches = Loader(plan, workers=2).batches(Position())
    first = next(batches)
    workers = active_children()
    assert len(workers) == 2
    for number in STOPPING:  # at once: they have hardly begun
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, number)
    found = [first, *islice(batches, 5)]
    assert all(worker.is_alive() for worker in workers)
    wanted = list(islice(Loader(plan).batches(Position()), 6))
    assert all(same(a, b) for (_, a), (_, b) in zip(found, wanted, strict=True))
    batches.close()
    assert not any(worker.is_alive() for worker in workers)
    assert not set(STOPPING) & signal.pthread_sigmask(signal.SIG_BLOCK, [])  # this process gets them as before


@pytest.mark.parametrize("workers", [0, 2])
def test_d11_a_damaged_shard_is_named_the_same_with_and_without_workers(tmp_path: Path, workers: int) -> None:
    split = stored(tmp_path, lognormal(60))
    batches = Loader(plans(split)[0], workers=workers).batches(Position())
    next(batches)
    (tmp_path / "other").write_bytes(split.paths[1].read_bytes())
    (tmp_path / "other").replace(split.paths[1])
    with clear_error(str(split.paths[1]), "it changed while it was read", "prepared again", error=ArtefactError):
        list(islice(batches, 40))
    assert not active_children()


class Faulty(RowPlan):
    """A plan with a bug: its reader raises what a pipe that breaks raises, too."""

    def collate(self, rows: np.ndarray, epoch: int = 0) -> Batch:
        raise OSError("the bug")


def test_what_a_reader_raises_in_a_worker_is_no_death_and_is_told_with_its_place(tmp_path: Path) -> None:
    plan = Faulty(stored(tmp_path, lognormal(60)), limits=LIMITS, batch_rows=7)
    with pytest.raises(RuntimeError, match=r"(?s)^OSError: the bug\n.*in collate") as told:
        next(Loader(plan, workers=1).batches(Position()))
    assert "died" not in str(told.value)
    assert not active_children()


def test_d9_a_worker_that_dies_is_told_with_what_to_do(tmp_path: Path) -> None:
    batches = Loader(plans(stored(tmp_path, lognormal(60)))[0], workers=1).batches(Position())
    next(batches)
    (worker,) = active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with clear_error("train.workers = 1", "has died", "train.workers: 0", error=MachineError):
        list(islice(batches, 40))
    assert not active_children()


@pytest.mark.nightly
def test_d9_a_worker_that_hangs_is_ended_too(tmp_path: Path) -> None:
    batches = Loader(plans(stored(tmp_path, lognormal(60)))[0], workers=1).batches(Position())
    next(batches)
    (worker,) = active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    batches.close()
    worker.join(5)
    assert not worker.is_alive()


@pytest.mark.parametrize("which", range(3))
def test_reading_goes_on_exactly_from_any_position(tmp_path: Path, which: int) -> None:
    plan = plans(stored(tmp_path, lognormal(60)))[which]
    whole = list(islice(Loader(plan).batches(Position()), 3 * plan.batches(0)))
    for number, (position, _) in enumerate(whole[:-2]):
        fresh = Loader(plans(stored(tmp_path, lognormal(60)))[which])
        (first, batches), (second, _) = islice(fresh.batches(position), 2)
        assert first == whole[number + 1][0]
        assert second == whole[number + 2][0]
        assert same(batches, whole[number + 1][1])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_the_rows_of_the_same_batches(ranks: int) -> None:
    plan = plan_of(lognormal(200), batch_rows=16)
    for index in range(plan.batches(0)):
        rows = plan.rows(0, index).tolist()
        shares = [
            [int(row) for batch in Loader(plan, rank=rank, ranks=ranks).load(0, index) for row in batch["row"]]
            for rank in range(ranks)
        ]
        assert sorted(sum(shares, [])) == sorted(rows)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(rows=st.integers(1, 50), micro=st.integers(1, 60), accumulate=st.integers(1, 8))
@settings(max_examples=60)
def test_micro_batches_are_the_batch_in_pieces(rows: int, micro: int, accumulate: int) -> None:
    plan = plan_of([5] * rows, batch_rows=rows)
    pieces = Loader(plan, micro_batch=micro).load(0, 0)
    assert [int(row) for piece in pieces for row in piece["row"]] == plan.rows(0, 0).tolist()
    assert all(len(piece["row"]) <= micro for piece in pieces)
    shares = Loader(plan, accumulate=accumulate).load(0, 0)
    assert [int(row) for piece in shares for row in piece["row"]] == plan.rows(0, 0).tolist()
    assert len(shares) <= accumulate


def test_plans_travel_to_another_process_without_their_data(tmp_path: Path) -> None:
    for plan in plans(stored(tmp_path, lognormal(3000))):
        plan.collate(plan.rows(0, 0), 0)
        sent = pickle.dumps(plan)
        assert len(sent) < 3000, type(plan).__name__
        again: Plan = pickle.loads(sent)
        assert same([again.collate(again.rows(0, 1), 0)], [plan.collate(plan.rows(0, 1), 0)])


# ------------------------------------------------------------------------------------------------------------- windows

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=30)


def windows_of(plan: WindowPlan, epoch: int = 0) -> list[tuple[int, list[int], int, int]]:
    """(start, real tokens, leading ones to skip, token before) of every window of an epoch, in the order of the stream."""
    found = []
    for batch in once(plan, epoch):
        for row in range(len(batch["row"])):
            length = int(batch["t.tokens.length"][row])
            tokens = batch["t.tokens"][row]
            assert (tokens[length:] == 0).all()
            values = [int(batch[f"t.{key}"][row]) for key in ("start", "skip", "before")]
            found.append((values[0], tokens[:length].tolist(), values[1], values[2]))
    return sorted(found)


def check_windows(plan: WindowPlan, epoch: int = 0) -> None:
    """Token i of the stream is i + 1: every window is a piece of it, and knows the token before."""
    for start, tokens, _, before in windows_of(plan, epoch):
        assert tokens == list(range(start + 1, start + 1 + len(tokens)))
        assert before == (start or END)


@given(lengths=LENGTHS, context=st.integers(1, 40), batch=st.integers(1, 5), epoch=st.integers(0, 3))
@settings(max_examples=150)
def test_training_windows_cover_the_stream_but_for_its_ends(
    lengths: list[int], context: int, batch: int, epoch: int
) -> None:
    plan = WindowPlan(Rows(lengths), "t", context=context, batch_rows=batch, end=END, seed=1)
    check_windows(plan, epoch)
    seen = [token for _, tokens, _, _ in windows_of(plan, epoch) for token in tokens]
    total = sum(lengths)
    assert seen == list(range(seen[0], seen[0] + len(seen)))  # end to end, none twice
    assert len(seen) > total - 2 * min(context, total)
    assert all(len(tokens) == min(context, total) for _, tokens, _, _ in windows_of(plan, epoch))


@given(lengths=LENGTHS, context=st.integers(1, 40), epoch=st.integers(0, 2), shuffle=st.booleans())
@settings(max_examples=60)
def test_t5_the_rows_of_a_window_are_the_documents_that_it_was_cut_from(
    lengths: list[int], context: int, epoch: int, shuffle: bool
) -> None:
    plan = WindowPlan(Rows(lengths), "t", context=context, batch_rows=3, end=END, seed=1, shuffle=shuffle)
    owner = np.repeat(np.arange(len(lengths)), lengths)  # of token i + 1
    for batch in once(plan, epoch):
        tokens = batch["t.tokens"].numpy()
        assert plan.row_ids(batch) == np.unique(owner[tokens[tokens > 0] - 1]).tolist()


@given(lengths=LENGTHS, context=st.integers(1, 40), epoch=st.integers(0, 2), shuffle=st.booleans())
@settings(max_examples=60)
def test_with_boundaries_each_token_says_which_document_it_is_of(
    lengths: list[int], context: int, epoch: int, shuffle: bool
) -> None:
    plan = WindowPlan(
        Rows(lengths), "t", context=context, batch_rows=3, end=END, seed=1, shuffle=shuffle, boundaries=True
    )
    owner = np.repeat(np.arange(len(lengths)), lengths)  # of token i + 1
    for batch in once(plan, epoch):
        tokens, documents = batch["t.tokens"].numpy(), batch["t.document"].numpy()
        assert documents.shape == tokens.shape
        assert (documents[tokens > 0] == owner[tokens[tokens > 0] - 1]).all()
        for row, length in enumerate(batch["t.tokens.length"].tolist()):
            assert (documents[row, length:] == documents[row, length - 1]).all()  # what pads sees something real


def test_epochs_cut_the_stream_at_different_places() -> None:
    plan = WindowPlan(Rows([500]), "t", context=20, batch_rows=4, end=END)
    starts = {windows_of(plan, epoch)[0][0] for epoch in range(30)}
    assert len(starts) > 10
    covered = {token for epoch in range(40) for _, tokens, _, _ in windows_of(plan, epoch) for token in tokens}
    assert covered == set(range(1, 501))


@given(lengths=LENGTHS, context=st.integers(1, 40), batch=st.integers(1, 5))
@settings(max_examples=150)
def test_evaluation_counts_every_token_exactly_once_with_half_a_context_before_it(
    lengths: list[int], context: int, batch: int
) -> None:
    plan = WindowPlan(Rows(lengths), "t", context=context, batch_rows=batch, end=END, shuffle=False)
    check_windows(plan)
    windows = windows_of(plan)
    counted = [token for _, tokens, skip, _ in windows for token in tokens[skip:]]
    assert counted == list(range(1, sum(lengths) + 1))
    assert all(skip >= plan.context // 2 for start, _, skip, _ in windows if start)
    assert len(windows) == plan.windows(0)


@given(lengths=LENGTHS, context=st.integers(1, 12), most=st.integers(1, 20))
@settings(max_examples=150)
def test_most_takes_so_many_whole_windows_evenly_spread(lengths: list[int], context: int, most: int) -> None:
    plan = WindowPlan(Rows(lengths), "t", context=context, batch_rows=3, end=END, shuffle=False, most=most)
    total = sum(lengths)
    if most >= total // plan.context:
        return  # all of it is looked at
    check_windows(plan)
    windows = windows_of(plan)
    assert len(windows) == most
    assert all(len(tokens) == context and skip == 0 for _, tokens, skip, _ in windows)
    starts = [start for start, _, _, _ in windows]
    assert starts[0] == 0
    assert most == 1 or starts[-1] == total - context
    gaps = np.diff(starts)
    assert most == 1 or gaps.max() - gaps.min() <= 1
    assert most == 1 or gaps.min() >= context  # none twice
