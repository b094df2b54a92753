"""Drive the loop: log, validate, save, stop, go on. Whoever trains anything calls `fit`; there is no second one."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dougong.core.artefacts import disk_errors, repair_jsonl
from dougong.core.devices import pick_dtype, require_memory
from dougong.core.errors import MachineError, bad_field, shown
from dougong.data.loader import Loader, Position
from dougong.model import Batch, Model
from dougong.training import checkpoint, optimizers, schedules
from dougong.training.loop import Average, Config, LossFunction, NotFinite, Progress, accumulate, train_steps
from dougong.training.monitors import Monitor, Stop, stop_on_signals

T = TypeVar("T")
VALIDATIONS = 20  # of a run, unless the recipe says how often
CHECKPOINT_SECONDS = 300.0


@dataclass(frozen=True)
class Fitted:
    """How a call of `fit` ended."""

    progress: Progress
    stopped: Stop  # true where a signal ended it before its budget
    refused: list[str]  # damaged checkpoints that were passed over


class Session:
    """What `fit` holds: the model and all state that a checkpoint saves."""

    def __init__(self, model: Model, loader: Loader, config: Config, folder: Path, seed: int):
        self.model, self.loader, self.config, self.folder = model, loader, config, folder
        self.device = next(model.parameters()).device
        check_fits(model, config, self.device)
        self.optimizer = optimizers.build(config.optimizer, model)
        self.average = Average(model, config.ema) if config.ema else None
        self.progress = Progress()
        torch.manual_seed(seed)  # dropout and augmentation; the weights are already drawn

    # ------------------------------------------------------------------------------------------------------ the budget

    def done(self) -> float:
        """The share of the budget that is used."""
        name, budget = self.config.budget
        progress = self.progress
        if name == "epochs":
            batches = max(self.loader.plan.batches(progress.epoch), 1)
            return (progress.epoch + progress.index / batches) / budget
        used = {"steps": progress.step, "tokens": progress.tokens, "minutes": progress.seconds / 60}
        return used[name] / budget

    def ended(self) -> bool:
        """Whether there is nothing left to do: the budget is used, or the validation loss has stopped falling."""
        patience = self.config.early_stop
        return self.done() >= 1 or bool(patience and self.progress.since_best >= patience)

    def factor(self) -> float:
        return schedules.factor(self.config.schedule, self.progress.step, self.done(), self.progress.plateau)

    # ------------------------------------------------------------------------------------------------------ saved state

    def tensors(self) -> dict[str, Tensor]:
        named = {f"model.{name}": value for name, value in self.model.weights().items()}
        if self.average:
            named |= {f"average.{name}": value for name, value in self.average.tensors().items()}
        return named

    def save(self, best: bool = False) -> None:
        optimizer, groups = checkpoint.optimizer_tensors(self.optimizer, self.model)
        state = {"progress": self.progress.to_json(), "optimizer": groups, "random": checkpoint.random_state()}
        folder, log = self.folder / "checkpoints", self.folder / "log.jsonl"
        with disk_errors(log), log.open("rb") as stream:
            os.fsync(stream.fileno())  # or a power cut would leave a checkpoint whose steps the log does not know
        checkpoint.save(folder, self.progress.step, self.tensors() | optimizer, state, keep=self.config.keep, best=best)

    def resume(self) -> list[str]:
        """Go on from the newest good checkpoint, if there is one; return what was passed over as damaged."""
        path, refused = checkpoint.find_latest(self.folder / "checkpoints")
        log = self.folder / "log.jsonl"
        if path is None:
            repair_jsonl(log, keep=lambda record: False)
            return refused
        described = checkpoint.read_state(path)["optimizer"]
        buffers = checkpoint.optimizer_buffers(self.optimizer, self.model, described)
        state = checkpoint.load(path, self.tensors() | buffers)
        options = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        checkpoint.restore_optimizer(self.optimizer, self.model, described, buffers)
        for group, wanted in zip(self.optimizer.param_groups, options, strict=True):
            group.update(wanted)  # the recipe's, where a changed one was accepted
        known = {field.name for field in fields(Progress)}
        self.progress = Progress(**{key: value for key, value in state["progress"].items() if key in known})
        checkpoint.set_random_state(state["random"])
        repair_jsonl(log, keep=lambda record: record["step"] <= self.progress.step)
        return refused

    def load_best(self) -> int | None:
        """Put the weights with the lowest validation loss into the model; return their step."""
        path = checkpoint.best(self.folder / "checkpoints")
        if path is None:
            return None
        weights = self.tensors()
        for part in ("model.", "average.") if self.average else ("model.",):
            checkpoint.load(path, {name: value for name, value in weights.items() if name.startswith(part)}, only=part)
        if self.average:
            self.average.swap()
        return int(checkpoint.read_state(path)["progress"]["step"])


def fit(
    model: Model,
    loader: Loader,
    config: Config,
    folder: Path,
    *,
    seed: int,
    loss_fn: LossFunction,
    validate: Callable[[], dict[str, float]] | None,
    forward_backward: Callable[..., Tensor] = accumulate,
    quiet: bool = False,
) -> Fitted:
    """Train until the budget is used, or a signal comes; going on from the checkpoints in `folder` if there are some.

    `validate` returns {"loss": …} and more; the weights with the lowest loss are those that the model holds at the end.
    """
    if validate is None:
        check_needs_no_validation(config)
    session = Session(model, loader, config, folder, seed)
    refused = session.resume()
    progress = session.progress
    autocast = autocast_for(config, session.device, model)
    monitor = Monitor(folder / "log.jsonl", session.device, autocast_dtype(config, session.device, model), quiet=quiet)
    for line in refused:
        monitor.say(line)
    due_validation = Due(config.validate_every, 1 / VALIDATIONS, progress, session.done())
    due_checkpoint = Due(
        CHECKPOINT_SECONDS if config.checkpoint_every == "auto" else config.checkpoint_every,
        1.0,
        progress,
        session.done(),
    )
    waiting = Waiting(session)
    seam = counted(forward_backward, monitor)
    with stop_on_signals() as stop, monitor, machine_errors(config, waiting), closing(waiting.batches()) as batches:
        steps = train_steps(
            model, loss_fn, batches, session.optimizer, config, progress,
            factor=session.factor, autocast=autocast, forward_backward=seam,
        )  # fmt: skip
        while not session.ended():
            started = time.perf_counter()
            model.train()
            numbers = next(steps)
            if session.average and not progress.skipped_in_a_row:
                session.average.update(progress.step)
            loss = float(numbers["loss"])
            seconds = time.perf_counter() - started
            progress.seconds += seconds
            done = session.done()
            left = progress.seconds * (1 - done) / done if done > 0 else None
            monitor.step(step_record(numbers, loss, seconds, waiting.seconds), done, left)
            if progress.skipped_in_a_row:
                report_skipped(session, numbers, monitor)
            best = False
            if validate and (due_validation.now(done) or done >= 1) and not progress.skipped_in_a_row:
                best = run_validation(session, validate, monitor)
            stopping = bool(stop)  # asked once: a signal between the two lines below must not leave without saving
            if best or due_checkpoint.now(done) or stopping or session.ended():
                session.save(best)
            if stopping:
                break
    if not stop:
        progress.chosen = session.load_best() if validate else None
        if progress.chosen is None and session.average:
            session.average.swap()
        progress.chosen = progress.chosen or progress.step
    model.eval()
    return Fitted(progress, stop, refused)


def step_record(numbers: dict[str, Any], loss: float, seconds: float, waited: float) -> dict[str, Any]:
    """One line of the log."""
    plain = {
        key: float(value) if isinstance(value, Tensor) else value for key, value in numbers.items() if value is not None
    }
    return plain | {"loss": loss, "step_seconds": round(seconds, 4), "wait_seconds": round(waited, 4)}


def run_validation(session: Session, validate: Callable[[], dict[str, float]], monitor: Monitor) -> bool:
    """Measure on the validation rows; return whether this is the best so far."""
    progress = session.progress
    if session.average:
        session.average.swap()
    session.model.eval()
    result = validate()
    if session.average:
        session.average.swap()
    loss = result["loss"]
    best = math.isfinite(loss) and (progress.best is None or loss < progress.best)
    progress.since_best = 0 if best else progress.since_best + 1
    progress.best = loss if best else progress.best
    progress.plateau = schedules.observe(session.config.schedule, loss, progress.plateau)
    monitor.record({"step": progress.step, "validation": {name: round(value, 6) for name, value in result.items()}})
    shown = "  ".join(f"{name} {value:.4g}" for name, value in result.items())
    monitor.say(f"step {progress.step:,}  validation: {shown}{'  (best)' if best else ''}")
    return best


def report_skipped(session: Session, numbers: dict[str, Any], monitor: Monitor) -> None:
    """Say which rows gave a loss or gradient that is not finite; stop when it keeps happening."""
    rows = ", ".join(map(str, numbers["skipped_rows"][:20])) + (" …" if len(numbers["skipped_rows"]) > 20 else "")
    monitor.say(f"step {session.progress.step:,} not taken: loss or gradient is not finite (rows {rows})")
    if session.progress.skipped_in_a_row < session.config.max_skipped:
        return
    session.save()
    raise NotFinite(
        f"train: loss or gradients were not finite for {session.progress.skipped_in_a_row} steps in a row, last on the "
        f"rows {rows} of the training split. The weights of the last good step are saved. "
        "Fix: lower train.optimizer.lr (and say --accept-changes), or look at these rows."
    )


class Due:
    """Whether something that happens every so many steps, seconds, or shares of the budget is due."""

    def __init__(self, every: str | int | float, share: float, progress: Progress, done: float):
        self.every, self.share, self.progress = every, share, progress
        self.last = self._now(done)

    def _now(self, done: float) -> float:
        if isinstance(self.every, int):
            return self.progress.step // self.every
        return time.monotonic() if isinstance(self.every, float) else done // self.share

    def now(self, done: float) -> bool:
        current = self._now(done)
        due = current - self.last >= (self.every if isinstance(self.every, float) else 1)
        self.last = current if due else self.last
        return due


class Waiting:
    """Batches on the model's device and augmented, with the time that the model waited for them."""

    def __init__(self, session: Session):
        self.session, self.seconds, self.rows = session, 0.0, 0

    def batches(self) -> Generator[tuple[Position, list[Batch]]]:
        with closing(self.session.loader.batches(self.session.progress.position)) as source:
            while True:
                started = time.perf_counter()
                position, micro_batches = next(source)
                self.rows = max(len(batch["row"]) for batch in micro_batches)
                placed = [to_device(batch, self.session.device) for batch in micro_batches]
                placed = [self.session.model.augment(batch) for batch in placed]
                self.seconds = time.perf_counter() - started
                yield position, placed


def check_fits(model: Model, config: Config, device: torch.device) -> None:
    """Refuse a model whose weights, gradients and optimizer state the machine cannot hold, however small the batch."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    copies = 2 + optimizers.STATES[config.optimizer.kind] + bool(config.ema)
    what = f"train: weights, gradients and {config.optimizer.kind}'s state take"
    fix = "train a smaller model (model.width, model.layers), or take an optimizer with less state (sgd)"
    require_memory(what, copies * weights, device, fix)


def check_needs_no_validation(config: Config) -> None:
    """Refuse settings that listen to a validation loss where there will be none."""
    fix = "give some rows to validation: data: {split: {validation: 0.1}}"
    if config.early_stop:
        raise bad_field("train.early_stop", config.early_stop, "rows to validate on, and there are none", fix)
    if isinstance(config.schedule, schedules.Plateau):
        raise bad_field("train.schedule.kind", "plateau", "rows to validate on, and there are none", fix)


@contextmanager
def machine_errors(config: Config, waiting: Waiting) -> Iterator[None]:
    """Where the machine gives out, say which setting keeps within what it has."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        told = str(error).splitlines()[0] if str(error) else "out of memory"
        if "DataLoader worker" in told:
            raise MachineError(
                f"train.workers = {config.workers}: a process that reads batches has died ({shown(told)}). The last "
                "checkpoint is good, the same command goes on from it. Fix: free memory, or set train.workers: 0."
            ) from error
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in told:
            raise MachineError(
                f"train: out of memory with {waiting.rows} rows computed at once ({shown(told)}). "
                f"Fix: {smaller(config, waiting.rows)}."
            ) from error
        raise


def smaller(config: Config, rows: int) -> str:
    """The setting that halves what is computed at once."""
    if rows <= 1:
        return "train a smaller model, or shorter inputs: a single row does not fit"
    if config.accumulate > 1:
        return f"set train.accumulate: {2 * config.accumulate}; the result is the same"
    return f"set train.micro_batch: {rows // 2}; the result is the same. Or lower train.batch_size"


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def autocast_dtype(config: Config, device: torch.device, model: Model) -> torch.dtype:
    return pick_dtype(config.precision, device, model.backbone.out_width)


def autocast_for(config: Config, device: torch.device, model: Model) -> Callable[[], AbstractContextManager[Any]]:
    """A context in which matrix products run in the chosen precision."""
    dtype = autocast_dtype(config, device, model)
    if dtype == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype)


def counted(forward_backward: Callable[..., Tensor], monitor: Monitor) -> Callable[..., Tensor]:
    """The same, with the floating-point operations of the first step counted (for the live line)."""

    def wrapped(model: Model, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        if monitor.flops_per_row:
            return forward_backward(model, loss_fn, batches, autocast)
        with FlopCounterMode(display=False) as counter:
            loss = forward_backward(model, loss_fn, batches, autocast)
        monitor.flops_per_row = counter.get_total_flops() / max(sum(len(batch["row"]) for batch in batches), 1)
        return loss

    return wrapped
