"""The one loop. It takes optimizer steps and hands each step's numbers to the caller, who drives it.

`forward_backward` is the one seam: it leaves a step's gradients on the model. A pipeline schedule, private per-sample
gradients or an adversarial pair come in there; what is learnt comes in as `loss_fn`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, Interval, Positive, config
from dougong.core.devices import Precision
from dougong.core.errors import DougongError, bad_field
from dougong.data.loader import Position
from dougong.layers.attention import Route
from dougong.layers.gradients import added_in_place
from dougong.layers.losses import Loss
from dougong.model import AUXILIARY, Batch
from dougong.training.optimizers import PIECE, TAKE_BF16, AdamW, OptimizerConfig
from dougong.training.schedules import Cosine, ScheduleConfig

BUDGETS = ("steps", "epochs", "tokens", "minutes")
WINDOW = 64  # losses that a new one is judged by
SPIKE = 6.0  # standard deviations above their mean


@config
class Config:
    """How a model is trained. The budget is exactly one of steps, epochs, tokens, minutes."""

    steps: Count | None = None
    epochs: Positive | None = None
    tokens: Count | None = None
    minutes: Positive | None = None  # of training time; validation and saving come on top
    batch_size: Count | None = None  # rows of one step
    batch_tokens: Count | None = None  # or tokens of one step, padding included
    micro_batch: Literal["auto"] | Count = "auto"  # rows computed at once; the step's gradients are the same
    accumulate: Count = 1  # or: micro-batches of one step
    optimizer: OptimizerConfig = AdamW()
    schedule: ScheduleConfig = Cosine()
    loss: Loss = Loss()
    weighing: Literal["fixed", "uncertainty"] = "fixed"  # of several outputs' losses: by their `weight`, or learnt
    clip_norm: Positive | None = 1.0
    clip_value: Positive | None = None
    clip_weights: Positive | None = None  # weights are kept within ± this after every step
    precision: Precision = "auto"
    compile: Literal["auto"] | bool = "auto"
    activations: Annotated[float, Field(gt=0, le=1)] = 1.0  # of compiled blocks: the share that is not computed twice
    gradients: Literal["fp32", "bf16"] = "fp32"  # in what a step's gradients add up
    attention: Route = "auto"  # as matrix products, or by torch's fused kernel
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    workers: Annotated[int, Field(ge=0, le=256)] = 0  # processes that read batches ahead
    validate_every: Literal["auto"] | Interval = "auto"  # steps, or a time such as 90s or 5m
    checkpoint_every: Literal["auto"] | Interval = "auto"
    keep: Annotated[int, Field(ge=2)] = 2  # newest checkpoints kept, beside the best
    early_stop: Count | None = None  # validations without a better loss
    ema: Fraction | None = None  # decay of a moving average of the weights, which is then what is evaluated
    spikes: Literal["log", "skip"] = "log"  # a step whose loss lies far above those before it: taken, or not
    max_skipped: Count = 10  # steps in a row that are not taken, before the run stops

    def __post_init__(self) -> None:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise bad_field("train", ", ".join(given), "exactly one budget", f"keep one of {', '.join(given)}")
        if self.batch_size and self.batch_tokens:
            raise bad_field(
                "train.batch_size", self.batch_size, "one of batch_size and batch_tokens", "remove one of the two"
            )
        if self.accumulate > 1 and self.micro_batch != "auto":
            raise bad_field(
                "train.accumulate", self.accumulate, "one of accumulate and micro_batch", "remove one of the two"
            )
        if self.gradients == "bf16" and self.optimizer.kind not in TAKE_BF16:
            expected = f"fp32 beside kind: {self.optimizer.kind}"
            raise bad_field("train.gradients", self.gradients, expected, f"use kind: {TAKE_BF16[0]}, or remove it")

    @property
    def budget(self) -> tuple[str, float]:
        name = next(name for name in BUDGETS if getattr(self, name) is not None)
        return name, float(getattr(self, name))


@dataclass
class Progress:
    """How far a run has come: all that the loop counts, and all that a resumed run goes on from."""

    step: int = 0
    epoch: int = 0  # the batch to be read next …
    index: int = 0  # … and its place in the epoch
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0  # steps not taken, in all
    skipped_in_a_row: int = 0
    spikes: int = 0  # losses far above those before them
    losses: list[float] = field(default_factory=list)  # the last WINDOW, cut to where a spike begins
    bad_since: int | None = None  # the step with which losses began to be spikes or not finite, if they are now
    owes_validation: bool = False  # one is due, and a signal to stop or a step not taken came first
    plateau: dict[str, Any] = field(default_factory=dict)  # the schedule's memory of validation losses
    best: float | None = None  # lowest validation loss
    since_best: int = 0
    chosen: int | None = None  # the step whose weights the finished model has
    refused: list[str] = field(default_factory=list)  # damaged checkpoints that were passed over, and why

    def judge(self, loss: float, finite: bool) -> float | None:
        """Take note of the coming step's loss; how many standard deviations it lies too high, if it is a spike."""
        mean = statistics.fmean(self.losses) if self.losses else loss
        scatter = math.sqrt(statistics.fmean((known - mean) ** 2 for known in self.losses)) if self.losses else math.inf
        # Few losses say little of how they scatter: a share of their mean stands in. It also keeps a loss that has all
        # but stopped moving from being full of spikes.
        spread = max(scatter, abs(mean) / max(len(self.losses), 1))
        score = (loss - mean) / spread if finite and spread > 0 else 0.0
        spike = score > SPIKE
        if finite:  # a spike counts as if it were at the border: it may not hide the next, but a new level is learnt
            self.losses = [*self.losses, mean + SPIKE * spread if spike else loss][-WINDOW:]
        self.spikes += spike
        if finite and not spike:
            self.bad_since = None
        elif self.bad_since is None:
            self.bad_since = self.step + 1
        return score if spike else None

    @property
    def goes_bad(self) -> bool:
        """Whether its losses have become bad lately; what lasts longer than WINDOW steps is a new level."""
        return self.bad_since is not None and self.step - self.bad_since < WINDOW

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.index)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class NotFinite(DougongError):  # noqa: N818 - the name says what was found
    """Losses, gradients or weights were not finite, and would not be again: the run has to go back."""


LossFunction = Callable[[nn.Module, Batch, dict[str, Tensor]], Tensor]
"""(model, micro-batch, targets of the whole step by output) -> this micro-batch's share of the step's loss."""


def task_loss(weights: dict[str, float]) -> LossFunction:
    """The weighted sum over outputs of each one's mean loss, which the model may weigh by itself before."""

    def loss_fn(model: nn.Module, batch: Batch, totals: dict[str, Tensor]) -> Tensor:
        losses = model.losses(batch)  # type: ignore[operator]
        # A mean over the step's targets, not of micro-batch means: uneven micro-batches weigh by their targets.
        means = {name: total / totals[name].clamp(min=1) for name, total in losses.items() if name != AUXILIARY}
        parts = list(means.values())
        if (weighing := getattr(model, "weighing", None)) is not None:
            parts = list(weighing(torch.stack(parts), len(batch["row"]) / totals["row"]))
        parts = [weights[name] * part for name, part in zip(means, parts, strict=True)]
        if AUXILIARY in losses:
            parts.append(losses[AUXILIARY] * len(batch["row"]) / totals["row"])
        return torch.stack(parts).sum()

    return loss_fn


def accumulate(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
    """Leave one step's gradients on the model; return its mean loss, still on the device."""
    totals = step_totals(model, batches)
    total = torch.zeros((), device=batches[0]["row"].device)
    for batch in batches:
        with autocast():
            loss = loss_fn(model, batch, totals)
        with added_in_place():
            loss.backward()
        total = total + loss.detach()
    return total


def step_totals(model: nn.Module, batches: list[Batch]) -> dict[str, Tensor]:
    """Targets of a whole step by output, and its rows."""
    counts = [model.counts(batch) for batch in batches]  # type: ignore[operator]
    totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
    return totals | {"row": torch.tensor(sum(len(batch["row"]) for batch in batches))}


def train_steps(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterator[tuple[Position, list[Batch]]],
    optimizer: torch.optim.Optimizer,
    config: Config,
    progress: Progress,
    *,
    factor: Callable[[], float],
    autocast: Any,
    forward_backward: Callable[[nn.Module, LossFunction, list[Batch], Any], Tensor] = accumulate,
    row_ids: Callable[[Batch], list[int]] = lambda batch: batch["row"].tolist(),
) -> Iterator[dict[str, Any]]:
    """Take one optimizer step a turn, as long as there are batches and the caller asks; yield that step's numbers."""
    parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]  # running statistics of norms
    for position, micro_batches in batches:
        kept = [buffer.clone() for buffer in buffers]
        lr_factor = factor()
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor
        loss = forward_backward(model, loss_fn, micro_batches, autocast)
        norm = clip(parameters, config)
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        spike = progress.judge(float(loss), finite)
        if finite and not (spike and config.spikes == "skip"):
            optimizer.step()
            if config.clip_weights:
                with torch.no_grad():
                    torch._foreach_clamp_min_(parameters, -config.clip_weights)
                    torch._foreach_clamp_max_(parameters, config.clip_weights)
            progress.skipped_in_a_row = 0
        else:
            for buffer, value in zip(buffers, kept, strict=True):  # the forward pass has already put the poison in
                buffer.copy_(value)
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.epoch, progress.index = position.epoch, position.index
        rows = sum(len(batch["row"]) for batch in micro_batches)
        progress.rows += rows
        tokens = count_tokens(micro_batches)
        progress.tokens += tokens
        skipped = progress.skipped_in_a_row > 0
        named = [row for batch in micro_batches for row in row_ids(batch)] if skipped or spike else None
        yield {
            "step": progress.step,
            "loss": loss,
            "grad_norm": norm,
            "lr": optimizer.param_groups[0]["lr"],
            "rows": rows,
            "tokens": tokens,
            "skipped_rows": named if skipped else None,
            "spike": spike,
            "spike_rows": named if spike else None,
        }


def clip(parameters: list[Tensor], config: Config) -> Tensor:
    """Clip the gradients as configured, by value first; return their norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = left = _norm(gradients)
    if config.clip_value:
        nn.utils.clip_grad_value_(parameters, config.clip_value)
        left = _norm(gradients)
    if config.clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, left)
    return norm


def _norm(gradients: list[Tensor]) -> Tensor:
    if all(each.dtype != torch.bfloat16 for each in gradients):
        return nn.utils.get_total_norm(gradients)
    # In float32, as bf16 would keep two digits; a piece at a time, as torch 2.13 makes a float32 copy of what it is given.
    pieces = [piece for each in gradients for piece in each.reshape(-1).split(PIECE)]
    return torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(each, dtype=torch.float32) for each in pieces])
    )


def count_tokens(batches: list[Batch]) -> int:
    """Real positions of all ragged columns of ids (text); rows where there are none. Samples of sound are no tokens."""
    lengths = [
        int(value.sum())
        for batch in batches
        for key, value in batch.items()
        if key.endswith(".length") and batch[key.removesuffix(".length")].dtype == torch.int64
    ]
    return sum(lengths) if lengths else sum(len(batch["row"]) for batch in batches)


class Average:
    """Exponential moving average of the weights (Polyak & Juditsky 1992), and of the running statistics of norms."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        kept = model.state_dict(keep_vars=True)
        named: dict[str, Tensor] = dict(model.named_parameters())  # shared ones once
        named |= {name: buffer for name, buffer in model.named_buffers() if name in kept and buffer.is_floating_point()}
        self.names, self.live = list(named), list(named.values())
        self.mean = [parameter.detach().clone() for parameter in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # young averages must forget the random start
        torch._foreach_lerp_(self.mean, self.live, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the averaged ones."""
        for mean, live in zip(self.mean, self.live, strict=True):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.mean, strict=True))
