"""From a recipe to its parts: its prepared data, its fields with their codecs, its model, and how batches are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dougong import fields
from dougong import model as models
from dougong.core.devices import pick_device
from dougong.core.errors import ArtefactError
from dougong.data import prepare
from dougong.data.columns import Ragged, positions_of
from dougong.data.loader import Loader, Plan, RowPlan, WindowPlan
from dougong.data.shards import Split
from dougong.data.windows import Rows, Windows
from dougong.fields import Field
from dougong.layers import ctc
from dougong.model import Model
from dougong.recipe import Recipe

BRIEF_TOKENS, BRIEF_ROWS = 32_768, 4_096  # that a validation during training looks at; `evaluate` looks at all
MICRO_NUMBERS = 4_096 * 384  # tokens × width of a language model that a CPU computes at once


def used_fields(recipe: Recipe) -> list[prepare.Used]:
    """The fields of a recipe as the preparation takes them."""
    sides = [(recipe.inputs, False), (recipe.outputs, True)]
    return [
        prepare.Used(name, config, output, fields.load(config.type), recipe.vocabularies.get(name))
        for side, output in sides
        for name, config in side.items()
    ]


def prepared_data(recipe: Recipe, **options: Any) -> prepare.Prepared:
    return prepare.prepare(recipe.data, used_fields(recipe), **options)


def contents_of(recipe: Recipe) -> str:
    """The hash of what the recipe's data is made of now, as it stands in a receipt."""
    return prepare.content_hash(recipe.data, prepare.find_files(recipe.data), used_fields(recipe))


def fitted(recipe: Recipe, prepared: prepare.Prepared) -> tuple[list[Field], list[Field]]:
    """Inputs and outputs with the codecs that were fitted on the training rows."""
    return with_codecs(recipe, prepared.codec_json)


def with_codecs(recipe: Recipe, codec_json: Callable[[str], Any]) -> tuple[list[Field], list[Field]]:
    """Inputs and outputs; `codec_json` gives what a field's codec said of itself when it was written."""

    def side(configs: dict[str, Any]) -> list[Field]:
        return [
            Field(name, config, fields.load(config.type).Codec.from_json(config, codec_json(name)))
            for name, config in configs.items()
        ]

    return side(recipe.inputs), side(recipe.outputs)


def build(recipe: Recipe, inputs: Sequence[Field], outputs: Sequence[Field]) -> Model:
    """The recipe's model with fresh weights, on this machine's device."""
    device = pick_device(recipe.train.device)
    train = recipe.train
    return models.build(
        inputs, outputs, recipe.model,
        encoders=recipe.encoders, loss=train.loss, weighing=train.weighing, seed=recipe.seed, device=device,
    )  # fmt: skip


def limits_of(fields_: Sequence[Field]) -> dict[str, int]:
    """How much of each ragged column a batch takes."""
    return {f"{field.name}.{key}": limit for field in fields_ for key, limit in field.codec.limits().items()}


def strides_of(fields_: Sequence[Field]) -> dict[str, int]:
    """Of how many values of a ragged column one position is made, where that is not one."""
    return {
        f"{field.name}.{key}": stride
        for field in fields_
        if hasattr(field.codec, "strides")
        for key, stride in field.codec.strides().items()
    }


def plan_of(
    recipe: Recipe,
    split: Split,
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    *,
    shuffle: bool = False,
    brief: bool = False,
) -> Plan:
    """How a split is read: windows of a stream for a language model, whole rows otherwise. `brief`: an even part of a large one."""
    rows, tokens = batch_of(recipe, split)
    field = next((field for field in outputs if field.name == recipe.written), None)
    if field and field.head.STREAM and not inputs:
        context = field.config.max_length
        return WindowPlan(
            split,
            field.name,
            context=context,
            batch_rows=rows or max(1, tokens // context),
            end=field.codec.end,
            seed=recipe.seed,
            shuffle=shuffle,
            most=max(1, BRIEF_TOKENS // context) if brief else None,
            overlap=not fields.masked(field.config),
            boundaries=fields.bounded(field.config),
        )
    limits, strides = limits_of([*inputs, *outputs]), strides_of([*inputs, *outputs])
    most = BRIEF_ROWS if brief else None
    if not shuffle and not brief:  # each of which is to be made anew
        most = next((field.config.samples for field in outputs if fields.made(field.config)), None)
    if (quoting := next((field for field in outputs if fields.quotes(field.config)), None)) is not None:
        windows = windows_of(split, inputs, quoting, most)
        return RowPlan(windows, limits=limits, batch_rows=rows, batch_tokens=tokens, seed=recipe.seed, shuffle=shuffle)
    return RowPlan(
        split,
        limits=limits,
        strides=strides,
        batch_rows=rows,
        batch_tokens=tokens,
        seed=recipe.seed,
        shuffle=shuffle,
        most=most,
    )


def without_path(split: Split, inputs: Sequence[Field], outputs: Sequence[Field]) -> dict[str, int]:
    """Rows whose inputs make fewer positions than an aligned text (CTC) takes, by output: no path spells it.

    Nothing is said of inputs that are no sequences: how many positions they make, only their encoders know.
    """
    limits, strides = limits_of(inputs), strides_of(inputs)
    if not all(any(name.startswith(f"{field.name}.") for name in limits) for field in inputs):
        return {}
    counts: dict[str, int] = {}
    for field in (field for field in outputs if fields.aligned(field.config)):
        counts[field.name] = 0
        for shard in split.shards:
            texts, sequences = shard[f"{field.name}.tokens"], {name: shard[name] for name in limits}
            assert isinstance(texts, Ragged)
            positions = sum(
                positions_of(np.minimum(column.lengths, limits[name]), strides.get(name, 1))
                for name, column in sequences.items()
                if isinstance(column, Ragged)
            )
            tokens = texts.values[texts.offsets[0] : texts.offsets[-1]]
            takes = ctc.needed(tokens, texts.offsets - texts.offsets[0]) - 1  # all but the token that closes it
            counts[field.name] += int((takes > positions).sum())
    return counts


def windows_of(source: Rows, inputs: Sequence[Field], quoting: Field, most: int | None = None) -> Windows:
    """Rows as often as it takes to read all of the text that an output quotes; `most`: of only so many of them."""
    length = next(field.config.max_length for field in inputs if field.name == quoting.config.of)
    return Windows(source, quoting.config.of, length=length, stride=quoting.config.step(length), most=most)


def batch_of(recipe: Recipe, split: Split) -> tuple[int, int]:
    """Rows, or tokens, of one batch. Defaults: 8,192 tokens of a language model; of rows more where there are more."""
    train = recipe.train
    if train.batch_size or train.batch_tokens:
        return train.batch_size or 0, 0 if train.batch_size else train.batch_tokens or 0
    if recipe.written:
        return 0, 8192
    return int(np.clip(2 ** round(np.log2(max(split.rows, 1) / 150)), 16, 256)), 0


def loader_of(recipe: Recipe, split: Split, inputs: Sequence[Field], outputs: Sequence[Field]) -> Loader:
    """The training split as the loop reads it."""
    plan = plan_of(recipe, split, inputs, outputs, shuffle=True)
    micro = micro_batch_of(recipe, plan)
    return Loader(plan, micro_batch=micro, accumulate=recipe.train.accumulate, workers=recipe.train.workers)


def micro_batch_of(recipe: Recipe, plan: Plan) -> int:
    """Rows computed at once; 0: those of a whole step, or as many as `accumulate` makes of it.

    A CPU gains nothing from more tokens than fill its caches, and what a step remembers for its way back grows with them:
    tokens a second of 6 layers × 384 in pieces of 16,384, 8,192, 4,096 and 2,048 tokens, medians of two rounds: 4,060, 3,980,
    4,600, 3,800; of 12 × 768 in pieces of 4,096, 2,048 and 1,024: 376, 421, 324; within the noise of that machine but for the
    last. Pieces of one size: each other one would be compiled again. It follows from the recipe and the kind of device alone:
    the same recipe must give the same weights, however much memory is free today.
    """
    train = recipe.train
    if isinstance(train.micro_batch, int):
        return train.micro_batch
    if train.accumulate > 1 or not isinstance(plan, WindowPlan) or pick_device(train.device).type != "cpu":
        return 0
    pieces = -(-plan.batch_rows * plan.context * recipe.model.width // MICRO_NUMBERS)
    return -(-plan.batch_rows // pieces)


def fill(model: Model, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Put loaded tensors into a model; every name and shape must agree."""
    targets = model.weights()
    for name in sorted({*targets, *tensors}):
        found, wanted = tensors.get(name), targets.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            shapes = " where the model has ".join(
                "nothing" if t is None else str(tuple(t.shape)) for t in (found, wanted)
            )
            raise ArtefactError(
                f"{source}: tensor {name}: the file has {shapes}. Fix: use the recipe that this model was trained with."
            )
        with torch.no_grad():
            wanted.copy_(found)
