"""A sample of fixed size of numbers that stream by."""

from __future__ import annotations

import numpy as np

from dougong.data.ordering import mixed

KEY = 0x5A4  # not the key that rows are chosen by: samples of samples would be skewed


class Sample:
    """Keeps `size` of all the numbers it is shown, each as likely, and of the same numbers always the same.

    Every place in the stream has a number that looks random, and the smallest of those stay.
    """

    def __init__(self, size: int):
        self.size, self.seen = size, 0
        self.keys = np.zeros(0, dtype=np.uint64)
        self.values = np.zeros(0, dtype=np.float64)  # (at most size,) in the order of the stream

    def add(self, values: np.ndarray) -> None:  # (N,)
        keys = mixed(np.arange(self.seen, self.seen + len(values), dtype=np.uint64), KEY)
        self.seen += len(values)
        if len(self.keys) == self.size:
            small = keys < self.keys.max()
            keys, values = keys[small], values[small]
        self.keys, self.values = np.concatenate([self.keys, keys]), np.concatenate([self.values, values])
        if len(self.keys) > self.size:
            kept = np.sort(np.argpartition(self.keys, self.size)[: self.size])
            self.keys, self.values = self.keys[kept], self.values[kept]
