"""Drive the loop: log, validate, save, stop, go on. Whoever trains anything calls `fit`; there is no second one."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dougong.core import lean
from dougong.core.artefacts import repair_jsonl, sync_file
from dougong.core.devices import give_back_freed_memory, keep_freed_memory, pick_dtype, place, require_memory
from dougong.core.errors import Diverged, MachineError, Note, bad_field, shown
from dougong.data.loader import Loader, Position
from dougong.model import Batch, Model
from dougong.training import checkpoint, compilation, optimizers, routes, schedules, states
from dougong.training.loop import Average, Config, LossFunction, NotFinite, Progress, accumulate, train_steps
from dougong.training.monitors import Interrupted, Monitor, Stop, stop_on_signals

T = TypeVar("T")
VALIDATIONS = 20  # of a run, unless the recipe says how often
CHECKPOINT_SECONDS = 300.0
GIVE_ROWS = "give some rows to validation: data: {split: {validation: 0.1}}"


@dataclass(frozen=True)
class Fitted:
    """How a call of `fit` ended."""

    progress: Progress
    stopped: Stop  # true where a signal ended it before its budget

    @property
    def refused(self) -> list[str]:
        """Damaged checkpoints that were passed over in this run's life, and why."""
        return self.progress.refused


class Session:
    """What `fit` holds: the model and all state that a checkpoint saves."""

    def __init__(self, model: Model, loader: Loader, config: Config, folder: Path, seed: int):
        self.model, self.loader, self.config, self.folder = model, loader, config, folder
        self.device = next(model.parameters()).device
        check_fits(model, config, self.device)
        deterministic(self.device)
        keep_freed_memory(large=config.gradients == "fp32")
        routes.set_attention(model, config.attention)
        if config.gradients == "bf16":
            optimizers.narrow_gradients(model)
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
        """Save this step. Raises NotFinite if its weights are not: such a checkpoint would only stand in the way."""
        tensors = self.tensors()
        wrong = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
        if wrong:
            raise self.gives_up(f"{wrong} is not finite after step {self.progress.step:,}", "")
        optimizer, groups = states.optimizer_tensors(self.optimizer, self.model)
        state = {"progress": self.progress.to_json(), "optimizer": groups, "random": states.random_state()}
        # First the log, or a power cut would leave a checkpoint whose steps it does not know.
        sync_file(self.folder / "log.jsonl")
        # While losses are bad none goes: one from before is what the run may have to go back to.
        keep = self.progress.step + 2 if self.progress.goes_bad else self.config.keep
        folder = self.folder / "checkpoints"
        checkpoint.save(folder, self.progress.step, tensors | optimizer, state, keep=keep, best=best)

    def gives_up(self, why: str, else_fix: str) -> NotFinite:
        """Remove the checkpoints of weights that gave bad losses, so that the next start goes on from before them."""
        since = self.progress.bad_since or self.progress.step + 1
        left = checkpoint.drop_from(self.folder / "checkpoints", since - 1)  # of a step's weights the next loss tells
        begin = f"goes on from step {int(left.name[5:]):,}" if left else "begins anew"
        return NotFinite(
            f"train: {why}. Losses were good before step {since:,}; the next start {begin}. "
            f"Fix: lower train.optimizer.lr (and say --accept-changes){else_fix}."
        )

    def resume(self) -> None:
        """Go on from the newest good checkpoint, if there is one; say what was passed over as damaged."""
        path, refused = checkpoint.find_latest(self.folder / "checkpoints")
        log = self.folder / "log.jsonl"
        if path is None:
            repair_jsonl(log, keep=lambda record: False)
            return
        described = checkpoint.read_state(path)["optimizer"]
        buffers = states.optimizer_buffers(self.optimizer, self.model, described)
        state = checkpoint.load(path, self.tensors() | buffers)
        options = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        states.restore_optimizer(self.optimizer, self.model, described, buffers)
        for group, wanted in zip(self.optimizer.param_groups, options, strict=True):
            group.update(wanted)  # the recipe's, where a changed one was accepted
        states.place_counts(self.optimizer)
        known = {field.name for field in fields(Progress)}
        self.progress = Progress(**{key: value for key, value in state["progress"].items() if key in known})
        states.set_random_state(state["random"])
        self.refuse(refused)
        last = cut_log(log, self.progress)
        if last < self.progress.step:
            lost = f"{log}: it ends with step {last:,}, the checkpoint is of step {self.progress.step:,}"
            warnings.warn(f"{lost}. The weights are whole; these steps are missing from the log.", Note, stacklevel=2)

    def refuse(self, reasons: list[str]) -> None:
        """Say and remember which checkpoints were passed over; also where progress is not shown."""
        for reason in reasons:
            warnings.warn(f"checkpoint refused, another one is used: {reason}", Note, stacklevel=2)
            if reason not in self.progress.refused:
                self.progress.refused.append(reason)

    def load_best(self) -> int | None:
        """Put the weights with the lowest validation loss into the model; return their step."""
        path, refused = checkpoint.find_best(self.folder / "checkpoints")
        self.refuse(refused)
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
    watch: Callable[[int], None] | None = None,
    quiet: bool = False,
) -> Fitted:
    """Train until the budget is used, or a signal comes; going on from the checkpoints in `folder` if there are some.

    `validate` returns {"loss": …} and more; the weights with the lowest loss are those that the model holds at the end:
    the last ones where it tells no loss. `watch` is called with the step after each, with the weights that were measured.
    """
    if validate is None:
        check_needs_no_validation(config)
    session = Session(model, loader, config, folder, seed)
    session.resume()
    progress = session.progress
    autocast = autocast_for(config, session.device, model)
    monitor = Monitor(folder / "log.jsonl", session.device, autocast_dtype(config, session.device, model), quiet=quiet)
    if progress.step:
        monitor.say(f"goes on from step {progress.step:,}")
    due_validation = Due(config.validate_every, 1 / VALIDATIONS, progress, session.done())
    every = CHECKPOINT_SECONDS if config.checkpoint_every == "auto" else config.checkpoint_every
    due_checkpoint = Due(every, 1.0, progress, session.done())
    waiting = Waiting(session)
    is_compiled = compilation.is_wanted(config, model, loader.plan)
    seam = counted(forward_backward, monitor, is_compiled or forward_backward is not accumulate)
    blocks = compilation.compiled(model, loader.plan, config.activations) if is_compiled else nullcontext()
    with (
        stop_on_signals() as stop, monitor, machine_errors(config, waiting), blocks,
        closing(waiting.batches()) as batches,
    ):  # fmt: skip
        steps = train_steps(
            model, loss_fn, batches, session.optimizer, config, progress,
            factor=session.factor, autocast=autocast, forward_backward=seam, row_ids=loader.plan.row_ids,
        )  # fmt: skip
        if run_validation(session, validate, watch, monitor, stop):  # owed since before the run was stopped
            session.save(best=True)
        while not session.ended() and not (
            stop and progress.owes_validation
        ):  # what is owed comes first, or not at all
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
            report_bad(session, numbers, monitor)
            if validate and (due_validation.now(done) or done >= 1):
                progress.owes_validation = True
                due_validation.happened(done)
            best = run_validation(session, validate, watch, monitor, stop)
            due = due_checkpoint.now(done)
            stopping = bool(stop)  # asked once: a signal between the two lines below must not leave without saving
            if best or due or stopping or session.ended():
                session.save(best)
                due_checkpoint.happened(done)
            if stopping:
                break
    if not stop:
        progress.chosen = session.load_best() if validate else None
        if progress.chosen is None and session.average:
            session.average.swap()
        progress.chosen = progress.chosen or progress.step
    model.eval()
    return Fitted(progress, stop)


def step_record(numbers: dict[str, Any], loss: float, seconds: float, waited: float) -> dict[str, Any]:
    """One line of the log."""
    plain = {
        key: float(value) if isinstance(value, Tensor) else value for key, value in numbers.items() if value is not None
    }
    return plain | {"loss": loss, "step_seconds": round(seconds, 4), "wait_seconds": round(waited, 4)}


def run_validation(
    session: Session,
    validate: Callable[[], dict[str, float]] | None,
    watch: Callable[[int], None] | None,
    monitor: Monitor,
    stop: Stop,
) -> bool:
    """Measure on the validation rows if that is owed; return whether this is the best so far.

    A step not taken left the weights that were measured before, unless it is the last. A signal does not wait for it:
    it stays owed, and is made up for when the run goes on.
    """
    progress = session.progress
    if validate is None or not progress.owes_validation or (progress.skipped_in_a_row and session.done() < 1):
        return False
    if session.average:
        session.average.swap()
    session.model.eval()
    try:
        with stop.interrupts():
            result = validate()
            if watch:
                watch(progress.step)
    except Interrupted:
        return False
    except Diverged as error:  # answers without a number have no metrics
        monitor.say(f"step {progress.step:,}  validation: {error}")
        result = {"loss": math.nan}
    finally:
        if session.average:
            session.average.swap()
    loss = result.get("loss", math.nan)
    best = math.isfinite(loss) and (progress.best is None or loss < progress.best)
    progress.owes_validation = False
    progress.since_best = 0 if best else progress.since_best + 1
    progress.best = loss if best else progress.best
    progress.plateau = schedules.observe(session.config.schedule, loss, progress.plateau)
    monitor.record({"step": progress.step, "validation": {name: round(value, 6) for name, value in result.items()}})
    shown = "  ".join(f"{name} {value:.4g}" for name, value in result.items())
    if shown:
        monitor.say(f"step {progress.step:,}  validation: {shown}{'  (best)' if best else ''}")
    return best


def report_bad(session: Session, numbers: dict[str, Any], monitor: Monitor) -> None:
    """Say which rows gave a loss that is too high or not finite; stop when steps are left out again and again."""
    progress, named = session.progress, numbers["skipped_rows"] or numbers["spike_rows"]
    if named is None:
        return
    rows = ", ".join(map(str, named[:20])) + (" …" if len(named) > 20 else "")
    spike, skipped = numbers["spike"], progress.skipped_in_a_row
    what = f"the loss is a spike ({spike:.0f} deviations high)" if spike else "loss or gradient is not finite"
    monitor.say(f"step {progress.step:,}{' not taken' if skipped else ''}: {what} (rows {rows})")
    if skipped >= session.config.max_skipped:
        why = "spikes, or not finite," if session.config.spikes == "skip" else "not finite"
        raise session.gives_up(
            f"loss or gradients were {why} for {skipped} steps in a row, last on the rows {rows} of the training split",
            ", or look at these rows, or raise train.max_skipped",
        )


class Due:
    """Whether something that happens every so many steps, seconds, or shares of the budget is due."""

    def __init__(self, every: str | int | float, share: float, progress: Progress, done: float):
        self.every, self.share, self.progress = every, share, progress
        self.happened(done)

    def happened(self, done: float) -> None:
        """It was done, due or not: from here on counts the time to the next."""
        self.last = self._now(done)

    def _now(self, done: float) -> float:
        if isinstance(self.every, int):
            return self.progress.step // self.every
        return time.monotonic() if isinstance(self.every, float) else done // self.share

    def now(self, done: float) -> bool:
        return self._now(done) - self.last >= (self.every if isinstance(self.every, float) else 1)


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
                placed = [place(batch, self.session.device) for batch in micro_batches]
                placed = [self.session.model.augment(batch) for batch in placed]
                self.seconds = time.perf_counter() - started
                yield position, placed


def check_fits(model: Model, config: Config, device: torch.device) -> None:
    """Refuse a model whose weights, gradients and optimizer state the machine cannot hold, however small the batch."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    optimizer, narrow = config.optimizer, config.gradients == "bf16"
    copies = 1 + (0.5 if narrow else 1) + optimizers.state_copies(optimizer) + bool(config.ema)
    what = f"train: weights, gradients and {optimizer.kind}'s state take"
    fix = "train a smaller model (model.width, model.layers)"
    if optimizer.kind not in optimizers.TAKE_BF16:
        fix += f", or take kind: {optimizers.TAKE_BF16[0]} with state: bf16"
    elif not narrow or getattr(optimizer, "state", None) != "bf16":
        fix += ", or keep less of it (gradients: bf16, optimizer: {state: bf16})"
    require_memory(what, int(copies * weights), device, fix)


def cut_log(log: Path, progress: Progress) -> int:
    """Drop what the log holds beyond `progress`, and the validation that is yet to be made; return its last step."""
    last = 0

    def keep(record: dict[str, Any]) -> bool:
        nonlocal last
        step = record["step"]
        if step > progress.step or (step == progress.step and progress.owes_validation and "validation" in record):
            return False
        last = step
        return True

    repair_jsonl(log, keep)
    return last


def deterministic(device: torch.device) -> None:
    """Ask CUDA for the same sums in the same order each time; what it cannot do so, torch warns of. CPUs need no word."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def check_needs_no_validation(config: Config) -> None:
    """Refuse settings that listen to a validation loss where there will be none."""
    if config.early_stop:
        raise bad_field("train.early_stop", config.early_stop, "rows to validate on, and there are none", GIVE_ROWS)
    if isinstance(config.schedule, schedules.Plateau):
        raise bad_field("train.schedule.kind", "plateau", "rows to validate on, and there are none", GIVE_ROWS)


@contextmanager
def machine_errors(config: Config, waiting: Waiting) -> Iterator[None]:
    """Where the machine gives out, say which setting keeps within what it has."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        told = str(error).splitlines()[0] if str(error) else "out of memory"
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
    same = "the result is the same, but for batch norm"
    if config.accumulate > 1:
        return f"set train.accumulate: {2 * config.accumulate}; {same}"
    size = "batch_tokens" if config.batch_tokens else "batch_size"
    return f"set train.micro_batch: {rows // 2}; {same}. Or lower train.{size}"


def autocast_dtype(config: Config, device: torch.device, model: Model) -> torch.dtype:
    return pick_dtype(config.precision, device, model.backbone.out_width)


def autocast_for(config: Config, device: torch.device, model: Model) -> Callable[[], AbstractContextManager[Any]]:
    """A context in which matrix products run in the chosen precision."""
    dtype = autocast_dtype(config, device, model)
    if dtype == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype)


# The counter writes an operation in others where torch has a way to, and silu's gradient then has other last bits: a run that
# goes on counts its first step, and would no longer be the same.
WHOLE = {torch.ops.aten.silu_backward.default: lambda *given, **named: 0}


def first_row(batch: Batch) -> Batch:
    """One row of a batch, mixed with no other; what is not of its rows stays whole."""
    rows, plain = len(batch["row"]), {key: value for key, value in batch.items() if not key.startswith("mix.")}
    return {key: value[:1] if value.ndim and len(value) == rows else value for key, value in plain.items()}


def counted(forward_backward: Callable[..., Tensor], monitor: Monitor, apart: bool) -> Callable[..., Tensor]:
    """The same, with the floating-point operations of the first step counted (for the live line).

    Compiled blocks cannot be looked into, nor gradients of gradients: `apart`, a plain pass of one row, which changes
    nothing, goes before. Of more rows it would take more memory than any step that follows; what compiling took, no step
    asks for again.
    """

    def wrapped(model: Model, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
        if monitor.flops_per_row:
            return forward_backward(model, loss_fn, batches, autocast)
        looked_at = [first_row(batches[0])] if apart else batches
        with FlopCounterMode(display=False, custom_mapping=WHOLE) as counter:
            lean.never_compiled(type(counter.mode).__torch_dispatch__)
            if apart:
                model.eval()  # no dropout, no statistics, and plain blocks
                accumulate(model, loss_fn, looked_at, autocast)
            else:
                loss = forward_backward(model, loss_fn, batches, autocast)
        rows = sum(len(batch["row"]) for batch in looked_at)
        monitor.flops_per_row = counter.get_total_flops() / max(rows, 1)
        if apart:
            model.zero_grad(set_to_none=True)
            model.train()
            loss = forward_backward(model, loss_fn, batches, autocast)
            give_back_freed_memory()
        return loss

    return wrapped
