"""CTC: the loss and the beam search against all paths of small lattices; what the greedy path says."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from dougong.layers.ctc import beam_search, ctc_loss_sum, greedy, needed

BLANK = 2


def lattice(steps: int, tokens: int, seed: int, sharp: float = 2.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(steps, tokens)) * sharp
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def said(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """A path without repetitions and blanks."""
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def texts(lattice: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """The probability of every text: the sum over all paths that say it."""
    steps, tokens = lattice.shape
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(tokens), repeat=steps):
        found[said(path, blank)] += math.exp(sum(lattice[step, token] for step, token in enumerate(path)))
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("blank", [0, 2, 3])
def test_wide_beams_find_the_likeliest_text_of_all_paths(seed: int, blank: int) -> None:
    scores = lattice(5, 4, seed)
    every = texts(scores, blank)
    assert tuple(beam_search(scores, blank, beams=2_000)) == max(every, key=every.__getitem__)


def test_beams_find_what_the_greedy_path_misses() -> None:
    """Graves 2006, figure: the likeliest path is blanks, but more of the probability lies on paths that say something."""
    scores = np.log(np.array([[0.4, 0.6], [0.4, 0.6]]))  # token 0, blank 1
    assert greedy(scores, 1) == []
    assert beam_search(scores, 1, beams=4) == [0]


def test_narrow_beams_say_something_likely() -> None:
    better = 0
    for seed in range(20):
        scores = lattice(6, 4, seed, sharp=1.0)
        every = texts(scores, BLANK)
        better += every[tuple(beam_search(scores, BLANK, beams=3))] >= every[tuple(greedy(scores, BLANK))]
    assert better >= 19


@pytest.mark.parametrize(
    ("path", "text"), [([2, 2], []), ([0, 0, 2, 0], [0, 0]), ([0, 1, 1, 2], [0, 1]), ([], []), ([3], [3])]
)
def test_the_greedy_path_is_read_without_repetitions_and_blanks(path: list[int], text: list[int]) -> None:
    scores = np.full((len(path), 4), -9.0)
    scores[np.arange(len(path)), path] = 0.0
    assert greedy(scores, BLANK) == text
    assert beam_search(scores, BLANK, 4) == text


@pytest.mark.parametrize("target", [(0,), (0, 0), (1, 0, 3), ()])
def test_the_loss_is_over_all_paths_of_a_text(target: tuple[int, ...]) -> None:
    scores = lattice(5, 4, 7)
    right = -math.log(texts(scores, BLANK)[target])
    padded = torch.tensor([[*target, 0, 0, 0][:3]])
    found = ctc_loss_sum(torch.tensor(scores)[None], torch.tensor([5]), padded, torch.tensor([len(target)]), BLANK)
    assert float(found) == pytest.approx(right, abs=1e-4)


def test_the_loss_is_a_sum_over_rows_and_padding_adds_nothing() -> None:
    scores = torch.tensor(np.stack([lattice(6, 4, 1), lattice(6, 4, 2)]))
    targets, lengths = torch.tensor([[0, 1, 3], [1, 0, 0]]), torch.tensor([3, 1])
    both = ctc_loss_sum(scores, torch.tensor([6, 4]), targets, lengths, BLANK)
    first = ctc_loss_sum(scores[:1], torch.tensor([6]), targets[:1], lengths[:1], BLANK)
    second = ctc_loss_sum(scores[1:, :4], torch.tensor([4]), targets[1:], lengths[1:], BLANK)
    assert float(both) == pytest.approx(float(first + second), abs=1e-4)


def test_a_text_without_a_path_teaches_nothing_and_stays_finite() -> None:
    scores = torch.zeros(1, 2, 4, requires_grad=True)
    loss = ctc_loss_sum(scores, torch.tensor([2]), torch.tensor([[0, 0]]), torch.tensor([2]), BLANK)
    loss.backward()
    assert float(loss) == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_needed_counts_tokens_and_the_blanks_between_two_alike() -> None:
    rows = [[1, 2, 3], [], [1, 1, 1], [1], [1, 2, 2], [2, 2]]
    flat = np.array([token for row in rows for token in row])
    offsets = np.cumsum([0, *map(len, rows)])
    assert needed(flat, offsets).tolist() == [3, 0, 5, 1, 4, 3]
    assert needed(np.zeros(0, dtype=np.int64), np.array([0])).tolist() == []
    assert needed(np.zeros(0, dtype=np.int64), np.array([0, 0])).tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_a_text_has_a_path_exactly_where_needed_says_so(seed: int) -> None:
    text = np.random.default_rng(seed).integers(0, 2, 3)
    for steps in range(1, 6):
        possible = tuple(text.tolist()) in {said(path, BLANK) for path in itertools.product(range(3), repeat=steps)}
        assert possible == (needed(text, np.array([0, 3]))[0] <= steps)
