"""`fit` as a whole on a table of 96 rows: budgets, schedules, validation, the best weights, what is not finite."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong import assembly
from dougong import recipe as recipes
from dougong.core import devices
from dougong.core.errors import FieldError, MachineError, Note
from dougong.core.tensors import load_tensors
from dougong.data.loader import Loader, Position
from dougong.evaluation import measure
from dougong.model import Batch, Model
from dougong.training import checkpoint, schedules
from dougong.training.fit import Due, Fitted, Session, autocast_for, deterministic, first_row, fit
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
        prepared = assembly.prepared_data(self.recipe)
        inputs, outputs = assembly.fitted(self.recipe, prepared)
        self.model = assembly.build(self.recipe, inputs, outputs)
        self.loader = assembly.loader_of(self.recipe, prepared.split("train"), inputs, outputs)
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


Saved = list[tuple[int, bool]]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    """(step, best) of every checkpoint."""
    found, save = Saved(), Session.save

    def noted(session: Session, best: bool = False) -> None:
        found.append((session.progress.step, best))
        save(session, best)

    monkeypatch.setattr(Session, "save", noted)
    return found


def scaled(factors: dict[int, float]) -> Callable[..., Tensor]:
    """Loss and gradients of these steps times so much; counted from the first that this call of `fit` takes."""
    count = itertools.count(1)

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        factor = factors.get(next(count), 1.0)
        loss = accumulate(model, loss_fn, batches, autocast) * factor
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        return loss

    return forward_backward


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


def test_t5_a_validation_of_a_model_that_answers_without_numbers_is_no_error(task: Make) -> None:
    made = task(steps=3, validate_every=1)
    autocast = autocast_for(made.recipe.train, torch.device("cpu"), made.model)
    plan = assembly.plan_of(made.recipe, made.loader.plan.split, made.model.inputs, made.model.outputs)  # type: ignore[attr-defined]
    weights, calls = {"y": 1.0, "kind": 0.5}, itertools.count(1)

    def validate() -> dict[str, float]:
        if next(calls) == 2:
            with torch.no_grad():
                made.model.get_parameter("out_kind.readout.linear.bias").fill_(float("nan"))
        return measure.validation(made.model, plan, autocast, weights)

    with pytest.raises(NotFinite, match="not finite after step 3"):  # the end is saved, but not with such weights
        made.fit(validate)
    found = [record["validation"] for record in made.log() if "validation" in record]
    assert found[0]["loss"] > 0
    assert found[1:] == [{"loss": None}] * 2


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


def test_the_best_is_saved_once_and_not_again_a_step_later_because_it_was_due_too(task: Make, saved: Saved) -> None:
    task(steps=10, validate_every=4, checkpoint_every=4).fit(losses(3.0, 2.0, 1.0))
    assert saved == [(4, True), (8, True), (10, True)]
    saved.clear()
    task(steps=10, validate_every=3, checkpoint_every=4, name="other").fit(losses(3.0, 4.0))
    assert saved == [(3, True), (4, False), (8, False), (10, False)]
    saved.clear()
    task(steps=6, validate_every=2, checkpoint_every=3600.0, name="timed").fit(losses(3.0, 4.0, 2.0))
    assert saved == [(2, True), (6, True)]


@pytest.mark.parametrize(("bad", "wanted"), [((4,), [5, 8, 10]), ((8, 9), [4, 10]), ((10,), [4, 8, 10])])
def test_a_validation_due_at_a_step_not_taken_comes_with_the_next_and_the_last_one_always(
    task: Make, bad: tuple[int, ...], wanted: list[int]
) -> None:
    made = task(steps=10, validate_every=4)
    made.fit(losses(3.0), forward_backward=scaled({step: float("nan") for step in bad}))
    assert [record["step"] for record in made.log() if "validation" in record] == wanted


@pytest.mark.parametrize(("keep", "chosen"), [(9, 2), (2, 6)])
def test_t4_a_damaged_best_checkpoint_is_said_and_the_next_best_or_the_newest_is_used(
    task: Make, keep: int, chosen: int
) -> None:
    settings = {"steps": 6, "validate_every": 1, "checkpoint_every": 1, "keep": keep, "ema": 0.5}
    made = task(**settings)
    made.fit(losses(5.0, 3.0, 4.0, 2.0, 6.0, 7.0))
    file = made.run / "checkpoints" / "step-00000004" / "rank-0000.safetensors"
    os.truncate(file, 100)
    again = task(**settings)
    with pytest.warns(Note, match="step-00000004/rank-0000.safetensors"):
        fitted = again.fit(losses(5.0))
    assert fitted.progress.chosen == chosen
    assert [str(file) in line for line in fitted.refused] == [True]
    path = made.run / "checkpoints" / f"step-{chosen:08d}"
    wanted = {name: torch.empty_like(value) for name, value in again.model.weights().items()}
    weights = {f"average.{name}": value for name, value in wanted.items()}
    checkpoint.load(path, weights, only="average.")
    assert all(torch.equal(value, wanted[name]) for name, value in again.model.weights().items())


def test_what_is_due_comes_as_often_as_it_says() -> None:
    progress = Progress()
    every_third, every_quarter = Due(3, 1.0, progress, 0.0), Due("auto", 0.25, progress, 0.0)
    found: list[tuple[bool, bool]] = []
    for step in range(1, 9):
        progress.step = step
        found.append((every_third.now(step / 8), every_quarter.now(step / 8)))
        for due, now in zip((every_third, every_quarter), found[-1], strict=True):
            if now:
                assert due.now(step / 8)  # as long as it has not been done
                due.happened(step / 8)
    assert [step for step, (due, _) in enumerate(found, 1) if due] == [3, 6]
    assert [step for step, (_, due) in enumerate(found, 1) if due] == [2, 4, 6, 8]


# ----------------------------------------------------------------------------------------- the seam, and the same again


def test_the_row_whose_operations_are_counted_is_mixed_with_no_other() -> None:
    batch = {"row": torch.arange(4), "x.values": torch.rand(4, 3), "levels": torch.rand(7), "share": torch.tensor(0.5)}
    mixed = batch | {"mix.partner": torch.tensor([3, 0, 1, 2]), "mix.share": torch.tensor(0.5)}
    one = first_row(mixed)
    assert {key: tuple(value.shape) for key, value in one.items()} == {
        "row": (1,), "x.values": (1, 3), "levels": (7,), "share": ()
    }  # fmt: skip


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


LEAN = {"gradients": "bf16", "optimizer": {"kind": "adamw", "state": "bf16"}}


@pytest.mark.parametrize("more", [{}, LEAN], ids=["plain", "lean"])
def test_t15_a_run_that_stops_and_goes_on_ends_with_the_same_weights(task: Make, more: dict[str, Any]) -> None:
    whole = task(steps=9, validate_every=2, ema=0.8, name="whole", **more)
    whole.fit(losses(3.0, 2.0, 2.5))
    interrupted = task(steps=9, validate_every=2, ema=0.8, name="cut", **more)

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        if len(interrupted.steps()) == 6:
            raise KeyboardInterrupt
        return accumulate(model, loss_fn, batches, autocast)

    source = losses(3.0, 2.0, 2.5)
    interrupted.run.joinpath("log.jsonl").touch()
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(source, forward_backward=forward_backward)
    resumed = task(steps=9, validate_every=2, ema=0.8, name="cut", **more)
    resumed.fit(losses(2.5))  # step 4 was saved, after the second validation
    assert torch.equal(resumed.weights(), whole.weights())
    assert [record["loss"] for record in resumed.steps()] == [record["loss"] for record in whole.steps()]


def test_gradients_and_state_in_bf16_leave_weights_in_fp32_and_losses_where_they_are(task: Make) -> None:
    plain, lean = task(steps=12, accumulate=2, name="plain"), task(steps=12, accumulate=2, name="lean", **LEAN)
    for each in (plain, lean):
        each.fit()
    curves = [[record["loss"] for record in each.steps()] for each in (plain, lean)]
    assert curves[1] != curves[0]
    assert curves[1] == pytest.approx(curves[0], rel=0.01)
    assert {value.dtype for value in lean.model.weights().values()} == {torch.float32}


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
    assert "begins anew" in str(caught.value)
    assert checkpoint.find_latest(made.run / "checkpoints") == (None, [])  # a step that was never taken leaves none


def finite(run: Path) -> bool:
    """Whether every tensor of every checkpoint is."""
    files = list(run.glob("checkpoints/step-*/*.safetensors"))
    return all(tensor.isfinite().all() for file in files for tensor in load_tensors(file).values())


@pytest.mark.parametrize("lr", [1e37, 1e39])  # weights that are finite and of no use, and weights that are neither
@pytest.mark.parametrize(("every", "last", "chosen"), [(1, 8, 16), (3, 6, 12)])
def test_t5_no_checkpoint_of_a_run_that_diverges_is_useless_and_the_advice_of_its_message_works(
    task: Make, lr: float, every: int, last: int, chosen: int
) -> None:
    settings = {"steps": 24, "checkpoint_every": every, "validate_every": 4, "clip_norm": None}
    good = task(**settings)
    with pytest.raises(RuntimeError, match="enough"):
        good.fit(losses(2.0, 3.0), forward_backward=stopping_at(9))
    bad = task(**settings, optimizer={"kind": "adamw", "lr": lr})
    with pytest.raises(NotFinite) as caught:
        bad.fit(losses(3.0))
    check_clear(str(caught.value), f"goes on from step {last}", "lower train.optimizer.lr (and say --accept-changes)")
    assert finite(bad.run)
    path, _ = checkpoint.find_latest(bad.run / "checkpoints")
    assert path == bad.run / "checkpoints" / f"step-{last:08d}"
    again = task(**settings)
    fitted = again.fit(losses(1.5, 1.0))
    assert (fitted.progress.step, fitted.progress.chosen, fitted.progress.skipped) == (24, chosen, 0)
    assert all(record["loss"] < 5 for record in again.steps())
    assert len(again.steps()) == 24
    assert finite(again.run)
    assert again.weights().isfinite().all()


def stopping_at(step: int) -> Callable[..., Tensor]:
    count = itertools.count(1)

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        if next(count) == step:
            raise RuntimeError("enough")
        return accumulate(model, loss_fn, batches, autocast)

    return forward_backward


def test_t5_a_run_that_diverges_from_its_first_step_on_begins_anew(task: Make) -> None:
    settings = {"steps": 12, "checkpoint_every": 1, "validate_every": 100, "max_skipped": 3}
    with pytest.raises(NotFinite, match="begins anew"):
        task(**settings, optimizer={"kind": "sgd", "lr": 1e37, "momentum": 0.0, "nesterov": False}).fit(losses(1.0))
    again, whole = task(**settings), task(**settings, name="whole")
    again.fit(losses(1.0))
    whole.fit(losses(1.0))
    assert torch.equal(again.weights(), whole.weights())


@pytest.mark.parametrize("spikes", ["log", "skip"])
def test_t6_a_loss_that_leaps_is_logged_with_its_rows_and_counted_and_the_step_left_out_where_that_is_asked(
    task: Make, spikes: str
) -> None:
    made = task(steps=40, spikes=spikes)
    fitted = made.fit(forward_backward=scaled({30: 50.0, 36: 50.0}))
    found = [record for record in made.steps() if "spike" in record]
    assert [record["step"] for record in found] == [30, 36]  # the first does not hide the second
    assert all(record["spike"] > 6 and len(record["spike_rows"]) == record["rows"] for record in found)
    assert fitted.progress.spikes == 2
    assert fitted.progress.skipped == (2 if spikes == "skip" else 0)
    assert [record["step"] for record in made.steps() if "skipped_rows" in record] == (
        [30, 36] if spikes == "skip" else []
    )


def test_t6_a_lasting_rise_is_a_new_level_and_not_a_spike_for_ever(task: Make) -> None:
    made = task(steps=120)
    fitted = made.fit(forward_backward=scaled(dict.fromkeys(range(40, 121), 50.0)))
    assert 1 <= fitted.progress.spikes < 40
    assert fitted.progress.bad_since is None


def test_t6_a_run_that_goes_on_knows_the_losses_before(task: Make) -> None:
    whole, cut = task(steps=40, name="whole"), task(steps=40, name="cut")
    whole.fit(forward_backward=scaled({30: 50.0}))
    with pytest.raises(RuntimeError, match="enough"):
        cut.fit(forward_backward=stopping_at(29))
    cut = task(steps=40, name="cut")
    cut.fit(forward_backward=scaled({2: 50.0}))  # from step 28 on
    assert [record.get("spike") for record in cut.steps()] == [record.get("spike") for record in whole.steps()]
    assert torch.equal(cut.weights(), whole.weights())


def test_t5_the_rows_named_for_a_language_model_are_documents_of_the_training_split(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"line {number} of some verse\n" for number in range(12)))
    text = {"type": "text", "tokenizer": {"kind": "byte"}, "max_length": 8}  # three windows a line and more
    plain = {
        "name": "verse",
        "data": {"train": str(tmp_path / "lines.txt"), "text_rows": "line", "cache": str(tmp_path / "cache")},
        "outputs": {"text": text},
        "model": {"kind": "transformer", "preset": "tiny"},
        "train": {"steps": 3, "batch_size": 2, "max_skipped": 1},
    }
    recipe = recipes.load(plain)
    prepared = assembly.prepared_data(recipe)
    inputs, outputs = assembly.fitted(recipe, prepared)
    loader = assembly.loader_of(recipe, prepared.split("train"), inputs, outputs)
    ((_, (batch,)),) = itertools.islice(loader.batches(Position()), 1)
    wanted = loader.plan.row_ids(batch)
    assert wanted != sorted(batch["row"].tolist())
    assert max(wanted) < prepared.split("train").rows
    with pytest.raises(NotFinite, match=rf"rows {', '.join(map(str, wanted))} of the training split"):
        fit(
            assembly.build(recipe, inputs, outputs), loader, recipe.train, tmp_path, seed=0,
            loss_fn=task_loss({"text": 1.0}), validate=None, quiet=True,
            forward_backward=scaled({1: float("nan")}),
        )  # fmt: skip


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


@pytest.mark.parametrize(("more", "copies"), [({}, 4), (LEAN, 2.5)], ids=["plain", "lean"])
def test_t8_a_model_whose_training_no_memory_here_holds_is_refused_by_its_size(
    task: Make, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], copies: float
) -> None:
    made = task(steps=1, **more)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in made.model.parameters())
    needed = int(copies * weights)  # weights, gradients, and AdamW's two
    monkeypatch.setattr(devices, "memory_total", lambda device: needed)
    made.fit()
    monkeypatch.setattr(devices, "memory_total", lambda device: needed - 1)
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


@pytest.mark.parametrize(("moment", "step"), [("before", 4), ("before", 8), ("within", 4), ("within", 8)])
def test_t7_a_signal_does_not_wait_for_a_validation_which_is_made_when_the_run_goes_on(
    task: Make, moment: str, step: int
) -> None:
    settings = {"steps": 8, "validate_every": 4, "checkpoint_every": 100, "ema": 0.5}
    whole = task(**settings, name="whole")
    whole.fit(losses(3.0, 2.0))
    cut, source, calls = task(**settings, name="cut"), losses(3.0, 2.0), list[int]()

    def forward_backward(model: nn.Module, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        calls.append(1)
        if moment == "before" and len(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return accumulate(model, loss_fn, batches, autocast)

    def validate() -> dict[str, float]:
        assert moment == "within" or len(calls) < step
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal did not end it")
        return source()

    fitted = cut.fit(validate, forward_backward=forward_backward)
    assert fitted.stopped.exit_code == 143
    path, _ = checkpoint.find_latest(cut.run / "checkpoints")
    assert path is not None
    assert checkpoint.read_state(path)["progress"]["owes_validation"]
    assert checkpoint.read_state(path)["progress"]["step"] == len(cut.steps()) == step
    for _ in range(2):  # killed after it was made up for, and before the next checkpoint: not twice in the log
        cut = task(**settings, name="cut")
        with suppress(RuntimeError):
            cut.fit(losses(4.0, 4.0), forward_backward=stopping_at(2))
    cut = task(**settings, name="cut")
    fitted = cut.fit(losses(3.0, 2.0) if step == 4 else losses(2.0))
    assert [record["step"] for record in cut.log() if "validation" in record] == [4, 8]
    assert torch.equal(cut.weights(), whole.weights())


def test_t7_handlers_are_those_from_before_however_it_ends(task: Make) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    task(steps=1).fit()
    with pytest.raises(NotFinite):
        task(steps=30, max_skipped=1, name="other").fit(loss_fn=poisoned(set(range(ROWS))))
    assert [signal.getsignal(number) for number in numbers] == before


def test_t3_t16_the_log_is_on_the_disk_before_the_checkpoint_is_in_place(
    task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, calls = task(steps=4, checkpoint_every=2), list[str]()
    fsync, rename = os.fsync, os.rename

    def noted_fsync(handle: int) -> None:
        calls.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{handle}'))}")
        fsync(handle)

    def noted_rename(source: Any, target: Any) -> None:
        calls.append(f"rename {os.path.basename(target)}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    made.fit()
    wanted = ["sync log.jsonl", "rename step-00000002", "sync log.jsonl", "rename step-00000004"]
    assert [call for call in calls if call in wanted] == wanted
    assert calls[calls.index("sync log.jsonl") + 1] == "sync run"  # the folder that has its name


@pytest.mark.parametrize("lost", ["all", "some"])
def test_t16_a_log_that_lacks_steps_of_the_checkpoint_is_told(task: Make, lost: str) -> None:
    task(steps=4, checkpoint_every=2).fit()
    log = task(steps=4).run / "log.jsonl"
    log.unlink() if lost == "all" else log.write_text(log.read_text().splitlines(keepends=True)[0])
    with pytest.warns(
        Note, match=rf"log.jsonl: it ends with step {0 if lost == 'all' else 1}, the checkpoint is of step 4"
    ):
        task(steps=4).fit()


def test_cuda_is_asked_to_add_in_the_same_order_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        deterministic(torch.device("cpu"))
        assert not torch.are_deterministic_algorithms_enabled()
        deterministic(torch.device("cuda"))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_a_loader_goes_on_from_any_position(task: Make) -> None:
    loader = task(steps=1).loader
    places = list(itertools.islice(loader.batches(Position()), 12))
    position, _ = places[7]
    rest = list(itertools.islice(loader.batches(position), 4))
    for (_, wanted), (_, found) in zip(places[8:], rest, strict=True):
        assert [batch["row"].tolist() for batch in wanted] == [batch["row"].tolist() for batch in found]


def test_weights_of_losses_are_learnt_saved_and_gone_on_with(folder: Path, tmp_path: Path) -> None:
    learning = {"steps": 8, "weighing": "uncertainty", "optimizer": {"lr": 0.05}}
    whole = Task(folder, tmp_path / "whole", learning)
    whole.fit()
    found = whole.model.learnt_weights
    assert found is not None
    assert set(found) == {"kind", "y"}
    assert all(weight != 1 for weight in found.values())
    halved = Task(folder, tmp_path / "halved", learning)
    with suppress(KeyboardInterrupt):
        halved.fit(loss_fn=failing_after(4, task_loss({"y": 1.0, "kind": 0.5})))
    again = Task(folder, tmp_path / "halved", learning)
    again.fit()
    assert again.model.learnt_weights == found
    assert Task(folder, tmp_path / "plain", {"steps": 1}).model.learnt_weights is None


def failing_after(steps: int, loss_fn: LossFunction) -> LossFunction:
    left = itertools.count(steps, -1)

    def wrapped(model: nn.Module, batch: Batch, totals: dict[str, Tensor]) -> Tensor:
        if next(left) <= 0:
            raise KeyboardInterrupt
        return loss_fn(model, batch, totals)

    return wrapped
