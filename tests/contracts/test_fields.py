"""Every type of field keeps the contract of dougong/fields/__init__.py, found unasked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dougong import fields
from dougong.core.config import dump, read
from dougong.data.columns import Columns, Ragged
from dougong.data.loader import collate
from dougong.fields import FieldConfig
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.metrics.metric import Metric
from dougong.model import initialize
from tests.contracts.values import ROWS, config_of, field_of, parsed_of, values_of, with_side

WIDTH = 16


def same_columns(first: Columns, second: Columns) -> bool:
    def flat(column: Any) -> list[np.ndarray]:
        return [column.values, column.offsets] if isinstance(column, Ragged) else [column]

    return first.keys() == second.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for name in first
        for a, b in zip(flat(first[name]), flat(second[name]), strict=True)
    )


def batch_of(kind: str, values: list[Any]) -> dict[str, torch.Tensor]:
    field = field_of(kind, "x")
    columns, _ = field.codec.encode(values)
    limits = {f"x.{key}": limit for key, limit in field.codec.limits().items()}
    batch = collate({f"x.{key}": column for key, column in columns.items()}, np.arange(len(values)), limits)
    if not fields.masked(field.config):
        return batch
    start = torch.zeros(len(values), dtype=torch.int64)  # as for a window: what is drawn follows from it
    return field.type.measured(field, {**batch, "x.start": start})


@pytest.mark.parametrize("kind", fields.names())
def test_values_are_known_for_every_type(kind: str) -> None:
    assert len({repr(values_of(kind).make(row)) for row in range(ROWS)}) > 1


@pytest.mark.parametrize("kind", fields.names())
def test_config_reads_back_and_is_named_after_its_file(kind: str) -> None:
    config = config_of(kind)
    assert isinstance(config, FieldConfig)
    assert config.type == kind
    assert read(fields.load(kind).Config, json.loads(json.dumps(dump(config)))) == (config, [])
    assert read(fields.load(kind).Config, {"type": kind, "no_such_key": 1})[1][0].expected == "no such key"


@pytest.mark.parametrize("kind", fields.names())
def test_a_codec_that_went_through_json_encodes_the_same(kind: str) -> None:
    field, values = field_of(kind, "x"), parsed_of(kind)
    text = json.dumps(field.codec.to_json(), allow_nan=False)
    again = fields.load(kind).Codec.from_json(field.config, json.loads(text))
    values += [None, field.codec.parse(values_of(kind).unseen)]
    assert same_columns(field.codec.encode(values)[0], again.encode(values)[0])
    assert json.dumps(again.to_json()) == text
    assert again.limits() == field.codec.limits()


@pytest.mark.parametrize("kind", fields.names())
def test_fitting_twice_gives_the_same_codec(kind: str) -> None:
    assert json.dumps(field_of(kind, "x").codec.to_json()) == json.dumps(field_of(kind, "x").codec.to_json())


@pytest.mark.parametrize("kind", fields.names())
def test_decode_gives_back_what_was_encoded(kind: str) -> None:
    field, values = field_of(kind, "x"), parsed_of(kind)
    columns, counts = field.codec.encode(values)
    assert all(len(column) == ROWS for column in columns.values())
    assert not any(counts.values())
    for parsed, decoded in zip(values, field.codec.decode(columns), strict=True):
        assert values_of(kind).same(parsed, decoded), (parsed, decoded)


@pytest.mark.parametrize("kind", fields.names())
def test_no_rows_encode_to_no_rows(kind: str) -> None:
    columns, _ = field_of(kind, "x").codec.encode([])
    assert all(len(column) == 0 for column in columns.values())


@pytest.mark.parametrize("kind", fields.names())
def test_raw_arrow_type_holds_parsed_values_and_missing_ones(kind: str) -> None:
    codec = fields.load(kind).Codec
    values = [*parsed_of(kind), None]
    assert pa.array(values, type=codec.RAW).to_pylist() == values
    assert isinstance(codec.PATHS, bool)


@pytest.mark.parametrize("kind", fields.names())
def test_D6_missing_and_unseen_values_encode_and_are_counted(kind: str) -> None:
    """A text is never unseen where each byte has a token, nor a conversation, nor a picture, the hashes of a pair, an answer."""
    field = field_of(kind, "x")
    assert field.codec.parse(None) == values_of(kind).missing
    _, missing = field.codec.encode([None, None])
    assert missing.get("missing", 2) == 2
    columns, unseen = field.codec.encode([field.codec.parse(values_of(kind).unseen)])
    assert all(len(column) == 1 for column in columns.values())
    if kind not in ("text", "chat", "image", "audio", "video", "pairing", "span"):
        assert sum(unseen.values()) == 1, unseen


@pytest.mark.parametrize("kind", fields.names())
@pytest.mark.parametrize("value", [object(), {"a": 1}, 3 + 4j])
def test_D1_what_cannot_be_of_the_type_is_a_ValueError(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        fields.load(kind).Codec.parse(value, config_of(kind))


class Noting:
    """A config that notes which of its keys are read, and in which part."""

    def __init__(self, config: Any):
        self.config, self.part, self.read = config, "", dict[str, set[str]]()

    def __getattr__(self, key: str) -> Any:
        self.read.setdefault(self.part, set()).add(key)
        return getattr(self.config, key)


USED_ELSEWHERE = {
    "type",
    "column",
    "weight",
    "objective",  # of a text that comes out: the Codec gives it a mask token
    "mask_share",  # batches are changed by it
    "boundaries",  # windows are cut by it
    "window",  # batches are changed by it
    "negatives",
    "subsample",
    "loss",
    "augment",
    "shared",
    "shares",  # the model ties what is shared
    "asks",
    "stride",  # windows are cut by it
    "judge",  # asked when what is made is measured
    "samples",
}  # by the recipe, training, the model's loss, `augment`, `shares`, and who searches


@pytest.mark.parametrize("kind", fields.names())
def test_every_key_works_on_both_sides_or_is_listed_as_working_on_one(kind: str) -> None:
    """A key that only the encoder, or only the head looks at has no effect on the other side; the recipe refuses it there."""
    module, values = fields.load(kind), parsed_of(kind)
    config: Any = Noting(config_of(kind))

    def noted(part: str) -> set[str]:
        config.part = part
        return config.read.setdefault(part, set())

    both, into, out = noted("both"), set[str](), set[str]()
    with contextlib.suppress(ValueError):  # not every type can be written as text
        module.Codec.parse("a text", config)
    with contextlib.suppress(ValueError):
        module.Codec.parse(values_of(kind).make(0), config)
    codec = module.Codec.fit(config, values)
    columns, _ = codec.encode(values)
    codec.decode(columns)
    codec.limits()
    if hasattr(module, "Encoder"):
        into = noted("in")
        module.Encoder(config, codec, WIDTH, 4)
    if hasattr(module, "Head"):
        out = noted("out")
        head = module.Head(config, codec, WIDTH, Loss())
        if fields.made(config_of(kind)):
            head.values(batch_of(kind, values[:2]), "x")
        elif head.AUTOREGRESSIVE:
            head.tie(head.READER(config_of(kind), codec, WIDTH, 4))
            if hasattr(module, "ANSWERS"):
                module.ANSWERS(config, codec)
        else:
            batch = batch_of(kind, values[:2])
            rows = 2 * sides_of(head)
            features = Features(torch.zeros(rows, 3, WIDTH), torch.ones(rows, 3, dtype=torch.bool))
            with torch.no_grad():
                predicted = head.predict(features, batch, "x")
            found = {key: value.numpy() for key, value in predicted.items()}
            codec.answers(codec.quote(found, ["a", "b"]) if hasattr(codec, "quote") else found)
        module.METRICS(config, codec)
    keys = {field.name for field in dataclasses.fields(config.config)} - USED_ELSEWHERE
    assert keys <= both | into | out, "a key that nothing reads has no effect"
    if hasattr(module, "Encoder") and hasattr(module, "Head"):
        assert set(fields.one_sided(module, "Head")) == keys & (into - both - out), "ONLY_IN"
        assert set(fields.one_sided(module, "Encoder")) - USED_ELSEWHERE == keys & (out - both - into), "ONLY_OUT"


@pytest.mark.parametrize("kind", with_side("Encoder"))
def test_encoder_is_built_without_memory_and_filled_whole(kind: str) -> None:
    field = field_of(kind, "x")
    with torch.device("meta"):
        encoder = field.type.Encoder(field.config, field.codec, WIDTH, 4)
    encoder = poisoned(encoder)
    batch = batch_of(kind, [*parsed_of(kind)[:5], None, field.codec.parse(values_of(kind).unseen)])
    features = encoder(batch, "x")
    assert features.values.shape[::2] == (7, WIDTH)
    assert features.mask.shape == features.values.shape[:2]
    assert features.mask.dtype == torch.bool
    assert features.mask.any(1).all()
    assert features.values[features.mask].isfinite().all()
    assert encoder.positions in (None, features.values.shape[1])
    if features.grid:
        assert math.prod(features.grid) == features.values.shape[1]
    features.values[features.mask].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("kind", with_side("Head"))
def test_head_is_built_without_memory_and_gives_finite_loss_and_prediction(kind: str) -> None:
    field = field_of(kind, "x")
    with torch.device("meta"):
        head = field.type.Head(field.config, field.codec, WIDTH, Loss())
    head = poisoned(head)
    batch = batch_of(kind, [*parsed_of(kind)[:5], field.codec.parse(values_of(kind).unseen)])
    if fields.made(field.config):
        what_is_made_is_what_was_learnt(field, head, batch)
        return
    steps = batch["x.tokens"].shape[1] if head.AUTOREGRESSIVE else 3
    mask = torch.ones(6, steps, dtype=torch.bool)
    if head.AUTOREGRESSIVE:
        mask = torch.arange(steps) < batch["x.tokens.length"][:, None]
    mask = mask.repeat(sides_of(head), 1)
    features = Features(torch.randn(len(mask), steps, WIDTH, requires_grad=True), mask)
    loss = head.loss(features, batch, "x")
    assert loss.shape == ()
    assert loss.isfinite()
    assert head.count(batch, "x") > 0
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    with torch.no_grad():
        prediction = head.predict(features, batch, "x")
    assert all(len(value) == 6 and value.isfinite().all() for value in prediction.values())


def what_is_made_is_what_was_learnt(field: Any, head: Any, batch: dict[str, torch.Tensor]) -> None:
    """Of an output made from noise: its values, of -1 to 1, are those that its arrays come from."""
    values = head.values(batch, "x")
    assert values.shape == (6, *field.codec.shape)
    assert values.abs().max() <= 1
    assert all(torch.equal(array, batch[f"x.{name}"]) for name, array in head.arrays(values).items())
    wild = head.arrays(100 * torch.randn_like(values))
    assert len(field.codec.decode({name: array.numpy() for name, array in wild.items()})) == 6
    assert head.known(batch, "x").all()
    assert head.count(batch, "x") == 6


@pytest.mark.parametrize("kind", with_side("Head"))
def test_a_loss_that_does_not_fit_the_type_is_refused(kind: str) -> None:
    field = field_of(kind, "x")
    wrong = Loss(kind="cross_entropy") if kind in ("number", "date") else Loss(kind="mae")
    with pytest.raises(ValueError, match=r"train\.loss = .*Fix: "):
        field.type.Head(field.config, field.codec, WIDTH, wrong)


@pytest.mark.parametrize("kind", with_side("Head"))
def test_metrics_have_the_names_of_the_design(kind: str) -> None:
    field = field_of(kind, "x")
    metrics = field.type.METRICS(field.config, field.codec)
    assert all(isinstance(metric, Metric) for metric in metrics)
    names = [metric.name for metric in metrics]
    assert len(set(names)) == len(names)
    assert values_of(kind).metrics, f"add the metrics of {kind} to VALUES in tests/contracts/values.py"
    assert set(values_of(kind).metrics) <= set(names)


def sides_of(head: Any) -> int:
    """How many rows of features a row has: one of each input where the head reads them apart."""
    return 2 if getattr(head, "SEPARATE", False) else 1


def poisoned(module: torch.nn.Module) -> torch.nn.Module:
    """The module as a model builds it, from memory that holds nothing but nan."""
    module.to_empty(device="cpu")
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.fill_(math.nan)
    initialize(module, 0)
    assert all(tensor.isfinite().all() for tensor in [*module.parameters(), *module.buffers()])
    return module
