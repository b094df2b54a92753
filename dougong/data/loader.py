"""The loader: prepared rows -> batches. Which rows stand in which batch is a function of (seed, epoch, index) alone.

Rows of unlike length are sorted within pools of POOL batches before they are cut into batches, so that little is
padding; a language model reads windows of its flat token stream, where nothing is.
"""

# B batch, T time

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dougong.core.errors import DougongError, MachineError, shown
from dougong.data.columns import Columns, positions_of
from dougong.data.ordering import key_of, permuted
from dougong.data.shards import Split, Stream
from dougong.data.windows import Windows

Batch = dict[str, Tensor]
POOL = 128  # batches that are sorted by length together: with half as many 6 % of the sentiment data would be padding


@dataclass(frozen=True)
class Position:
    """The next batch to be read."""

    epoch: int = 0
    index: int = 0


class Plan(Protocol):
    """Which batches an epoch has, and what is in each."""

    @property
    def split(self) -> Split | Windows: ...  # where its rows are
    def batches(self, epoch: int) -> int: ...
    def rows(self, epoch: int, index: int) -> np.ndarray: ...
    def collate(self, rows: np.ndarray, epoch: int) -> Batch: ...
    def row_ids(self, batch: Batch) -> list[int]: ...  # the rows of the split that a collated batch was read from


class RowPlan:
    """Batches of whole rows: `batch_rows` each, or as many as fit into `batch_tokens` with their padding.

    `most` takes only so many rows, evenly spread over the split: enough to validate on. `strides` says of how many values of a
    ragged column one position is made, where that is not one (samples of sound): `batch_tokens` counts positions.
    """

    def __init__(
        self,
        split: Split | Windows,
        *,
        limits: dict[str, int],
        strides: dict[str, int] | None = None,
        batch_rows: int = 0,
        batch_tokens: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        most: int | None = None,
    ):
        assert bool(batch_rows) != bool(batch_tokens)
        self.size = min(split.rows, most or split.rows)
        self.split, self.limits, self.seed, self.shuffle = split, limits, seed, shuffle
        self.strides = strides or {}
        self.batch_rows, self.batch_tokens = batch_rows, batch_tokens
        self.pool_rows = POOL * (batch_rows or max(1, batch_tokens // 64))

    def batches(self, epoch: int) -> int:
        if self.batch_rows:
            return -(-self.size // self.batch_rows)
        return int(self._starts(epoch)[-1])

    def rows(self, epoch: int, index: int) -> np.ndarray:
        if self.batch_rows:
            pool, within = divmod(index, POOL)
        else:
            starts = self._starts(epoch)
            pool = int(np.searchsorted(starts, index, side="right")) - 1
            within = index - int(starts[pool])
        return self._pool(epoch, pool)[within]

    def collate(self, rows: np.ndarray, epoch: int) -> Batch:
        carried = [name for name in self.split.names if self.limits.get(name) != 0]
        return collate(self.split.take(rows, carried), self.split.numbers(rows), self.limits)

    def row_ids(self, batch: Batch) -> list[int]:
        return [int(row) for row in batch["row"]]

    @lru_cache(maxsize=2)  # noqa: B019 - a plan lives as long as its run
    def _starts(self, epoch: int) -> np.ndarray:
        """The first batch of each pool, and the end (only where batches are cut by tokens)."""
        pools = -(-self.size // self.pool_rows)
        return np.concatenate([[0], np.cumsum([len(self._pool(epoch, pool)) for pool in range(pools)])])

    @lru_cache(maxsize=4)  # noqa: B019
    def _pool(self, epoch: int, pool: int) -> list[np.ndarray]:
        """The batches of one pool: shuffled rows, sorted by length, cut, and shuffled again as batches."""
        rows = np.arange(pool * self.pool_rows, min((pool + 1) * self.pool_rows, self.size))
        if self.size < self.split.rows:
            rows = rows * self.split.rows // self.size
        if self.shuffle:
            rows = permuted(rows, self.split.rows, key_of(self.seed, epoch, 1))
        lengths = self._lengths(rows)  # (n, F)
        if self.limits:
            order = np.argsort(lengths.sum(1), kind="stable")
            rows, lengths = rows[order], lengths[order]
        cuts = self._cuts(lengths)
        batches = np.split(rows, cuts)
        if self.shuffle:
            order = permuted(np.arange(len(batches)), len(batches), key_of(self.seed, epoch, 2, pool))
            batches = [batches[i] for i in order]
        return batches

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        """(n, F): positions of each row that each ragged column makes, as far as a batch takes them."""
        lengths = [
            positions_of(np.minimum(self.split.lengths(name)[rows], limit), self.strides.get(name, 1))
            for name, limit in self.limits.items()
        ]
        return np.stack(lengths, axis=1) if lengths else np.ones((len(rows), 1), dtype=np.int64)

    def _cuts(self, lengths: np.ndarray) -> np.ndarray:
        if self.batch_rows:
            return np.arange(self.batch_rows, len(lengths), self.batch_rows)
        cuts, start = [], 0
        widest = [0] * lengths.shape[1]  # each column is padded to its own longest row
        for end, row in enumerate(lengths.tolist()):
            widest = [max(pair) for pair in zip(widest, row, strict=True)]
            if end > start and (end + 1 - start) * sum(widest) > self.batch_tokens:
                cuts.append(end)
                start, widest = end, row
        return np.array(cuts, dtype=np.int64)


class WindowPlan:
    """Batches of windows of `context` tokens from a stream.

    In training they lie end to end and each epoch cuts at another offset. For measuring they overlap by half, and only
    the new half counts: every token then has at least half a context before it. Without `overlap`, for what is told from
    both sides, they lie end to end and all of each counts. With `boundaries`, each tells which document its tokens are of.
    With `most`, only so many windows are
    taken, evenly spread and whole: enough to validate on.
    """

    def __init__(
        self,
        split: Split,
        field: str,
        *,
        context: int,
        batch_rows: int,
        end: int,
        seed: int = 0,
        shuffle: bool = True,
        most: int | None = None,
        overlap: bool = True,
        boundaries: bool = False,
    ):
        self.split, self.field, self.batch_rows, self.end, self.seed, self.shuffle = (
            split,
            field,
            batch_rows,
            end,
            seed,
            shuffle,
        )
        self.boundaries = boundaries
        self.context = min(context, len(self.stream))
        whole = max(1, len(self.stream) // max(self.context, 1))
        self.spread = most if most and most < whole and not shuffle else None
        whole_stride = shuffle or self.spread or not overlap
        self.stride = self.context if whole_stride else max(1, self.context // 2)

    @cached_property
    def stream(self) -> Stream:
        return self.split.stream(f"{self.field}.tokens")

    def __getstate__(self) -> dict[str, object]:  # a worker process maps the files itself
        return {key: value for key, value in self.__dict__.items() if key != "stream"}

    def windows(self, epoch: int) -> int:
        if self.spread:
            return self.spread
        if self.shuffle:
            return max(1, (len(self.stream) - self._offset(epoch)) // self.context)
        return 1 + max(0, -(-(len(self.stream) - self.context) // self.stride))

    def batches(self, epoch: int) -> int:
        return -(-self.windows(epoch) // self.batch_rows)

    def rows(self, epoch: int, index: int) -> np.ndarray:
        windows = self.windows(epoch)
        rows = np.arange(index * self.batch_rows, min((index + 1) * self.batch_rows, windows))
        return permuted(rows, windows, key_of(self.seed, epoch, 1)) if self.shuffle else rows

    def collate(self, rows: np.ndarray, epoch: int) -> Batch:
        starts = self._starts(rows, epoch)  # (B,)
        stops = np.minimum(starts + self.context, len(self.stream))
        tokens = np.zeros((len(rows), self.context), dtype=np.int64)
        before = np.full(len(rows), self.end, dtype=np.int64)
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            tokens[i, : stop - start] = self.stream.read(start, stop)
            if start:
                before[i] = self.stream.read(start - 1, start)[0]
        overlap = self.context - self.stride
        arrays = {"tokens": tokens, "tokens.length": stops - starts, "before": before, "start": starts}
        arrays["skip"] = np.where(starts > 0, overlap, 0)  # leading tokens that the window before has counted
        if self.boundaries:
            places = np.minimum(starts[:, None] + np.arange(self.context), stops[:, None] - 1)  # padding: as the last
            arrays["document"] = self.stream.document_of(places.ravel()).reshape(places.shape)  # (B, T)
        return {"row": torch.from_numpy(rows)} | {
            f"{self.field}.{key}": torch.from_numpy(value) for key, value in arrays.items()
        }

    def row_ids(self, batch: Batch) -> list[int]:
        """The documents of which a window holds a part: windows have no number that anybody could look up."""
        starts = batch[f"{self.field}.start"].cpu().numpy()  # (B,)
        lengths = batch[f"{self.field}.tokens.length"].cpu().numpy()
        first, last = self.stream.document_of(starts), self.stream.document_of(starts + np.maximum(lengths, 1) - 1)
        return sorted({row for pair in zip(first, last, strict=True) for row in range(pair[0], pair[1] + 1)})

    def _starts(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        if self.spread:
            return rows * (len(self.stream) - self.context) // max(self.spread - 1, 1)
        return rows * self.stride + self._offset(epoch)

    def _offset(self, epoch: int) -> int:
        slack = len(self.stream) - self.context
        return key_of(self.seed, epoch, 3) % min(self.context, slack + 1) if self.shuffle else 0


def collate(columns: Columns, rows: np.ndarray, limits: dict[str, int]) -> Batch:
    """Columns of some rows -> tensors; a ragged column is padded with zeros and comes with `<name>.length`.

    Whole numbers become int64, others stay as they are. One whose limit is 0 stays behind.
    """
    batch: Batch = {"row": torch.from_numpy(np.asarray(rows, dtype=np.int64))}
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            batch[name] = torch.from_numpy(np.array(column))  # a copy: the mapped file is read-only
            continue
        if limits.get(name) == 0:
            continue
        lengths = np.minimum(column.lengths, limits.get(name, np.iinfo(np.int64).max))
        kind = column.values.dtype
        # What is looked up in a table (ids of tokens) is int64 for torch; samples and measures stay as narrow as they are.
        kind = np.dtype(np.int64) if kind.kind in "iu" and kind != np.int16 else kind
        padded = np.zeros((len(column), int(lengths.max(initial=1)), *column.values.shape[1:]), dtype=kind)
        for i, length in enumerate(lengths):
            padded[i, :length] = column.row(i)[:length]
        batch[name], batch[f"{name}.length"] = torch.from_numpy(padded), torch.from_numpy(lengths)
    return batch


@dataclass(frozen=True)
class Failure:
    """What a reader raised in a worker process that is nobody's mistake but ours."""

    raised: str
    traceback: str


Read = list[Batch] | DougongError | Failure


class Loader(Dataset[Read]):
    """Endless batches from a position on, each as its micro-batches; one rank's share of the rows."""

    def __init__(
        self,
        plan: Plan,
        *,
        micro_batch: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
    ):
        self.plan, self.micro_batch, self.accumulate = plan, micro_batch, accumulate
        self.rank, self.ranks, self.workers = rank, ranks, workers

    def load(self, epoch: int, index: int) -> list[Batch]:
        """Batch `index` of an epoch, as its micro-batches."""
        return [self.plan.collate(piece, epoch) for piece in self.pieces(epoch, index)]

    def pieces(self, epoch: int, index: int) -> list[np.ndarray]:
        """A batch's rows, cut into pieces of `micro_batch` rows at most, or into `accumulate`."""
        rows = self.plan.rows(epoch, index)[self.rank :: self.ranks]
        size = self.micro_batch or -(-max(len(rows), 1) // self.accumulate)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def __getitem__(self, place: tuple[int, int]) -> Read:  # what a worker process is asked for
        try:
            return self.load(*place)
        except DougongError as error:  # raised here it would arrive with torch's traceback for its message
            return error
        except Exception as error:  # raised here it could not be told from the death of the process
            return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())

    def places(self, start: Position) -> Iterator[tuple[int, int]]:
        epoch, index = start.epoch, start.index
        while True:
            for i in range(index, self.plan.batches(epoch)):
                yield epoch, i
            epoch, index = epoch + 1, 0

    def batches(self, start: Position) -> Generator[tuple[Position, list[Batch]]]:
        """(position after this batch, its micro-batches), forever."""
        places = self.places(start)
        if not self.workers:
            for epoch, index in places:
                yield Position(epoch, index + 1), self.load(epoch, index)
        # The order of `places` is the order of arrival, however many workers fetch.
        fetched = DataLoader(
            self,
            batch_size=None,
            sampler=self.places(start),
            num_workers=self.workers,
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),  # it draws the workers' seed: not from the generator that training goes on with
        )
        with signals_held(), deaths_unheard():  # until a worker ignores them
            reader = iter(fetched)
        try:
            for epoch, index in places:
                yield Position(epoch, index + 1), self.next(reader)
        finally:
            reader._shutdown_workers()  # type: ignore[attr-defined]  # by itself only once no traceback holds it any more
            for worker in reader._workers:  # type: ignore[attr-defined]  # one that hangs: SIGTERM does not reach it
                worker.kill()

    def next(self, reader: Iterator[Read]) -> list[Batch]:
        """The next batch from the workers. What the reader raised there is raised here; what breaks else is a death."""
        try:
            batch = next(reader)
        except (RuntimeError, OSError, EOFError) as error:  # as it says, and as the pipe to one that dies breaks
            raise MachineError(
                f"train.workers = {self.workers}: a process that reads batches has died ({shown(str(error))}). The last "
                "checkpoint is good, the same command goes on from it. Fix: free memory, or set train.workers: 0."
            ) from error
        if isinstance(batch, DougongError):
            raise batch
        if isinstance(batch, Failure):
            raise RuntimeError(f"{batch.raised}\n\nin a process that reads batches:\n{batch.traceback}")
        return batch


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def ignore_signals(worker: int) -> None:
    """A stop meant for the whole process group is the training process's to answer: it needs its workers until then."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_held() -> Iterator[None]:
    """Signals to stop wait until after this block; processes started in it never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def deaths_unheard() -> Iterator[None]:
    """torch would have a worker's death raised wherever the program is at that moment, in the midst of a lock, say. It
    finds out by itself when it waits for that worker's batch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def once(plan: Plan, epoch: int = 0) -> Iterator[Batch]:
    """One pass over a split, for evaluation."""
    for index in range(plan.batches(epoch)):
        yield plan.collate(plan.rows(epoch, index), epoch)


def padding(plan: RowPlan, epoch: int = 0) -> float:
    """The share of a ragged batch's positions that are padding, over an epoch."""
    real = total = 0
    for batch in once(plan, epoch):
        for name in (name for name, limit in plan.limits.items() if limit):
            real += int(batch[f"{name}.length"].sum())
            total += batch[name].numel()
    return 1 - real / total if total else 0.0
