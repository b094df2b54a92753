"""Attention as an explanation: how much each position looks at each other one, in every layer and head.

The weights tell where a model looks, not what it makes of it (Jain and Wallace 2019, arXiv:1902.10186).
"""

# L layers, H heads, T queries, S keys

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dougong.core.devices import place
from dougong.core.errors import bad_field
from dougong.data.loader import Batch
from dougong.fields import Field
from dougong.layers.attention import Attention, attention_weights
from dougong.layers.features import Features
from dougong.model import Model
from dougong.run import Notes, Run, listed, tell


@dataclass(frozen=True)
class Attended:
    """The weights of one stack of layers for one row, and what stands at the positions that look and are looked at."""

    queries: list[str]  # T
    keys: list[str]  # S
    weights: np.ndarray  # (L, H, T, S) float32; over S they sum to 1


def attention(run: Run, rows: Iterable[Any]) -> list[dict[str, Attended]]:
    """For each row the attention weights of each part of the model that has some.

    "self": the backbone; "cross": what a decoder reads of its encoder; "encoder": that one; "in_NAME": an input's own
    encoder; of a pairing "self_NAME", for each input. A row is what `run.predict` takes, with the text beside it that was
    written (else the model writes it); of a language model, the text.

        attention(run, ["a fine day"])[0]["self"].weights[-1].mean(0)      # (T, S) of the last layer, heads averaged
    """
    if not any(isinstance(module, Attention) for module in run.model.modules()):
        expected = "a run whose model attends: a transformer, or recurrent with layout: encoder-decoder"
        raise bad_field("run", run.name, expected, "train one with model: {kind: transformer}")
    notes: Notes = Counter()
    found = [_of_row(run, row, number, notes) for number, row in enumerate(listed(rows))]
    tell(notes, len(found))
    return found


@torch.inference_mode()
def _of_row(run: Run, row: Any, number: int, notes: Notes) -> dict[str, Attended]:
    """A row by itself: nothing pads it, and its weights take no more memory than they must."""
    model, written = run.model, run.model.written
    fields = [*run.inputs, *([written] if written else [])]
    if written and run.inputs:
        row = _with_answer(run, row, written)
    parsed = run.read(row, number, fields)
    batch = place(run.encode([parsed], notes, fields), next(model.parameters()).device)
    if written and model.masked:
        batch[f"{written.name}.seen"] = batch[f"{written.name}.tokens"]  # nothing is hidden
    with run.autocast():
        if model.paired is None:
            return _of_pass(model, batch, fields)
        parts: dict[str, Attended] = {}
        for field in fields:
            told = _of_pass(model, batch, [field])
            parts |= {key if key.startswith("in_") else f"{key}_{field.name}": part for key, part in told.items()}
        return parts


def _with_answer(run: Run, row: Any, written: Field) -> Any:
    """The row with what the model writes, unless it says what was written."""
    if not isinstance(row, Mapping) and len(run.inputs) == 1:
        row = {run.inputs[0].column: row}
    if isinstance(row, Mapping) and row.get(written.column) is None:
        return {**row, written.column: run.predict([row])[0][written.name]["value"]}
    return row


def _of_pass(model: Model, batch: Batch, fields: list[Field]) -> dict[str, Attended]:
    """One pass of the model, or where it pairs inputs of one of them, with what stands at each position."""
    arrived = {field.name: _arrived(model, field, batch) for field in fields}
    pieces = {field.name: _pieces(model, field, batch, arrived[field.name]) for field in fields}
    with attention_weights(model) as weights:
        if model.paired is None:
            model(batch)
        else:
            model.alone(fields[0], batch)
    joined = [field.name for field in fields]
    parts: dict[str, Attended] = {}
    if model.encoder is not None and model.written is not None:
        inputs, joined = joined[:-1], joined[-1:]
        real = torch.cat(
            [arrived[name].mask[0] for name in inputs]
        )  # (S,): the encoder's features lie in their own order
        texts, answer = _joined(pieces, inputs), _joined(pieces, joined)
        parts |= _part("encoder", weights, ("encoder.",), texts, texts)
        cross = {name: each[..., real] for name, each in weights.items() if "cross" in name.split(".")}
        parts |= _part("cross", cross, ("backbone.",), answer, texts)
    own = {name: each for name, each in weights.items() if "cross" not in name.split(".")}
    parts |= _part("self", own, ("backbone.",), _joined(pieces, joined), _joined(pieces, joined))
    for field in fields:
        parts |= _own(model, field, batch, weights)
    return parts


def _own(model: Model, field: Field, batch: Batch, weights: dict[str, Tensor]) -> dict[str, Attended]:
    """Of an input's own encoder, whose positions may be others than those it gives."""
    arrival = model.arrival(field)
    if arrival.own is None:
        return {}
    prefix = next(name for name, module in model.named_modules() if module is arrival)
    pieces = _pieces(model, field, batch, arrival.encoder(batch, field.name))
    return _part(f"in_{field.name}", weights, (f"{prefix}.own.",), pieces, pieces)


def _part(
    name: str, weights: dict[str, Tensor], start: tuple[str, ...], queries: list[str], keys: list[str]
) -> dict[str, Attended]:
    layers = [each[0, :, : len(queries), : len(keys)] for key, each in weights.items() if key.startswith(start)]
    return {name: Attended(queries, keys, torch.stack(layers).cpu().numpy())} if layers else {}


def _arrived(model: Model, field: Field, batch: Batch) -> Features:
    """What the backbone is given of a field."""
    if field is not model.written:
        return model.arrival(field)(batch, field.name)
    return model.arrival(field).concealed(batch) if model.masked else model.arrival(field).shifted(batch)


def _pieces(model: Model, field: Field, batch: Batch, arrived: Features) -> list[str]:
    """What stands at each real position of a row: a text's tokens as text, else the field's name, numbered."""
    count, tokens = int(arrived.mask.sum()), batch.get(f"{field.name}.tokens")
    if tokens is None or count != batch[f"{field.name}.tokens.length"][0]:
        return [field.name] if count == 1 else [f"{field.name}[{place}]" for place in range(count)]
    ids = tokens[0, :count].tolist()
    if field is model.written and not model.masked:
        ids = [field.codec.end, *ids[:-1]]  # when it tells a token it sees the one before
    return [field.codec.tokenizer.decode([token], skip_special_tokens=False) for token in ids]


def _joined(pieces: dict[str, list[str]], names: list[str]) -> list[str]:
    return [piece for name in names for piece in pieces[name]]
