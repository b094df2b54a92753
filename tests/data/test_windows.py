"""Windows of long texts: together they hold all tokens, each answer whole in one, in an order that anybody can repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.data.columns import Columns, Ragged
from dougong.data.loader import Loader, Position, RowPlan, once
from dougong.data.windows import Held, Windows
from dougong.fields.span import Config


def held(sizes: list[int]) -> Held:
    """Rows of so many tokens, and the one that closes a text; each token is one character, and its number is its place."""
    columns: Columns = {
        "p.tokens": Ragged.of([np.arange(size + 1) for size in sizes], np.int64),
        "p.ends": Ragged.of([np.arange(1, size + 1) for size in sizes], np.int32),
        "p.text": Ragged.of([np.full(size, 97) for size in sizes], np.uint8),
        "q.tokens": Ragged.of([np.arange(3) for _ in sizes], np.int64),
        "a.place": np.arange(2 * len(sizes)).reshape(-1, 2),
    }
    return Held(columns, len(sizes))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(2, 12), st.data())
@settings(max_examples=200)
def test_windows_hold_all_tokens_and_each_answer_whole(sizes: list[int], length: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, length))
    stride = Config(max_answer=most).step(length)
    windows = Windows(held(sizes), "p", length=length, stride=stride)
    columns = windows.take(np.arange(windows.rows))
    tokens, first, ends = columns["p.tokens"], columns["p.first"], columns["p.ends"]
    assert isinstance(tokens, Ragged)
    assert isinstance(ends, Ragged)
    rows = windows.numbers(np.arange(windows.rows))
    assert (np.bincount(rows) == windows.of_row).all()
    for row, size in enumerate(sizes):
        mine = np.flatnonzero(rows == row)
        assert all(len(tokens.row(each)) <= length for each in mine)
        assert set(range(size)) <= {token for each in mine for token in tokens.row(each).tolist()}
        assert [int(first[each]) for each in mine] == [int(tokens.row(each)[0]) for each in mine]
        read = [set(ends.row(each).tolist()) for each in mine]
        for start in range(max(size - most + 1, 0)):
            assert any(set(range(start + 1, start + most + 1)) <= each for each in read)
        assert all((columns["a.place"][each] == [2 * row, 2 * row + 1]).all() for each in mine)  # type: ignore[index]


def test_a_window_says_where_its_first_token_begins_also_within_a_character() -> None:
    """Four bytes of one character between two of ASCII: the window that begins at the third byte begins before them."""
    columns: Columns = {
        "p.tokens": Ragged.of([np.arange(7)], np.int64),
        "p.ends": Ragged.of([np.array([1, 2, 2, 2, 2, 3])], np.int32),
    }
    windows = Windows(Held(columns, 1), "p", length=3, stride=3)
    assert np.asarray(windows.take(np.arange(2))["p.first"]).tolist() == [0, 1]


def test_of_only_so_many_rows_all_windows_are_read() -> None:
    windows = Windows(held([9, 30, 1, 14]), "p", length=6, stride=3, most=2)
    assert windows.of_row.tolist() == [2, 0, 1, 0]
    assert windows.numbers(np.arange(windows.rows)).tolist() == [0, 0, 2]


def plan(workers: int = 0) -> Loader:
    windows = Windows(held([5, 31, 0, 12, 22, 7]), "p", length=6, stride=3)
    rows = RowPlan(windows, limits={"p.tokens": 6, "p.ends": 6, "p.text": 0, "q.tokens": 4}, batch_rows=4, seed=3)
    return Loader(rows, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_a_function_of_seed_epoch_and_index(workers: int) -> None:
    stream = plan().batches(Position())
    found = [next(stream) for _ in range(12)]
    stream.close()
    position = found[6][0]
    again = plan(workers).batches(position)
    for expected, (at, batches) in zip(found[7:], again, strict=False):
        assert at == expected[0]
        for one, other in zip(expected[1], batches, strict=True):
            assert one.keys() == other.keys()
            assert all((one[key] == other[key]).all() for key in one)
    again.close()


def test_a_pass_reads_each_window_once_and_leaves_the_text_behind() -> None:
    rows: list[int] = []
    starts: list[tuple[int, int]] = []
    for batch in once(plan().plan):
        assert "p.text" not in batch
        rows += batch["row"].tolist()
        starts += zip(batch["row"].tolist(), batch["p.first"].tolist(), strict=True)
    assert np.bincount(rows).tolist() == [1, 10, 1, 3, 7, 2]
    assert len(set(starts)) == len(starts)
