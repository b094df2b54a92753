from __future__ import annotations

import numpy as np
import pytest

from dougong.data.sampling import Sample


@pytest.mark.parametrize("cuts", [[], [1], [3, 3, 400], list(range(0, 5_000, 7))])
def test_a_sample_is_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    whole, pieces = Sample(100), Sample(100)
    whole.add(np.arange(5_000.0))
    for piece in np.split(np.arange(5_000.0), cuts):
        pieces.add(piece)
    assert len(whole.values) == 100
    assert whole.values.tolist() == pieces.values.tolist() == sorted(pieces.values)


def test_each_value_is_as_likely() -> None:
    sample = Sample(10_000)
    for piece in np.split(np.arange(1_000_000.0), 100):
        sample.add(piece)
    tenths = np.histogram(sample.values, 10)[0]
    assert ((tenths > 850) & (tenths < 1_150)).all()  # 1,000 with a standard deviation of 30


def test_few_values_are_all_kept() -> None:
    sample = Sample(10)
    sample.add(np.arange(4.0))
    sample.add(np.zeros(0))
    assert sample.values.tolist() == [0, 1, 2, 3]
