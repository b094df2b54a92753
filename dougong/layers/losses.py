"""Losses, each the SUM over targets: the loop divides by the targets of the whole step, however it is cut."""

# N targets, B rows, C classes, D width, E dim of an embedding, V vocabulary

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dougong.core.config import Count, Fraction, Positive, config
from dougong.core.errors import bad_field
from dougong.layers.gradients import gradient_of, is_added_in_place

IGNORE = -100
SAMPLED = ("sampled_softmax", "bpr", "gbce")  # which tell what is right from some of what is wrong


@config
class Loss:
    """What is made small. `auto` is cross-entropy for what is chosen or written, mean squared error for numbers."""

    kind: Literal["auto", "cross_entropy", "focal", "mse", "mae", "huber", "sampled_softmax", "bpr", "gbce"] = "auto"
    label_smoothing: Fraction = 0.0  # share of the probability spread over all classes (Szegedy et al. 2016)
    gamma: Positive = 2.0  # focal: the larger, the less a target counts that is told already
    delta: Positive = 1.0  # huber: squared below this error, linear above, in standard deviations of the training rows
    negatives: Count = (
        256  # sampled_softmax, bpr, gbce: items that are drawn for a step, which each right one is told from
    )
    calibration: Annotated[float, Field(ge=0, le=1)] = (
        0.75  # gbce: 0 is plain binary cross-entropy, 1 makes up for the drawing
    )

    def __post_init__(self) -> None:
        if self.negatives != 256 and self.kind not in SAMPLED:
            fix = f"use kind: {SAMPLED[0]}, or remove it"
            raise bad_field("train.loss.negatives", self.negatives, f"none beside kind: {self.kind}", fix)
        if self.calibration != 0.75 and self.kind != "gbce":
            fix = "use kind: gbce, or remove it"
            raise bad_field("train.loss.calibration", self.calibration, f"none beside kind: {self.kind}", fix)
        if self.label_smoothing and self.kind in ("mse", "mae", "huber", *SAMPLED):
            raise bad_field(
                "train.loss.label_smoothing", self.label_smoothing, f"none beside kind: {self.kind}", "remove it"
            )
        if self.gamma != 2.0 and self.kind != "focal":
            raise bad_field("train.loss.gamma", self.gamma, f"none beside kind: {self.kind}", "use kind: focal")
        if self.delta != 1.0 and self.kind != "huber":
            raise bad_field("train.loss.delta", self.delta, f"none beside kind: {self.kind}", "use kind: huber")


def cross_entropy_sum(
    logits: Tensor,  # (N, C)
    targets: Tensor,  # (N,) int64
    ignore: int = IGNORE,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,  # (C,) how much a target of each class counts
) -> Tensor:
    """Nats over all targets but those that equal `ignore`. For large vocabularies see `linear_cross_entropy_sum`."""
    return functional.cross_entropy(
        _wide(logits), targets, weights, ignore_index=ignore, reduction="sum", label_smoothing=label_smoothing
    )


def focal_sum(
    logits: Tensor,
    targets: Tensor,
    gamma: float,
    ignore: int = IGNORE,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of which each target counts by (1 - its probability)^gamma (Lin et al. 2017, arXiv:1708.02002)."""
    logits = _wide(logits)
    each = functional.cross_entropy(  # (N,)
        logits, targets, weights, ignore_index=ignore, reduction="none", label_smoothing=label_smoothing
    )
    own = logits.softmax(-1).gather(1, targets.clamp(min=0)[:, None]).squeeze(1)  # (N,)
    return ((1 - own).clamp(min=1e-6) ** gamma * each).sum()  # the root of 0 has no slope: gamma may be below 1


def pinball_sum(predicted: Tensor, targets: Tensor, levels: Tensor) -> Tensor:
    """(N, Q) quantiles of the levels (Q,): errors below and above a quantile weigh as its level says, mean over the levels.

    Koenker and Bassett 1978. The sum over targets is least where a share `level` of them lies below each quantile.
    """
    off = _wide(targets)[:, None] - _wide(predicted)  # (N, Q)
    return torch.maximum(levels * off, (levels - 1) * off).mean(1).sum()


def binary_cross_entropy_sum(logits: Tensor, indicators: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Nats over all labels of all rows, (N, C) each: every label is a yes or a no of its own, two classes to smooth."""
    logits = _wide(logits)
    targets = torch.lerp(
        indicators.to(logits.dtype), torch.tensor(0.5, device=logits.device).to(logits), label_smoothing
    )
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def sigmoid_focal_sum(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Nats of yes or no, (...) each, those that are told well already counted less (Lin et al. 2017, arXiv:1708.02002).

    Of very many answers nearly all are no: `alpha` is what a yes counts, 1 - `alpha` a no.
    """
    logits = _wide(logits)
    nats = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    likely = logits.sigmoid()
    wrong = likely + targets - 2 * likely * targets  # 1 - p of what is right
    return ((1 - alpha + (2 * alpha - 1) * targets) * wrong**gamma * nats).sum()


def mse_sum(predicted: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(_wide(predicted), _wide(targets), reduction="sum")


def mae_sum(predicted: Tensor, targets: Tensor) -> Tensor:
    return functional.l1_loss(_wide(predicted), _wide(targets), reduction="sum")


def huber_sum(predicted: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    """Half the square of errors up to `delta`, linear beyond (Huber 1964)."""
    return functional.huber_loss(_wide(predicted), _wide(targets), reduction="sum", delta=delta)


def info_nce_sum(scores: Tensor, temperature: Tensor, hashes: Tensor) -> Tensor:
    """Nats over all rows, both ways: (B, B) float32 scores of each with each, (B, 2) hashes of what they are of.

    van den Oord et al. 2018; the mean of both ways, as in CLIP. Rows of which either side is equal are no opposites of
    each other: a row's copy would have to be pushed away from where it must go.
    """
    logits = scores / temperature  # (B, B)
    equal = (hashes[:, None] == hashes[None]).any(2).fill_diagonal_(False)  # (B, B)
    logits = logits.masked_fill(equal, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy_sum(logits, own) + cross_entropy_sum(logits.T, own)) / 2


def sampled_softmax_sum(right: Tensor, drawn: Tensor, log_often: Tensor, hit: Tensor) -> Tensor:
    """Nats of scores (N,) that are right among (N, K) that were drawn, each log_often (K,) times in expectation.

    Bengio and Senécal 2008; the correction by the logarithm of how often an item is drawn as in Yi et al. 2019. Those
    drawn that are the right one itself (hit, (N, K)) are left out: what is summed up under the logarithm is then, in
    expectation, the sum over all items.
    """
    wrong = (_wide(drawn) - log_often).masked_fill(hit, -torch.inf)  # (N, K)
    right = _wide(right)
    return (torch.cat([right[:, None], wrong], dim=1).logsumexp(1) - right).sum()


def bpr_sum(right: Tensor, drawn: Tensor, hit: Tensor) -> Tensor:
    """Bayesian personalized ranking (Rendle et al. 2009, arXiv:1205.2618): (N,) right scores, each to lie above (N, K) others.

    Of each the mean over those that are wrong: `hit` (N, K) marks the others, which a user has chosen as well.
    """
    nats = functional.softplus(_wide(drawn) - _wide(right)[:, None]).masked_fill(hit, 0.0)
    return (nats.sum(1) / (~hit).sum(1).clamp(min=1)).sum()


def gbce_sum(right: Tensor, drawn: Tensor, hit: Tensor, share: float, calibration: float) -> Tensor:
    """Generalized binary cross-entropy (Petrov and Macdonald 2023, arXiv:2308.07192): a yes, and K times no.

    Who sees of the wrong items a `share` only thinks too well of the right ones: the yes counts that much less.
    """
    beta = share * (calibration * (1 - 1 / share) + 1 / share)
    wrong = functional.softplus(_wide(drawn)).masked_fill(hit, 0.0)
    return beta * functional.softplus(-_wide(right)).sum() + wrong.sum()


def linear_cross_entropy_sum(
    hidden: Tensor,  # (N, D)
    weight: Tensor,  # (V, D)
    bias: Tensor | None,  # (V,)
    targets: Tensor,  # (N,) int64
    label_smoothing: float = 0.0,
    ignore: int = IGNORE,
    chunk: int | None = None,
) -> Tensor:
    """`cross_entropy_sum(hidden @ weight.T + bias, targets)` that never holds the logits of more than `chunk` targets.

    The gradients are exact. They are computed with the loss, while a chunk's logits are at hand, those of the last chunk on the
    way back: nothing is computed twice, but there is only one way back through the result.
    """
    if chunk is None:
        chunk = max(CHUNK_ROWS, CHUNK_LOGITS[hidden.device.type == "cpu"] // len(weight))
        # Of a few more targets the logits take no more than the sum of two chunks' gradients would.
        sum_rows = weight.shape[1] * _sum_dtype(hidden).itemsize // _product_dtype(hidden).itemsize
        chunk = max(chunk, len(targets)) if len(targets) <= chunk + sum_rows else chunk
    return _LinearCrossEntropy.apply(
        hidden, weight, bias, targets, label_smoothing, ignore, chunk, torch.is_grad_enabled()
    )


# Whether on the CPU: the logits of one chunk, whose products run at full speed from CHUNK_ROWS on; of one block of it, which
# passes through the cache on its way to slopes; and how many tokens of the vocabulary a product has at a time, so that what it
# reads and writes stays there. Two threads with avx512_bf16, 1,024 targets of 50,257 × 768: logits 221 -> 192 ms, slopes by
# features and their sum 309 -> 209. 512 rows then take half as long; 1,024 hold 50 MB more logits, and 75 MB less where they are
# the only chunk: that needs no float32 sum.
CHUNK_LOGITS = {True: 1 << 22, False: 1 << 26}
BLOCK_LOGITS = {True: 1 << 18, False: 1 << 26}
BLOCK_TOKENS = {True: 2048, False: 1 << 26}
CHUNK_ROWS = 1024


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        smoothing: float,
        ignore: int,
        chunk: int,
        differentiable: bool,
    ) -> Tensor:
        device, dtype = hidden.device.type, _product_dtype(hidden)
        tokens = BLOCK_TOKENS[device == "cpu"]
        sums = _Sums([differentiable and needs for needs in ctx.needs_input_grad[:3]], tokens)
        total = torch.zeros((), dtype=_sum_dtype(hidden), device=hidden.device)
        with torch.autocast(device, enabled=False):
            # Cast a block at a time, in the cache: whole it would be the largest thing that a step holds beside the logits.
            matrix = weight.to(dtype) if len(weight) <= tokens else weight
            for start in range(0, max(len(targets), 1), chunk):
                some = hidden[start : start + chunk].to(dtype)
                loss, slopes = _chunk(some, matrix, bias, targets[start : start + chunk], smoothing, ignore, sums)
                total += loss
                if start + chunk < len(targets):
                    sums.add_hidden(slopes, matrix)
                    sums.add_weight(slopes, some)
        if any(sums.needed):  # the last chunk, often the only one, waits: its products then go where they belong
            ctx.save_for_backward(slopes, some, matrix)
        ctx.sums, ctx.weight = sums, weight
        ctx.dtypes = [tensor if tensor is None else _grad_dtype(tensor) for tensor in (hidden, weight, bias)]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        sums, ctx.sums = ctx.sums, None
        if sums is None:
            raise RuntimeError("there is only one way back through linear_cross_entropy_sum: the first has used it up")
        slopes, hidden, matrix = ctx.saved_tensors
        with torch.autocast(slopes.device.type, enabled=False):
            sums.add_hidden(slopes, matrix)
            if sums.needed[1] and is_added_in_place(ctx.weight):
                sums.move_weight(gradient_of(ctx.weight), slopes, hidden, float(grad_output))
            else:
                sums.add_weight(slopes, hidden, alone=sums.weight is None)
        found = zip(sums.gradients(), ctx.dtypes, strict=True)
        return (*(grad if grad is None else _scaled(grad, grad_output, dtype) for grad, dtype in found), *[None] * 5)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _grad_dtype(tensor: Tensor) -> torch.dtype:
    """In what a gradient of it adds up; a weight may ask for less than its own."""
    return (tensor.grad_dtype if tensor.is_leaf else None) or tensor.dtype


def _scaled(grad: Tensor, by: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiplied in float32 and rounded once; in its own memory, which a large vocabulary's gradient fills enough."""
    if grad.dtype != torch.bfloat16:
        return grad.mul_(by).to(dtype)
    if dtype != torch.bfloat16:
        return grad.to(_sum_dtype(grad)).mul_(by).to(dtype)
    return grad.mul_(float(by))  # a number, not a tensor, is not rounded to bf16 first


class _Sums:
    """The gradients of hidden states, weight and bias, chunk by chunk."""

    def __init__(self, needed: list[bool], tokens: int):
        self.needed, self.tokens = needed, tokens  # of a product
        self.hidden: list[Tensor] = []
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def add_hidden(self, slopes: Tensor, matrix: Tensor) -> None:  # (n, V), (V, D)
        if self.needed[0]:
            self.hidden.append(_product(slopes, matrix, self.tokens))

    def add_weight(self, slopes: Tensor, hidden: Tensor, *, alone: bool = False) -> None:  # (n, V), (n, D)
        """In float32 even where products are bf16: a thousand chunks would lose the small gradients of rare tokens."""
        first = self.weight is None
        if not self.needed[1]:
            return
        if self.weight is None:
            dtype = slopes.dtype if alone else _sum_dtype(slopes)
            self.weight = slopes.new_empty(slopes.shape[1], hidden.shape[1], dtype=dtype)
        for rows, part in self._parts(self.weight, slopes, hidden):
            rows.copy_(part) if first else rows.add_(part)

    def move_weight(self, to: Tensor, slopes: Tensor, hidden: Tensor, scale: float) -> None:
        """Add a last chunk's, and what the others summed up to, to a gradient that is there."""
        if self.weight is not None:
            to.add_(self.weight, alpha=scale)
            self.weight = None
        for rows, part in self._parts(to, slopes, hidden):
            rows.add_(part, alpha=scale)

    def _parts(self, table: Tensor, slopes: Tensor, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some rows of a table (V, D) at a time, and what they get of a chunk."""
        for rows, some in zip(table.split(self.tokens), slopes.split(self.tokens, dim=1), strict=True):
            yield rows, some.T @ hidden  # (v, D)

    def gradients(self) -> list[Tensor | None]:
        return [torch.cat(self.hidden) if self.hidden else None, self.weight, self.bias]


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _chunk(
    hidden: Tensor,  # (n, D)
    weight: Tensor,  # (V, D)
    bias: Tensor | None,
    targets: Tensor,  # (n,)
    smoothing: float,
    ignore: int,
    sums: _Sums,
) -> tuple[Tensor, Tensor]:
    """The loss of some targets, and its slopes at their logits (n, V) where some are needed; `sums` gets those of the bias."""
    logits = hidden.new_empty(len(hidden), len(weight))
    for columns, rows in zip(logits.split(sums.tokens, dim=1), weight.split(sums.tokens), strict=True):
        torch.mm(hidden, rows.to(hidden.dtype).T, out=columns)  # (n, v)
    total = torch.zeros((), dtype=_sum_dtype(hidden), device=hidden.device)
    block = max(1, BLOCK_LOGITS[hidden.device.type == "cpu"] // weight.shape[0])
    for some, wanted in zip(logits.split(block), targets.split(block), strict=True):  # (n', V), (n',)
        wide = _wide(some) if bias is None else _wide(some) + bias
        shares = wide.softmax(-1)
        # The logarithm of the sum, without a second exponential of all: the largest share is no less than 1 / V.
        whole = wide.amax(-1, keepdim=True) - shares.amax(-1, keepdim=True).log()  # (n', 1)
        real = (wanted != ignore).unsqueeze(1)  # (n', 1)
        index = wanted.unsqueeze(1).masked_fill(~real, 0)  # (n', 1)
        nats = whole - (1 - smoothing) * wide.gather(1, index)  # (n', 1)
        if smoothing:
            nats -= smoothing * wide.mean(-1, keepdim=True)
        total += (nats * real).sum()
        if any(sums.needed):
            slope = _slope(shares, index, smoothing).mul_(real)
            some.copy_(slope)  # they are no longer needed
            if sums.needed[2] and bias is not None:
                sums.bias = _added(sums.bias, slope.sum(0))
    return total, logits


def _product(shares: Tensor, rows: Tensor, block: int) -> Tensor:
    """(n, V) @ (V, D) -> (n, D), a block of rows at a time, of which sums are float32."""
    total = None
    for some, few in zip(shares.split(block, dim=1), rows.split(block), strict=True):
        part = some @ few.to(some.dtype)
        total = _added(total, part if len(rows) <= block else part.to(_sum_dtype(part)))
    assert total is not None
    return total


def _slope(shares: Tensor, index: Tensor, smoothing: float) -> Tensor:
    """d loss / d logits = probabilities - (1 - s) one_hot(target) - s / V, (n, V), in the memory of the probabilities."""
    if smoothing:
        shares -= smoothing / shares.shape[1]
    return shares.scatter_add_(1, index, torch.full_like(index, smoothing - 1, dtype=shares.dtype))


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: bf16 has three digits, too few for a logarithm of a small probability."""
    return tensor.to(_sum_dtype(tensor))
