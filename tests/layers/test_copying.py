"""Written or copied: the mixture beside one that is computed token by token."""

from __future__ import annotations

import math

import pytest
import torch

from dougong.layers.attention import Readers
from dougong.layers.copying import Copier, copied_shares, mixed
from dougong.layers.features import Features
from dougong.model import initialize

WIDTH, WORDS = 6, 5


def copier() -> Copier:
    made = Copier(WIDTH)
    initialize(made, 0)
    torch.nn.init.normal_(made.gate)
    return made.double()


def texts() -> tuple[Features, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    return Features(torch.randn(3, 4, WIDTH, dtype=torch.float64), mask), torch.randint(0, WORDS, (3, 4))


def reference(made: Copier, h: torch.Tensor, logits: torch.Tensor, read: Features, tokens: torch.Tensor, row: int):
    """As See et al. have it, for one place of one row: probabilities of all words."""
    gate = 1 / (1 + math.exp(-float(h @ made.gate)))
    probabilities = [(1 - gate) * float(each) for each in logits.softmax(-1)]
    places = [place for place in range(4) if read.mask[row, place]]
    scores = [float(made.query(h) @ made.key(read.values[row, place])) / math.sqrt(WIDTH) for place in places]
    total = sum(math.exp(score) for score in scores)
    for place, score in zip(places, scores, strict=True):
        probabilities[int(tokens[row, place])] += gate * math.exp(score) / total
    return torch.tensor(probabilities, dtype=torch.float64)


def test_the_mixture_is_that_of_the_paper() -> None:
    made, (read, tokens) = copier(), texts()
    h, logits = torch.randn(3, WIDTH, dtype=torch.float64), torch.randn(3, WORDS, dtype=torch.float64)
    with torch.no_grad():
        found = made.log_probabilities(h, logits, made.source(read, tokens), None).exp()
        for row in range(2):
            torch.testing.assert_close(
                found[row], reference(made, h[row], logits[row], read, tokens, row), rtol=1e-5, atol=1e-6
            )
    assert found[:2].sum(1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert found[2].sum() < 1  # of nothing nothing is copied


def test_the_nats_of_targets_are_those_of_the_whole_mixture_and_have_gradients() -> None:
    made, (read, tokens) = copier(), texts()
    h, targets = (
        torch.randn(3, 2, WIDTH, dtype=torch.float64, requires_grad=True),
        torch.tensor([[0, 1], [2, 3], [4, 0]]),
    )
    logits = torch.randn(3, 2, WORDS, dtype=torch.float64)
    source = made.source(read, tokens)
    shares, gate = made(h, source)
    written = logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    nats = -mixed(written, copied_shares(shares, tokens, targets), gate)
    for place in range(2):
        whole = made.log_probabilities(h[:, place], logits[:, place], source, None)
        torch.testing.assert_close(nats[:, place], -whole.gather(1, targets[:, place, None])[:, 0])
    nats.sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()  # also where a target stands nowhere in the text, and where there is no text


def test_rows_of_one_text_copy_from_it_as_each_would_alone() -> None:
    made, (read, tokens) = copier(), texts()
    rows = torch.tensor([0, 0, 1])
    readers, kept = Readers.one_each(3, torch.device("cpu")).choose(rows)
    assert kept is not None
    h, logits = torch.randn(3, WIDTH, dtype=torch.float64), torch.randn(3, WORDS, dtype=torch.float64)
    source = made.source(read, tokens)
    with torch.no_grad():
        together = made.log_probabilities(h, logits, source[kept], readers)
        torch.testing.assert_close(together, made.log_probabilities(h, logits, source[rows], None))
