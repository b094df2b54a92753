"""Assignment: each row a column of its own, so that the sum of what they cost is smallest. Exact."""

# N rows, M columns, N <= M

from __future__ import annotations

import numpy as np


def assign(costs: np.ndarray) -> np.ndarray:
    """(N, M) finite costs, N <= M -> (N,) the column of each row.

    Shortest augmenting paths (Jonker and Volgenant 1987; the form for rectangles is that of Crouse 2016): rows are added one
    by one, each by the cheapest way of moving others aside. N²·M steps, M of them at once.
    """
    rows, columns = costs.shape
    assert rows <= columns
    costs = costs.astype(np.float64)
    row_price, column_price = np.zeros(rows), np.zeros(columns)  # what keeps all reduced costs from falling below 0
    owner = np.full(columns, -1)  # row of each column
    column_of = np.full(rows, -1)
    for first in range(rows):
        shortest = np.full(columns, np.inf)  # of the ways from `first` to each column
        before = np.full(columns, -1)  # the row that the way comes from
        closed = np.zeros(columns, dtype=bool)
        visited = [first]
        row, length = first, 0.0
        while True:
            reach = length + costs[row] - row_price[row] - column_price
            better = ~closed & (reach < shortest)
            shortest[better], before[better] = reach[better], row
            column = int(np.argmin(np.where(closed, np.inf, shortest)))
            length = float(shortest[column])
            closed[column] = True
            if owner[column] < 0:
                break
            row = int(owner[column])
            visited.append(row)
        row_price[first] += length
        others = np.array(visited[1:], dtype=np.int64)
        row_price[others] += length - shortest[column_of[others]]
        column_price[closed] -= length - shortest[closed]
        while True:  # everybody on the way moves on by one
            row = int(before[column])
            owner[column], column_of[row], column = row, column, int(column_of[row])
            if row == first:
                break
    return column_of
