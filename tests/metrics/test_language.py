"""Metrics of language models are ratios of sums over documents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.text import perplexity

from dougong.metrics.language import BitsPerByte, Perplexity, TokenLoss


def value_of(metric, prediction, target):
    return float(metric.value(metric.statistics(prediction, target).sum(axis=0)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_perplexity_and_loss_equal_torchmetrics(seed):
    torch.manual_seed(seed)
    log_probabilities = torch.randn(4, 30, 11).log_softmax(dim=-1)  # (documents, tokens, vocabulary)
    tokens = torch.randint(0, 11, (4, 30))
    lengths = [30, 1, 17, 8]
    for document, length in enumerate(lengths):
        tokens[document, length:] = -100
    nats = torch.nn.functional.cross_entropy(
        log_probabilities.transpose(1, 2), tokens, ignore_index=-100, reduction="none"
    ).sum(dim=1)
    prediction, target = {"nats": nats.numpy()}, {"tokens": np.array(lengths), "bytes": np.array(lengths) * 3}
    reference = float(perplexity(log_probabilities, tokens, ignore_index=-100))
    assert value_of(Perplexity(), prediction, target) == pytest.approx(reference, rel=1e-5)
    assert value_of(TokenLoss(), prediction, target) == pytest.approx(np.log(reference), rel=1e-5)
    assert value_of(BitsPerByte(), prediction, target) == pytest.approx(np.log2(reference) / 3, rel=1e-5)


def test_guessing_among_256_bytes_costs_8_bits_a_byte():
    prediction = {"nats": np.array([10, 300]) * np.log(256)}
    target = {"tokens": np.array([10, 300]), "bytes": np.array([10, 300])}
    assert value_of(BitsPerByte(), prediction, target) == pytest.approx(8)
    assert value_of(Perplexity(), prediction, target) == pytest.approx(256)


def test_no_documents_have_no_perplexity():
    empty = {"nats": np.zeros(0)}, {"tokens": np.zeros(0), "bytes": np.zeros(0)}
    assert np.isnan(value_of(Perplexity(), *empty))


def test_a_hopeless_model_has_infinite_perplexity():
    assert (
        value_of(Perplexity(), {"nats": np.array([1e4])}, {"tokens": np.array([1]), "bytes": np.array([1])}) == np.inf
    )
