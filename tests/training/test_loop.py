"""The loop on a model small enough to check by hand: accumulation, clipping, what is not finite, averages, budgets."""

# B batch, D width

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong.core.config import read
from dougong.core.errors import FieldError
from dougong.data.loader import Position
from dougong.training.loop import (
    WINDOW,
    Average,
    Batch,
    Config,
    Progress,
    accumulate,
    clip,
    count_tokens,
    step_totals,
    task_loss,
    train_steps,
)

D = 4
WEIGHTS = {"first": 1.0, "second": 0.3}


class Toy(nn.Module):
    """Two outputs over one hidden layer; `second` has no target in some rows. The loop asks a model for no more."""

    def __init__(self, norm: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.hidden = nn.Linear(D, D)
        self.norm = nn.BatchNorm1d(D) if norm else nn.Identity()
        self.first, self.second = nn.Linear(D, 1), nn.Linear(D, 1)
        self.double()

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"first": torch.tensor(len(batch["row"])), "second": batch["known"].sum()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        features = self.norm(self.hidden(batch["x"])).tanh()  # (B, D)
        first = (self.first(features)[:, 0] - batch["y"]).square().sum()
        second = ((self.second(features)[:, 0] - batch["z"]).square() * batch["known"]).sum()
        return {"first": first, "second": second, "auxiliary": features.square().mean(dim=1).mean()}


def make_batch(rows: int, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    x, y, z = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((rows, D), (rows,), (rows,)))
    known = (torch.arange(rows) % 3 != 1).double()
    return {"row": torch.arange(rows) + 100 * seed, "x": x, "y": y, "z": z, "known": known}


def cut(batch: Batch, sizes: list[int]) -> list[Batch]:
    pieces = {key: value.split(sizes) for key, value in batch.items()}
    return [{key: values[index] for key, values in pieces.items()} for index in range(len(sizes))]


def steps_of(
    model: nn.Module, batches: list[list[Batch]], config: Config, optimizer: torch.optim.Optimizer, **options: Any
) -> Iterator[dict[str, Any]]:
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
    source = ((Position(0, index + 1), batch) for index, batch in enumerate(batches))
    options = {"factor": lambda: 1.0, "autocast": nullcontext, "progress": Progress()} | options
    return train_steps(model, task_loss(WEIGHTS), source, optimizer, config, **options)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# --------------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("sizes", [[6, 6], [3, 3, 3, 3], [1, 7, 4], [2, 1, 9], [1] * 12])
def test_micro_batches_even_or_not_take_the_step_of_the_whole_batch(sizes: list[int]) -> None:
    config = Config(steps=3, clip_norm=None)
    whole, cut_up = Toy(), Toy()
    batch = make_batch(12)
    one = next(steps_of(whole, [[batch]], config, sgd(whole)))
    many = next(steps_of(cut_up, [cut(batch, sizes)], config, sgd(cut_up)))
    assert torch.allclose(weights(whole), weights(cut_up), rtol=0, atol=1e-12)
    assert float(one["grad_norm"]) == pytest.approx(float(many["grad_norm"]), rel=1e-12)
    if sizes == [6, 6]:  # the model's own loss is a mean over rows of what may differ: equal pieces only
        assert float(one["loss"]) == pytest.approx(float(many["loss"]), rel=1e-12)


def test_the_loss_is_the_weighted_sum_of_each_outputs_mean_over_its_own_targets() -> None:
    model, batch = Toy(), make_batch(9)
    found = accumulate(model, task_loss(WEIGHTS), cut(batch, [2, 7]), nullcontext)
    losses, known = model.losses(batch), batch["known"].sum()
    wanted = losses["first"] / 9 + 0.3 * losses["second"] / known + losses["auxiliary"]
    assert float(found) == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert int(step_totals(model, cut(batch, [2, 7]))["second"]) == int(known)


def test_an_output_without_any_target_in_a_step_adds_nothing() -> None:
    model, batch = Toy(), make_batch(4)
    batch["known"].zero_()
    loss = accumulate(model, task_loss(WEIGHTS), [batch], nullcontext)
    assert torch.isfinite(loss)
    assert float(model.second.weight.grad.abs().sum()) == 0.0  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------- clipping


def test_gradients_are_clipped_by_their_norm_and_the_norm_before_is_told() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3.0, 4.0, 0.0])
    assert float(clip([parameter], Config(steps=1, clip_norm=1.0))) == pytest.approx(5.0)
    assert torch.allclose(parameter.grad, torch.tensor([0.6, 0.8, 0.0]), atol=1e-5)


def test_gradients_smaller_than_the_bound_stay_as_they_are() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([0.3, 0.4])
    clip([parameter], Config(steps=1, clip_norm=1.0))
    assert parameter.grad.tolist() == torch.tensor([0.3, 0.4]).tolist()


def test_gradients_are_clipped_by_value() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3.0, -4.0, 0.1])
    clip([parameter], Config(steps=1, clip_norm=None, clip_value=0.5))
    assert parameter.grad.tolist() == torch.tensor([0.5, -0.5, 0.1]).tolist()


def test_clipped_by_value_first_the_gradients_still_have_the_norm_that_is_asked_for() -> None:
    parameter = nn.Parameter(torch.zeros(100))
    parameter.grad = torch.full((100,), 10.0)
    assert float(clip([parameter], Config(steps=1, clip_norm=1.0, clip_value=0.05))) == pytest.approx(100.0)
    assert float(parameter.grad.norm()) == pytest.approx(
        0.5, rel=1e-5
    )  # 100 of 0.05: below the bound, left as they are
    parameter.grad = torch.full((100,), 10.0)
    clip([parameter], Config(steps=1, clip_norm=1.0, clip_value=0.5))
    assert float(parameter.grad.norm()) == pytest.approx(1.0, rel=1e-5)


def test_weights_are_kept_within_their_bound_after_every_step() -> None:
    model = Toy()
    config = Config(steps=3, clip_weights=0.05)
    for _ in steps_of(model, [[make_batch(8, seed)] for seed in range(3)], config, sgd(model, lr=1.0)):
        assert float(weights(model).abs().max()) <= 0.05
        if config:  # the source has three batches, and the loop never ends by itself
            continue


# ----------------------------------------------------------------------------------------------------------- not finite


def taken(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[list[Batch]], **options: Any) -> list[Any]:
    steps = steps_of(model, batches, Config(steps=9), optimizer, **options)
    return [next(steps) for _ in batches]


def test_t5_a_poisoned_row_never_reaches_weights_optimizer_or_running_statistics() -> None:
    batches = [[make_batch(8, seed)] for seed in range(5)]
    poisoned = copy.deepcopy(batches)
    poisoned[2][0]["x"][3, 1] = float("nan")
    model, clean = Toy(norm=True), Toy(norm=True)
    optimizer, clean_optimizer = sgd(model), sgd(clean)
    numbers = taken(model, optimizer, poisoned)
    taken(clean, clean_optimizer, batches[:2] + batches[3:])  # a run in which that batch never was
    assert torch.equal(weights(model), weights(clean))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            assert torch.equal(buffer, clean.get_buffer(name)), name
    states = [optimizer.state[parameter]["momentum_buffer"] for parameter in model.parameters()]
    clean_states = [clean_optimizer.state[parameter]["momentum_buffer"] for parameter in clean.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(states, clean_states, strict=True))
    assert [each["skipped_rows"] for each in numbers] == [None, None, list(range(200, 208)), None, None]
    assert not torch.isfinite(numbers[2]["loss"])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_t5_a_gradient_that_is_not_finite_is_not_taken_even_where_the_loss_is(poison: float) -> None:
    model, calls = Toy(), []

    def forward_backward(model: nn.Module, loss_fn: Any, batches: list[Batch], autocast: Any) -> Tensor:
        loss = accumulate(model, loss_fn, batches, autocast)
        calls.append(len(batches))
        if len(calls) == 2:
            model.hidden.weight.grad[0, 0] = poison  # type: ignore[index,union-attr]
        return loss

    progress = Progress()
    batches = [cut(make_batch(6, seed), [2, 4]) for seed in range(3)]
    steps = steps_of(model, batches, Config(steps=9), sgd(model), progress=progress, forward_backward=forward_backward)
    next(steps)
    before = weights(model)
    numbers = next(steps)
    assert torch.equal(weights(model), before)
    assert torch.isfinite(numbers["loss"])
    assert not torch.isfinite(numbers["grad_norm"])
    assert numbers["skipped_rows"] == list(range(100, 106))
    assert (progress.step, progress.skipped, progress.skipped_in_a_row) == (2, 1, 1)
    next(steps)
    assert (progress.step, progress.skipped, progress.skipped_in_a_row) == (3, 1, 0)
    assert not torch.equal(weights(model), before)
    assert calls == [2, 2, 2]  # the seam gets the micro-batches of a step together


# ----------------------------------------------------------------------------------------------------- counts and rates


def test_progress_counts_steps_rows_tokens_and_the_place_of_the_next_batch() -> None:
    model, progress = Toy(), Progress()
    batches = [cut(make_batch(7, seed), [3, 4]) for seed in range(2)]
    steps = steps_of(model, batches, Config(steps=9), sgd(model), progress=progress, factor=lambda: 0.25)
    numbers = [next(steps), next(steps)]
    assert (progress.step, progress.rows, progress.tokens, progress.position) == (2, 14, 14, Position(0, 2))
    assert [each["lr"] for each in numbers] == [0.1 * 0.25] * 2
    assert Progress(**progress.to_json()) == progress


def test_tokens_are_the_real_positions_of_ragged_columns_and_rows_where_there_are_none() -> None:
    row = torch.arange(3)
    assert (
        count_tokens(
            [{"row": row, "text.tokens": torch.zeros(3, 9).long(), "text.tokens.length": torch.tensor([2, 9, 4])}]
        )
        == 15
    )
    assert count_tokens([{"row": row}, {"row": row}]) == 6


def test_the_average_of_the_weights_follows_its_formula() -> None:
    model = nn.Linear(2, 1)
    average = Average(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight.add_(torch.randn(1, 2))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.allclose(average.tensors()["weight"], expected, atol=1e-5)
    live = model.weight.detach().clone()
    average.swap()
    assert torch.allclose(model.weight, expected, atol=1e-5)
    average.swap()
    assert torch.equal(model.weight, live)


def test_the_average_takes_running_statistics_along_but_not_what_is_no_part_of_the_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model.register_buffer("scratch", torch.zeros(1), persistent=False)
    average = Average(model, 0.0)
    assert sorted(average.tensors()) == sorted({*model.state_dict()} - {"1.num_batches_tracked"})
    model(torch.randn(8, 2))
    after = model[1].running_mean.clone()  # type: ignore[union-attr]
    average.update(1)
    model(torch.randn(8, 2) + 5.0)
    average.swap()
    assert torch.equal(model[1].running_mean, after)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- losses far too high


@pytest.mark.parametrize(
    ("losses", "spikes"),
    [
        ([0.7] * 20 + [0.8, 5.0, 0.7, 6.0], [False] * 20 + [False, True, False, True]),  # 0.7 never moved at all
        ([0.0] * 20 + [0.0, 1e-9], [False] * 22),
        ([1.0, 2.0, 3.0, 100.0], [False, False, False, True]),
        ([3.0, -1.0, 2.0, 3.5, 3.0], [False] * 5),
    ],
    ids=["level", "nothing left", "few", "below nought"],
)
def test_t6_a_spike_is_a_loss_six_deviations_above_those_before(losses: list[float], spikes: list[bool]) -> None:
    progress = Progress()
    assert [progress.judge(loss, True) is not None for loss in losses] == spikes
    assert progress.spikes == sum(spikes)


def test_t6_losses_are_bad_from_the_first_spike_or_nan_on_until_one_is_good() -> None:
    progress, since = Progress(), []
    for step, loss in enumerate([1.0, 1.1, 0.9, 1e9, float("nan"), 1e9, 1.0, float("nan")]):
        progress.step = step
        progress.judge(loss, loss == loss)
        since.append(progress.bad_since)
    assert since == [None, None, None, 4, 4, 4, None, 8]
    assert all(loss < 50 for loss in progress.losses)
    progress.step = 8 + WINDOW
    assert not progress.goes_bad


# ----------------------------------------------------------------------------------------------------------- the config


def test_two_budgets_are_refused_by_name() -> None:
    with pytest.raises(FieldError, match=r"train = 'steps, epochs': expected exactly one budget. Fix: keep one of"):
        Config(steps=10, epochs=2)


def test_batch_size_and_batch_tokens_exclude_each_other() -> None:
    with pytest.raises(FieldError, match=r"train.batch_size = 8: expected one of batch_size and batch_tokens"):
        Config(steps=10, batch_size=8, batch_tokens=100)


def test_accumulate_and_micro_batch_exclude_each_other() -> None:
    with pytest.raises(FieldError, match=r"train.accumulate = 2: expected one of accumulate and micro_batch"):
        Config(steps=10, accumulate=2, micro_batch=4)


def test_suffixes_and_durations_are_understood() -> None:
    config, problems = read(Config, {"tokens": "2M", "validate_every": "90s", "checkpoint_every": "5m"}, "train")
    assert not problems
    assert config.budget == ("tokens", 2_000_000)
    assert (config.validate_every, config.checkpoint_every) == (90.0, 300.0)
