"""Losses: sums that agree with torch, and a cross-entropy over large vocabularies that is exact in chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dougong.core.config import read
from dougong.layers import losses
from dougong.layers.losses import IGNORE, Loss, focal_sum, pinball_sum


def case(
    count: int = 7, width: int = 5, vocabulary: int = 11, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocabulary, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    targets[2] = losses.IGNORE
    return hidden, weight, bias, targets


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float) -> Tensor:
    logits = functional.linear(hidden, weight, bias)
    return functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100, None])
@pytest.mark.parametrize("rows_of_a_block", [1, 2, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunked_cross_entropy_gives_torchs_loss_and_gradients(
    chunk: int | None, rows_of_a_block: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, bias, targets = case()
    monkeypatch.setitem(losses.BLOCK_LOGITS, True, rows_of_a_block * len(weight))
    monkeypatch.setitem(losses.BLOCK_TOKENS, True, rows_of_a_block * 4)  # of 11
    ours = losses.linear_cross_entropy_sum(hidden, weight, bias, targets, smoothing, chunk=chunk)
    theirs = reference(hidden, weight, bias, targets, smoothing)
    torch.testing.assert_close(ours, theirs)
    variables = (hidden, weight, bias)
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad(ours * 0.3, variables), torch.autograd.grad(theirs * 0.3, variables), strict=True
    ):
        torch.testing.assert_close(ours_grad, theirs_grad)


def test_a_target_that_is_all_but_impossible_costs_what_it_costs() -> None:
    hidden = torch.eye(3).requires_grad_()
    weight = torch.diag(torch.full((3,), 500.0)).requires_grad_()  # the others' probability is e^-500, in float32 zero
    loss = losses.linear_cross_entropy_sum(hidden, weight, None, torch.tensor([0, 2, 2]))
    assert loss.item() == pytest.approx(500.0)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 0, 0], [0, 1, 0], [0, -1, 0]]


def test_a_second_way_back_through_chunked_cross_entropy_is_refused_and_not_wrong() -> None:
    hidden, weight, bias, targets = case()
    loss = losses.linear_cross_entropy_sum(hidden, weight, bias, targets)
    (2 * loss).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="there is only one way back"):
        (2 * loss).backward()


def test_chunked_cross_entropy_gives_gradients_only_where_they_are_wanted() -> None:
    hidden, weight, _, targets = case()
    loss = losses.linear_cross_entropy_sum(hidden.detach(), weight, None, targets, chunk=3)
    [grad] = torch.autograd.grad(loss, [weight])
    torch.testing.assert_close(grad, torch.autograd.grad(reference(hidden, weight, None, targets, 0.0), [weight])[0])
    with torch.no_grad():
        assert not losses.linear_cross_entropy_sum(hidden, weight, None, targets).requires_grad


def test_chunked_cross_entropy_of_no_targets_is_zero() -> None:
    hidden, weight, _, targets = case()
    loss = losses.linear_cross_entropy_sum(hidden[:0], weight, None, targets[:0])
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_chunked_cross_entropy_never_holds_all_logits() -> None:
    hidden, weight, _, targets = case(count=64, vocabulary=50, dtype=torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        losses.linear_cross_entropy_sum(hidden, weight, None, targets, chunk=4).backward()
    assert largest < 64 * 50 / 4


@pytest.mark.parametrize("tokens", [4, 2048])
def test_chunked_cross_entropy_under_autocast_multiplies_in_bf16_and_sums_in_float32(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(losses.BLOCK_TOKENS, True, tokens)
    hidden, weight, bias, targets = case(count=300, width=32, vocabulary=64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.linear_cross_entropy_sum(hidden, weight, bias, targets, chunk=64)
    assert loss.dtype == torch.float32
    grads = torch.autograd.grad(loss, (hidden, weight, bias))
    expected = torch.autograd.grad(reference(hidden, weight, bias, targets, 0.0), (hidden, weight, bias))
    for ours, theirs in zip(grads, expected, strict=True):
        assert ours.dtype == torch.float32
        assert functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


def test_cross_entropy_sum_ignores_smooths_and_weighs_as_torch_does() -> None:
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, -1, 3, 2, -1])
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    ours = losses.cross_entropy_sum(logits, targets, ignore=-1, label_smoothing=0.1, weights=weights)
    theirs = functional.cross_entropy(logits, targets, weights, ignore_index=-1, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(ours, theirs)


def test_the_other_sums_agree_with_torch() -> None:
    predicted, targets = torch.randn(5, 3), torch.randn(5, 3) * 3
    yes = targets > 0
    torch.testing.assert_close(losses.mse_sum(predicted, targets), ((predicted - targets) ** 2).sum())
    torch.testing.assert_close(losses.mae_sum(predicted, targets), (predicted - targets).abs().sum())
    huber = functional.huber_loss(predicted, targets, reduction="sum", delta=0.7)
    torch.testing.assert_close(losses.huber_sum(predicted, targets, delta=0.7), huber)
    binary = functional.binary_cross_entropy(predicted.sigmoid(), yes.float(), reduction="sum")
    torch.testing.assert_close(losses.binary_cross_entropy_sum(predicted, yes), binary)


def test_every_loss_is_float32_for_bf16_values() -> None:
    values, targets = torch.randn(4, 3).bfloat16(), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [
            losses.cross_entropy_sum(values, torch.tensor([0, 1, 2, 0])),
            losses.binary_cross_entropy_sum(values, targets > 0),
            losses.mse_sum(values, targets),
            losses.mae_sum(values, targets),
            losses.huber_sum(values, targets),
        ]
    assert {loss.dtype for loss in found} == {torch.float32}


def test_a_setting_that_the_kind_would_not_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.loss.label_smoothing = 0.1: expected none beside kind: mse"):
        Loss(kind="mse", label_smoothing=0.1)
    with pytest.raises(
        ValueError, match=r"train.loss.delta = 2.0: expected none beside kind: auto. Fix: use kind: huber"
    ):
        Loss(delta=2.0)
    assert read(Loss, {"kind": "huber", "delta": 2.0}) == (Loss(kind="huber", delta=2.0), [])


def test_smoothed_labels_ask_for_a_little_less_than_certainty() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    said = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)
    ours = losses.binary_cross_entropy_sum(logits, said, label_smoothing=0.2)
    softer = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert ours == pytest.approx(float(functional.binary_cross_entropy_with_logits(logits, softer, reduction="sum")))
    plain = functional.binary_cross_entropy_with_logits(logits, said.float(), reduction="sum")
    assert losses.binary_cross_entropy_sum(logits, said) == pytest.approx(float(plain))


# ------------------------------------------------------------------------------------------------------------ InfoNCE


def test_info_nce_is_the_loss_of_clip() -> None:
    """transformers' `image_text_contrastive_loss`, a mean over the batch where ours is a sum."""
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    generator = torch.Generator().manual_seed(0)
    first, second = (functional.normalize(torch.randn(6, 4, generator=generator), dim=1) for _ in range(2))
    temperature = torch.tensor([0.1])
    hashes = torch.arange(12).reshape(6, 2)
    expected = image_text_contrastive_loss((second @ first.T) / temperature)
    torch.testing.assert_close(losses.info_nce_sum(first @ second.T, temperature, hashes) / 6, expected)


@pytest.mark.parametrize("side", [0, 1])
def test_rows_with_an_equal_side_are_no_opposites_of_each_other(side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (functional.normalize(torch.randn(4, 3, generator=generator), dim=1) for _ in range(2))
    hashes = torch.arange(8).reshape(4, 2)
    hashes[2, side] = hashes[0, side]
    loss = losses.info_nce_sum(first @ second.T, torch.tensor([0.2]), hashes)
    logits = first @ second.T / 0.2
    expected = torch.tensor(0.0)
    for scores in (logits, logits.T):
        for row in range(4):
            rivals = [other for other in range(4) if {row, other} != {0, 2}]
            expected += scores[row, rivals].logsumexp(0) - scores[row, row]
    torch.testing.assert_close(loss, expected / 2)


def test_a_batch_of_copies_has_nothing_to_tell_apart_and_no_nan() -> None:
    first = torch.ones(3, 2, requires_grad=True)
    loss = losses.info_nce_sum(first @ first.T, torch.tensor([0.1]), torch.ones(3, 2, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert first.grad is not None
    assert (first.grad == 0).all()


def test_focal_loss_is_cross_entropy_by_the_share_that_is_not_yet_told() -> None:
    logits, targets = torch.randn(20, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 3, (20,))
    targets[4] = IGNORE
    own = logits.softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    wanted = -((1 - own) ** 1.5 * own.log())[targets != IGNORE].sum()
    assert torch.allclose(focal_sum(logits, targets, 1.5), wanted)
    assert torch.autograd.gradcheck(lambda x: focal_sum(x, targets, 1.5), (logits,))
    sure = torch.tensor([[1e4, 0.0]], requires_grad=True)
    focal_sum(sure, torch.tensor([0]), 0.5).backward()
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


def test_pinball_loss_is_least_at_the_quantile() -> None:
    targets, level = torch.arange(101.0), torch.tensor([0.2])
    costs = [float(pinball_sum(torch.full((101, 1), float(guess)), targets, level)) for guess in range(101)]
    assert min(range(101), key=costs.__getitem__) == 20


@pytest.mark.parametrize("keys", [{"gamma": 1.0}, {"kind": "mse", "gamma": 1.0}])
def test_gamma_is_of_the_focal_loss_alone(keys: dict[str, object]) -> None:
    _, problems = read(Loss, keys)
    assert "none beside kind" in str(problems[0])
