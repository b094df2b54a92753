from __future__ import annotations

import numpy as np
import pytest
import torch

from dougong.data.ordering import uniform
from dougong.layers.masking import hide

MASK, VOCABULARY = 99, 100


def hidden_of(share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 50, (40, 50_000), generator=generator)
    free = tokens > 0
    seen, hidden = hide(
        tokens, free, torch.rand((2, 40, 50_000), generator=generator), share=share, mask=MASK, vocabulary=VOCABULARY
    )
    return tokens, free, seen, hidden


@pytest.mark.parametrize("share", [0.15, 0.4, 0.9])
def test_of_the_share_that_is_hidden_most_is_covered_some_swapped_and_some_stays(share: float) -> None:
    tokens, free, seen, hidden = hidden_of(share)
    assert not (hidden & ~free).any()
    assert torch.equal(seen[~hidden], tokens[~hidden])
    count = int(hidden.sum())
    assert count / int(free.sum()) == pytest.approx(share, rel=0.03)
    covered = int((seen[hidden] == MASK).sum())
    stayed = int((seen[hidden] == tokens[hidden]).sum())
    assert covered / count == pytest.approx(0.8 + 0.1 / VOCABULARY, rel=0.02)
    assert stayed / count == pytest.approx(0.1 + 0.1 / VOCABULARY, rel=0.05)
    swapped = seen[hidden][(seen[hidden] != MASK) & (seen[hidden] != tokens[hidden])]
    counts = torch.bincount(swapped, minlength=VOCABULARY)[: VOCABULARY - 1].double()  # MASK itself may be drawn, too
    assert counts.min() > 0.5 * counts.mean()  # from the whole vocabulary, also what no text holds
    assert counts.max() < 1.6 * counts.mean()


def test_draws_of_places_are_uniform_and_those_of_two_keys_have_nothing_in_common() -> None:
    first, second = (uniform(np.arange(200_000), key) for key in range(2))
    for draws in (first, second):
        assert draws.dtype == np.float32
        assert 0 <= draws.min() < draws.max() < 1
        assert np.histogram(draws, 10, (0, 1))[0] / 20_000 == pytest.approx(np.ones(10), rel=0.03)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.01
    assert uniform(np.array([7, 3]), 0).tolist() == first[[7, 3]].tolist()  # a function of the place alone
