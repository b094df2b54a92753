from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.layers.norms import Normed, RMSNorm, make_norm


def test_rms_is_the_formula_and_has_no_bias() -> None:
    norm, x = make_norm("rms", 6, eps=1e-5), torch.randn(3, 6)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    assert [name for name, _ in norm.named_parameters()] == ["weight"]


def test_layer_norm_has_a_bias_unless_told_otherwise() -> None:
    norm = make_norm("layer", 6, eps=1e-12, bias=False)
    assert isinstance(norm, nn.LayerNorm)
    assert norm.bias is None
    assert norm.eps == 1e-12
    assert [name for name, _ in make_norm("layer", 6).named_parameters()] == ["weight", "bias"]


def test_layer_norm_in_bf16_sums_the_gradients_of_its_scale_and_shift_in_float32() -> None:
    torch.manual_seed(0)
    norm, exact = make_norm("layer", 8), nn.LayerNorm(8, eps=1e-6).double()
    x, gradient = torch.randn(3000, 8).bfloat16(), 1 + torch.randn(3000, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    y.backward(gradient)
    right = exact(x.double())
    right.backward(gradient.double())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), right, rtol=1e-2, atol=1e-2)
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(parameter.grad, exact.get_parameter(name).grad.float(), rtol=1e-4, atol=1e-3)  # type: ignore[union-attr]


def results(x: Tensor, weight: Tensor, gradient: Tensor, ours: bool) -> list[Tensor]:
    """What comes out, and the gradients of x and of the scale."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = Normed.apply(x, weight, 1e-6) if ours else F.rms_norm(x, weight.shape, weight, 1e-6)
    y.backward(gradient)
    assert x.grad is not None
    assert weight.grad is not None
    return [y.detach(), x.grad, weight.grad]


@pytest.mark.parametrize("turned", [False, True], ids=["straight", "turned"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_rms_in_training_equals_torch_s_in_double_to_rounding(dtype: torch.dtype, near: float, turned: bool) -> None:
    torch.manual_seed(0)
    x, gradient = (3 * torch.randn(5, 7, 2, 16).to(dtype) for _ in range(2))
    if turned:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    weight = torch.rand(16, dtype=torch.promote_types(dtype, torch.float32)) + 0.5
    exact = results(x.double(), weight.double(), gradient.double(), ours=False)
    found = results(x, weight, gradient, ours=True)
    assert [tensor.dtype for tensor in found] == [dtype, dtype, weight.dtype]
    for ours, right in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=near, atol=near * float(right.std()))
    # The gradient of the scale is summed in float32: bf16 would lose what many positions add.
    torch.testing.assert_close(found[2].double(), exact[2], rtol=1e-5, atol=1e-4)


def test_rms_passes_the_check_of_its_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: Normed.apply(x, weight, 1e-3), (x, weight))
    turned = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: Normed.apply(x.movedim(0, -1), weight, 1e-3), (turned, weight))


def test_rms_leaves_what_comes_in_and_the_gradient_alone_and_repeats_itself() -> None:
    torch.manual_seed(0)
    x, weight, gradient = torch.randn(9, 16), torch.rand(16), torch.randn(9, 16)
    given = [tensor.clone() for tensor in (x, weight, gradient)]
    once, again = (results(x, weight, gradient, ours=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((x, weight, gradient), given, strict=True))


def test_rms_under_autocast_follows_its_input_and_sums_in_float32() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(16, 1e-6), torch.randn(300, 16).bfloat16().requires_grad_()
    gradient = torch.randn(300, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
        y.backward(gradient)  # here, where products would be taken to bf16
    assert y.dtype == torch.bfloat16
    exact = results(x.double(), norm.weight.double(), gradient.double(), ours=False)
    assert norm.weight.grad is not None
    torch.testing.assert_close(norm.weight.grad.double(), exact[2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("eps", [1e-6, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_says_the_same_with_and_without_gradients(dtype: torch.dtype, eps: float | None) -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(16, eps), torch.randn(4, 16).to(dtype)
    with torch.no_grad():
        quiet = norm(x)
    torch.testing.assert_close(norm(x), quiet)
    assert norm(torch.zeros(0, 16)).shape == (0, 16)
