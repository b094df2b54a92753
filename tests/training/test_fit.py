"""`fit` as a whole on a table of 96 rows: budgets, schedules, validation, the best weights, what is not finite."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong import recipe as recipes
from dougong import run as runs
from dougong.core import devices
from dougong.core.errors import FieldError, MachineError
from dougong.data.loader import Loader, Position
from dougong.model import Batch, Model
from dougong.training import checkpoint, schedules
from dougong.training.fit import Due, Fitted, Session, fit
from dougong.training.loop import LossFunction, NotFinite, Progress, accumulate, task_loss
from tests.clear_error import check_clear

ROWS = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and one cache of its preparation for all tests."""
    folder = tmp_path_factory.mktemp("fit")
    lines = [f"{row},{row % 7},{2 * row + 3 * (row % 7)},{'odd' if row % 2 else 'even'}" for row in range(ROWS)]
    (folder / "rows.csv").write_text("a,b,y,kind\n" + "\n".join(lines) + "\n")
    return folder


@dataclass
class Task:
    """A recipe made ready to be fitted as often as a test likes, each time from fresh weights."""

    folder: Path
    run: Path
    train: dict[str, Any]
    seed: int = 0
    model: Model = field(init=False)
    loader: Loader = field(init=False)

    def __post_init__(self) -> None:
        plain = {
            "name": "table",
            "seed": self.seed,
            "data": {"train": str(self.folder / "rows.csv"), "cache": str(self.folder / "cache")},
            "inputs": {"a": "number", "b": "number"},
            "outputs": {"y": "number", "kind": {"type": "category", "weight": 0.5}},
            "model": {"kind": "mlp", "preset": "tiny", "dropout": 0.2},
            "train": {"batch_size": 16, "checkpoint_every": 4, **self.train},
        }
        self.recipe = recipes.load(plain)
        prepared = runs.prepared_data(self.recipe)
        inputs, outputs = runs.fitted(self.recipe, prepared)
        self.model = runs.build(self.recipe, inputs, outputs)
        self.loader = runs.loader_of(self.recipe, prepared.split("train"), inputs, outputs)
        self.run.mkdir(exist_ok=True)

    def fit(self, validate: Callable[[], dict[str, float]] | None = None, **options: Any) -> Fitted:
        options = {"loss_fn": task_loss({"y": 1.0, "kind": 0.5})} | options
        train = self.recipe.train
        return fit(self.model, self.loader, train, self.run, seed=self.seed, validate=validate, quiet=True, **options)

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "log.jsonl").read_text().splitlines()]

    def steps(self) -> list[dict[str, Any]]:
        return [record for record in self.log() if "validation" not in record]

    def weights(self) -> Tensor:
        return torch.cat([value.flatten().float() for value in self.model.weights().values()])


Make = Callable[..., Task]


@pytest.fixture
def task(folder: Path, tmp_path: Path) -> Make:
    return lambda seed=0, name="run", **train: Task(folder, tmp_path / name, train, seed)


def losses(*values: float) -> Callable[[], dict[str, float]]:
    """A validation that finds these losses, one after the other, and the last one ever after."""
    source = itertools.chain(values, itertools.repeat(values[-1]))
    return lambda: {"loss": next(source)}


# ------------------------------------------------------------------------------------------------ budgets and schedules


@pytest.mark.parametrize(
    ("budget", "check"),
    [
        ({"steps": 7}, lambda progress, per_epoch: progress.step == 7),
        ({"epochs": 2}, lambda progress, per_epoch: progress.step == 2 * per_epoch),
        ({"epochs": 0.5}, lambda progress, per_epoch: progress.step == -(-per_epoch // 2)),
        ({"tokens": 100}, lambda progress, per_epoch: 100 <= progress.tokens < 116),
        ({"minutes": 0.002}, lambda progress, per_epoch: progress.seconds >= 0.12),
    ],
    ids=["steps", "epochs", "half an epoch", "tokens", "minutes"],
)
def test_every_budget_ends_where_it_should(task: Make, budget: dict[str, Any], check: Any) -> None:
    made = task(**budget)
    fitted = made.fit()
    assert check(fitted.progress, made.loader.plan.batches(0))
    assert [record["step"] for record in made.steps()] == list(range(1, fitted.progress.step + 1))
    assert not fitted.stopped


@pytest.mark.parametrize("budget", [{"steps": 10}, {"epochs": 2}, {"tokens": 160}])
def test_the_schedule_stretches_over_the_budget_of_any_kind(task: Make, budget: dict[str, Any]) -> None:
    made = task(**budget, schedule={"kind": "linear", "warmup": 0.0})
    made.fit()
    rates = [record["lr"] for record in made.steps()]
    base = made.recipe.train.optimizer.lr
    assert rates[0] == base
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.25 * base


def test_a_plateau_of_the_validation_loss_lowers_the_rate(task: Make) -> None:
    schedule = {"kind": "plateau", "warmup": 0.0, "patience": 1, "factor": 0.5}
    made = task(steps=8, validate_every=1, schedule=schedule)
    made.fit(losses(1.0, 0.9, 0.9, 0.9, 0.5, 0.5))
    rates = [record["lr"] / made.recipe.train.optimizer.lr for record in made.steps()]
    memory: dict[str, Any] = {}
    for rate, loss in zip(rates, (1.0, 0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5), strict=True):
        assert rate == memory.get("factor", 1.0)
        memory = schedules.observe(made.recipe.train.schedule, loss, memory)
    assert rates[3:5] == [1.0, 0.5]


# ---------------------------------------------------------------------------------------------- validation and the best


def test_the_weights_of_the_lowest_validation_loss_are_those_that_stay(task: Make) -> None:
    made = task(steps=6, validate_every=1, checkpoint_every=1)
    seen: list[Tensor] = []
    source = losses(5.0, 3.0, 4.0, 2.0, 6.0, 7.0)

    def validate() -> dict[str, float]:
        seen.append(made.weights())
        return source()

    fitted = made.fit(validate)
    assert fitted.progress.chosen == 4
    assert torch.equal(made.weights(), seen[3])
    assert not made.model.training


def test_with_an_average_the_averaged_weights_are_validated_and_stay(task: Make) -> None:
    made = task(steps=4, validate_every=1, ema=0.5)
    seen: list[Tensor] = []

    def validate() -> dict[str, float]:
        seen.append(made.weights())
        return {"loss": float(-len(seen))}

    made.fit(validate)
    assert torch.equal(made.weights(), seen[-1])
    path, _ = checkpoint.find_latest(made.run / "checkpoints")
    assert path is not None
    live = task(steps=4, name="live")
    live.fit()
    assert not torch.equal(made.weights(), live.weights())


def test_early_stopping_waits_as_many_validations_as_it_says(task: Make) -> None:
    made = task(steps=50, validate_every=2, early_stop=3, checkpoint_every=100)
    fitted = made.fit(losses(3.0, 2.0, 2.5, 2.5, 2.5))
    assert fitted.progress.step == 10  # the best at step 4, then three without a better one
    assert fitted.progress.chosen == 4
    path, _ = checkpoint.find_latest(made.run / "checkpoints")
    assert path is not None
    assert path.name == "step-00000010"  # the end is saved as any end is


def test_a_validation_loss_that_is_not_finite_is_never_the_best(task: Make) -> None:
    made = task(steps=3, validate_every=1)
    fitted = made.fit(losses(float("nan"), 2.0, float("inf")))
    assert fitted.progress.chosen == 2
    found = [record["validation"]["loss"] for record in made.log() if "validation" in record]
    assert found == [None, 2.0, None]


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"early_stop": 2}, "train.early_stop"), ({"schedule": {"kind": "plateau"}}, "train.schedule.kind")],
)
def test_settings_that_need_a_validation_are_refused_where_there_is_none(
    task: Make, settings: dict[str, Any], key: str
) -> None:
    with pytest.raises(FieldError) as caught:
        task(steps=3, **settings).fit(None)
    check_clear(str(caught.value), key, "validation")


def test_what_is_due_comes_as_often_as_it_says() -> None:
    progress = Progress()
    every_third, every_quarter = Due(3, 1.0, progress, 0.0), Due("auto", 0.25, progress, 0.0)
    found: list[tuple[bool, bool]] = []
    for step in range(1, 9):
        progress.step = step
        found.append((every_third.now(step / 8), every_quarter.now(step / 8)))
    assert [step for step, (due, _) in enumerate(found, 1) if due] == [3, 6]
    assert [step for step, (_, due) in enumerate(found, 1) if due] == [2, 4, 6, 8]


# ----------------------------------------------------------------------------------------- the seam, and the same again


def test_the_seam_gets_every_step(task: Make) -> None:
    sizes: list[list[int]] = []

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        sizes.append([len(batch["row"]) for batch in batches])
        return accumulate(model, loss_fn, batches, autocast)

    made = task(steps=5, micro_batch=6)
    made.fit(forward_backward=forward_backward)
    assert len(sizes) == 5
    assert [6, 6, 4] in sizes


@pytest.mark.parametrize("batch", [{"batch_size": 16}, {"batch_size": None, "batch_tokens": 32}])
def test_accumulate_cuts_a_step_into_so_many_however_the_batch_is_measured(task: Make, batch: dict[str, Any]) -> None:
    counts: list[int] = []

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        counts.append(len(batches))
        return accumulate(model, loss_fn, batches, autocast)

    task(steps=3, accumulate=4, **batch).fit(forward_backward=forward_backward)
    assert counts == [4, 4, 4]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(task: Make) -> None:
    first, again, other = (task(steps=6, seed=seed, name=f"run{n}") for n, seed in enumerate((1, 1, 2)))
    for made in (first, again, other):
        made.fit()
    assert torch.equal(first.weights(), again.weights())
    assert not torch.equal(first.weights(), other.weights())


def test_t15_workers_that_read_ahead_change_nothing(task: Make) -> None:
    """Neither the order of rows nor the random numbers that dropout draws."""
    alone, helped = task(steps=4, name="alone"), task(steps=4, workers=1, name="helped")
    alone.fit()
    helped.fit()
    assert torch.equal(alone.weights(), helped.weights())


def test_t15_a_run_that_stops_and_goes_on_ends_with_the_same_weights(task: Make) -> None:
    whole = task(steps=9, validate_every=2, ema=0.8, name="whole")
    whole.fit(losses(3.0, 2.0, 2.5))
    interrupted = task(steps=9, validate_every=2, ema=0.8, name="cut")

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        if len(interrupted.steps()) == 6:
            raise KeyboardInterrupt
        return accumulate(model, loss_fn, batches, autocast)

    source = losses(3.0, 2.0, 2.5)
    interrupted.run.joinpath("log.jsonl").touch()
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(source, forward_backward=forward_backward)
    resumed = task(steps=9, validate_every=2, ema=0.8, name="cut")
    resumed.fit(losses(2.5))  # step 4 was saved, after the second validation
    assert torch.equal(resumed.weights(), whole.weights())
    assert [record["loss"] for record in resumed.steps()] == [record["loss"] for record in whole.steps()]


# -------------------------------------------------------------------------------------------- not finite, out of memory


def poisoned(rows: set[int]) -> LossFunction:
    """The task's loss, not a number wherever one of the rows is in the batch."""
    clean = task_loss({"y": 1.0, "kind": 0.5})

    def loss_fn(model: nn.Module, batch: Batch, totals: dict[str, Tensor]) -> Tensor:
        bad = any(int(row) in rows for row in batch["row"])
        return clean(model, batch, totals) * (float("nan") if bad else 1.0)

    return loss_fn


def test_t5_a_poisoned_row_is_logged_and_the_run_goes_on_with_finite_weights(task: Make) -> None:
    made = task(epochs=2)
    fitted = made.fit(loss_fn=poisoned({13}))
    skipped = [record for record in made.steps() if "skipped_rows" in record]
    assert len(skipped) == fitted.progress.skipped == 2  # once in each epoch
    assert all(13 in record["skipped_rows"] and record["loss"] is None for record in skipped)
    assert torch.isfinite(made.weights()).all()


def test_t5_too_many_in_a_row_stop_the_run_name_the_rows_and_keep_the_last_good_weights(task: Make) -> None:
    made = task(steps=30, max_skipped=3)
    before = made.weights()
    with pytest.raises(NotFinite) as caught:
        made.fit(loss_fn=poisoned(set(range(ROWS))))
    rows = made.steps()[-1]["skipped_rows"]
    check_clear(str(caught.value), "3 steps in a row", ", ".join(map(str, rows)), "train.optimizer.lr")
    assert caught.value.exit_code == 2
    assert torch.equal(made.weights(), before)
    path, _ = checkpoint.find_latest(made.run / "checkpoints")
    assert path is not None
    assert checkpoint.read_state(path)["progress"]["step"] == 3


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."
    ),
    MemoryError(),
]


@pytest.mark.parametrize(
    ("error", "settings", "fix"),
    [
        (OUT_OF_MEMORY[0], {}, "train.micro_batch: {half}"),
        (OUT_OF_MEMORY[1], {"micro_batch": 4}, "train.micro_batch: 2"),
        (OUT_OF_MEMORY[2], {"accumulate": 2}, "train.accumulate: 4"),
        (OUT_OF_MEMORY[0], {"micro_batch": 1}, "a smaller model"),
    ],
    ids=["cuda", "cpu", "python", "one row"],
)
def test_t8_out_of_memory_names_the_setting_that_halves_what_is_computed_at_once(
    task: Make, error: Exception, settings: dict[str, Any], fix: str
) -> None:
    steps, sizes = itertools.count(1), list[int]()

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        sizes.append(len(batches[0]["row"]))
        if next(steps) == 3:
            raise error
        return accumulate(model, loss_fn, batches, autocast)

    made = task(steps=9, checkpoint_every=1, **settings)
    with pytest.raises(MachineError) as caught:
        made.fit(forward_backward=forward_backward)
    check_clear(str(caught.value), "out of memory", fix.format(half=sizes[-1] // 2))
    path, _ = checkpoint.find_latest(made.run / "checkpoints")
    assert path is not None
    assert path.name == "step-00000002"


def test_t8_a_model_whose_training_no_memory_here_holds_is_refused_by_its_size(
    task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task(steps=1)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in made.model.parameters())
    monkeypatch.setattr(devices, "memory_total", lambda device: 4 * weights)  # weights, gradients, and AdamW's two
    made.fit()
    monkeypatch.setattr(devices, "memory_total", lambda device: 4 * weights - 1)
    with pytest.raises(MachineError) as caught:
        made.fit()
    check_clear(str(caught.value), "weights, gradients and adamw's state take", "train a smaller model")


def test_an_error_of_another_kind_is_not_taken_for_want_of_memory(task: Make) -> None:
    def forward_backward(*arguments: Any) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        task(steps=2).fit(forward_backward=forward_backward)


@pytest.mark.parametrize("moment", ["in the step", "in the validation", "after it was asked whether to stop"])
def test_t7_whenever_the_signal_comes_the_step_that_the_run_ends_with_is_saved(
    task: Make, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sent = task(steps=9, validate_every=1, checkpoint_every=100), list[str]()

    def signal_at(where: str) -> None:
        if where == moment and not sent and (made.run / "log.jsonl").exists() and len(made.steps()) == 3:
            sent.append(where)
            os.kill(os.getpid(), signal.SIGTERM)

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        signal_at("in the step")
        return accumulate(model, loss_fn, batches, autocast)

    def validate() -> dict[str, float]:
        signal_at("in the validation")
        return {"loss": 1.0}

    def ended(session: Session) -> bool:
        signal_at("after it was asked whether to stop")
        return session.done() >= 1

    monkeypatch.setattr(Session, "ended", ended)
    fitted = made.fit(validate, forward_backward=forward_backward)
    assert fitted.stopped.exit_code == 143
    path, _ = checkpoint.find_latest(made.run / "checkpoints")
    assert path is not None
    assert checkpoint.read_state(path)["progress"]["step"] == fitted.progress.step == len(made.steps()) < 9


def test_a_loader_goes_on_from_any_position(task: Make) -> None:
    loader = task(steps=1).loader
    places = list(itertools.islice(loader.batches(Position()), 12))
    position, _ = places[7]
    rest = list(itertools.islice(loader.batches(position), 4))
    for (_, wanted), (_, found) in zip(places[8:], rest, strict=True):
        assert [batch["row"].tolist() for batch in wanted] == [batch["row"].tolist() for batch in found]
