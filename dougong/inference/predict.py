"""Predictions for all rows of a plan, as numpy, with the targets beside them."""

# N rows, B batch, T time

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dougong.core.devices import place
from dougong.core.errors import Diverged
from dougong.data.columns import Columns, Ragged
from dougong.data.loader import Plan, WindowPlan, once
from dougong.data.windows import Windows
from dougong.fields import Field
from dougong.inference import generate, making
from dougong.inference.neighbours import ranks, together
from dougong.metrics.writing import text_column, texts
from dougong.model import Batch, Model

Autocast = Callable[[], Any]


@dataclass(frozen=True)
class Predicted:
    """One batch of rows: for each output what was predicted, what is right, the sum of its loss and of its targets."""

    rows: np.ndarray  # (N,) row ids
    predictions: dict[str, Columns]
    targets: dict[str, Columns]
    losses: dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Answer:
    """One batch as the model answered it."""

    batch: Batch
    outputs: dict[str, Columns]
    losses: dict[str, tuple[float, int]]


def losses(model: Model, plan: Plan, autocast: Autocast) -> dict[str, float]:
    """The mean loss of each output over the plan, as training counts it, and nothing else."""
    sums: dict[str, np.ndarray] = {}
    for answer in _answers(model, plan, autocast):
        for name, loss in answer.losses.items():
            sums[name] = sums.get(name, np.zeros(2)) + loss
    return {name: float(total / count) if count else float("nan") for name, (total, count) in sums.items()}


def predictions(model: Model, plan: Plan, autocast: Autocast, *, write: bool = False) -> Iterator[Predicted]:
    """Every row of the plan once. For a language model a row is a document, whatever windows it was read in.

    With `write`, a model that writes texts from inputs does so: "text" of predictions and targets. One that makes its
    output from noise makes it, from noise that follows from the row; without, of both sides only the loss is told.
    """
    answers = _answers(model, plan, autocast)
    if isinstance(plan, WindowPlan):
        assert model.written is not None
        yield from _documents(answers, plan, model.written.name)
        return
    if model.quoting is not None:
        yield from _quoted(answers, plan, model.quoting)
        return
    if model.paired is not None:
        yield from _searched(answers, [field.name for field in model.inputs], model.paired)
        return
    for answer in answers:
        targets = {name: _columns(answer.batch, name) for name in answer.outputs}
        outputs = answer.outputs
        if model.written is not None:
            name = model.written.name
            outputs = {name: {"nats": np.asarray(outputs[name]["nats"]).sum(1)}}
            targets = {name: _read(model.written.codec, targets[name])}
            if write and model.inputs:
                right = plan.split.take(answer.batch["row"].numpy())[f"{name}.tokens"]  # whole, however long
                outputs[name]["text"] = text_column(generate.answers(model, answer.batch, precise=autocast))
                targets[name]["text"] = text_column(model.written.codec.decode({"tokens": right}))
        elif model.made is not None:
            name = model.made.name
            if write:
                outputs[name] |= making.make(model, answer.batch, answer.batch["row"].tolist(), precise=autocast)
                yield _known(Predicted(answer.batch["row"].numpy(), outputs, targets, answer.losses), name)
                continue
            targets[name] = {"known": targets[name]["known"]}
        else:
            outputs = {name: unpadded(columns) for name, columns in outputs.items()}
            targets = {name: unpadded(columns) for name, columns in targets.items()}
        yield Predicted(answer.batch["row"].numpy(), outputs, targets, answer.losses)


def _known(predicted: Predicted, name: str) -> Predicted:
    """The rows that have what was made of them: there is nothing to lay beside the others."""
    known = np.flatnonzero(np.asarray(predicted.targets[name]["known"]))

    def of(columns: Columns) -> Columns:
        return {key: np.asarray(column)[known] for key, column in columns.items()}

    made, real = {name: of(predicted.predictions[name])}, {name: of(predicted.targets[name])}
    return Predicted(predicted.rows[known], made, real, predicted.losses)


@torch.inference_mode()
def _answers(model: Model, plan: Plan, autocast: Autocast) -> Iterator[Answer]:
    device = next(model.parameters()).device
    model.eval()
    for batch in once(plan):
        placed = model.measured(place(batch, device))
        with autocast():
            outputs, losses = model.evaluate(placed)
        counts = model.counts(placed)
        yield Answer(
            batch,
            {name: {key: as_numpy(value) for key, value in out.items()} for name, out in outputs.items()},
            {name: (float(loss), int(counts[name])) for name, loss in losses.items()},
        )


def _read(codec: Any, text: Columns) -> Columns:
    """Tokens and bytes of each row as far as a batch takes them: of a row that is cut, the rest was never predicted."""
    if "learnt" in text:  # some of the tokens only, as the codec has counted them
        return {"tokens": np.asarray(text["learnt"]), "bytes": np.asarray(text["bytes"])}
    tokens, length = np.asarray(text["tokens"]), np.asarray(text["tokens.length"])  # (N, T), (N,)
    size = np.array(text["bytes"])  # (N,)
    for row in np.flatnonzero(tokens[np.arange(len(tokens)), length - 1] != codec.end):
        size[row] = min(size[row], codec.size(tokens[row, : length[row]]))
    return {"tokens": length, "bytes": size}


def _documents(answers: Iterator[Answer], plan: WindowPlan, name: str) -> Iterator[Predicted]:
    """Add up what the tokens of each document cost, how many there were to be told, and how many of them were told right.

    Windows come in order: all but the last document are complete.
    """
    # (rows,) of UTF-8; words have none, for what stands between them is not kept
    sizes = [np.asarray(shard[f"{name}.bytes"]) for shard in plan.split.shards if f"{name}.bytes" in shard]
    first = 0  # the first document that is still open
    sums: dict[str, np.ndarray] = {}  # of each thing that is told of a token, the sum over each open document

    def complete(until: int) -> Predicted:
        done = {key: each[: until - first] for key, each in sums.items()}
        tokens = done.pop("told").astype(np.int64)
        targets: Columns = {"tokens": tokens}
        if sizes:
            targets["bytes"] = np.concatenate(sizes)[first:until]
        loss = (float(done["nats"].sum()), int(tokens.sum()))
        return Predicted(np.arange(first, until), {name: {**done}}, {name: targets}, {name: loss})

    for answer in answers:
        batch = answer.batch
        start, skip = batch[f"{name}.start"].numpy(), batch[f"{name}.skip"].numpy()
        length = batch[f"{name}.tokens.length"].numpy()
        steps = np.arange(plan.context)
        counted = (steps >= skip[:, None]) & (steps < length[:, None])  # (B, T)
        document = plan.stream.document_of((start[:, None] + steps)[counted])  # (n,) increasing
        last = int(document[-1]) if len(document) else first
        for key, column in answer.outputs[name].items():
            known = sums.get(key, np.zeros(0))
            sums[key] = np.concatenate([known, np.zeros(max(last + 1 - first - len(known), 0))])
            np.add.at(sums[key], document - first, np.asarray(column)[counted])
        if last > first:
            yield complete(last)
            sums, first = {key: each[last - first :] for key, each in sums.items()}, last
    if sums:
        yield complete(first + len(sums["told"]))


def unpadded(columns: Columns) -> Columns:
    """What a batch padded, with its length beside it, as rows of their own lengths again."""
    result: Columns = {}
    for key, column in columns.items():
        length = columns.get(f"{key}.length")
        if length is not None:
            padded, sizes = np.asarray(column), np.asarray(length)
            column = Ragged(
                padded[np.arange(padded.shape[1]) < sizes[:, None]], np.concatenate([[0], np.cumsum(sizes)])
            )
        if not key.endswith(".length"):
            result[key] = column
    return result


def _searched(answers: Iterator[Answer], inputs: list[str], paired: Field) -> Iterator[Predicted]:
    """Of each row at which place its own other side is found among those of all rows, whose vectors are kept meanwhile.

    Both ways, unless the recipe says which side asks.
    """
    name = paired.name
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    kept: list[Predicted] = []  # of each batch all but the ranks
    for answer in answers:
        first.append(np.asarray(answer.outputs[name]["first"]))  # (B, E), or (B, T, E) of a late interaction
        second.append(np.asarray(answer.outputs[name]["second"]))
        targets = {name: _columns(answer.batch, name)}
        kept.append(Predicted(answer.batch["row"].numpy(), {}, targets, answer.losses))
    if not kept:
        return
    if not all(np.isfinite(part).all() for part in (*first, *second)):
        raise Diverged(
            f"outputs.{name}: the model gives vectors that are not finite. Fix: train anew, with a lower lr."
        )
    sides = [together(side, paired.config.length_discount) for side in (first, second)]
    hashes = np.concatenate([np.asarray(each.targets[name]["hashes"]) for each in kept])  # (N, 2)
    asking = [index for index in (0, 1) if paired.config.asks in (None, inputs[index])]
    rank = np.stack([ranks(sides[i], sides[1 - i], hashes[:, [i, 1 - i]]) for i in asking], axis=1)  # (N, R)
    ends = np.cumsum([len(each.rows) for each in kept])
    for each, part in zip(kept, np.split(rank, ends[:-1]), strict=True):
        yield replace(each, predictions={name: {"rank": part}})


def _quoted(answers: Iterator[Answer], plan: Plan, quoting: Field) -> Iterator[Predicted]:
    """Of each row the best answer of all windows of its text, as it stands there."""
    name, split = quoting.name, plan.split
    assert isinstance(split, Windows)
    waiting = np.zeros(2)  # loss and targets of windows whose rows are not complete yet

    def read() -> Iterator[tuple[np.ndarray, Columns]]:
        for answer in answers:
            waiting[:] += answer.losses[name]
            yield answer.batch["row"].numpy(), answer.outputs[name]

    for rows, best in best_windows(read(), split.of_row):
        columns = split.source.take(rows, [f"{quoting.config.of}.text", f"{name}.place", f"{name}.gold"])
        prediction = quoting.codec.quote(best, texts({"text": columns.pop(f"{quoting.config.of}.text")}))
        target = {key.removeprefix(f"{name}."): column for key, column in columns.items()}
        loss, waiting[:] = (float(waiting[0]), int(waiting[1])), 0
        yield Predicted(rows, {name: prediction}, {name: target}, {name: loss})


def best_windows(
    read: Iterable[tuple[np.ndarray, Columns]], of_row: np.ndarray
) -> Iterator[tuple[np.ndarray, Columns]]:
    """(rows, predictions of windows of them) -> (rows, of each the prediction whose "margin" is largest), once it is whole.

    `of_row`: how many windows each row has (N,). That there is no answer is as likely as in the window that doubts it most.
    """
    held: list[tuple[np.ndarray, Columns]] = []
    for part in read:
        held.append(part)
        row = np.concatenate([rows for rows, _ in held])  # (W,)
        columns = {key: np.concatenate([np.asarray(each[key]) for _, each in held]) for key in part[1]}
        some, index, count = np.unique(row, return_inverse=True, return_counts=True)
        done = (count == of_row[some])[index]  # (W,)
        held = [(row[~done], {key: column[~done] for key, column in columns.items()})]
        if done.any():
            yield _best({key: column[done] for key, column in columns.items()}, row[done])


def _best(columns: dict[str, np.ndarray], row: np.ndarray) -> tuple[np.ndarray, Columns]:
    order = np.lexsort([columns["start"], -columns["margin"], row])  # the earliest of equally good ones
    rows, first = np.unique(row[order], return_index=True)
    best: Columns = {key: column[order][first] for key, column in columns.items()}
    return rows, best | {"none": np.minimum.reduceat(columns["none"][order], first)}


def _columns(batch: Batch, name: str) -> Columns:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value.numpy() for key, value in batch.items() if key.startswith(prefix)}


def as_numpy(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
