"""The model: the inputs' encoders, a backbone, the outputs' heads, as one nn.Module that knows no device.

    fields' arrays ─ Encoder ─> Features ─ Backbone ─> Features ─ Head ─> loss, prediction

An output that is written step by step (text) is also an input, one step behind: the backbone then looks back only; or
(objective: masked) with some of its tokens hidden, and the backbone looks both ways. What
it answers to stands before it in one sequence (layout: decoder), or is read by an encoder of its own, which looks both
ways and whose features each layer attends to (layout: encoder-decoder).

An output that is made from noise (an image) has a backbone that MAKES it: what the inputs say are their features, joined.
"""

# B batch, T positions, D width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dougong import backbones, fields
from dougong.core import lean
from dougong.core.devices import require_memory
from dougong.core.errors import bad_field
from dougong.fields import Field, reads_apart, reads_finer
from dougong.layers.features import Features, stacked
from dougong.layers.losses import Loss
from dougong.layers.noise import drawn, repeated
from dougong.layers.pooling import cells
from dougong.layers.weighing import Uncertainty

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
CELLS = 4  # to a side, of what a backbone makes of one part of a row, a frame: it is told where something is in it
AUXILIARY = "auxiliary"  # the key of the backbone's own loss beside those of the outputs


class Model(nn.Module):
    """One model for typed inputs and outputs. Build it through `build`, which also fills the parameters."""

    def __init__(
        self,
        inputs: Sequence[Field],
        outputs: Sequence[Field],
        config: Any,
        encoders: dict[str, Any],
        loss: Loss,
        weighing: str = "fixed",
    ):
        super().__init__()
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.written = next((field for field in outputs if field.head.AUTOREGRESSIVE), None)
        self.masked = self.written is not None and fields.masked(self.written.config)
        assert not (self.masked and self.inputs)  # refused by the recipe
        self.following = next((field for field in outputs if fields.causal(field.config)), None)
        if self.following is not None:  # what each of its places tells is read last, behind what else is known
            self.inputs.sort(key=lambda field: field.name == self.following.config.of)  # type: ignore[union-attr]
            if not backbones.load(config.kind).Backbone.CAUSAL:
                raise bad_field("model.kind", config.kind, *looks_ahead(self.following.name))
        self.quoting = next((field for field in outputs if fields.quotes(field.config)), None)
        self.paired = next((field for field in outputs if reads_apart(field.config)), None)
        self.made = next((field for field in outputs if fields.made(field.config)), None)
        module = backbones.load(config.kind)
        if self.written is not None and (lacks := unfit(self.written.name, self.written.config, config.kind)):
            raise bad_field("model.kind", config.kind, *lacks)
        if lacks := unmade(self.made is not None, config.kind):
            raise bad_field("model.kind", config.kind, *lacks)
        if self.written is not None and fields.bounded(self.written.config) and not keeps_apart(config):
            raise bad_field("model.kind", config.kind, KEEPS_APART, "use kind: transformer")
        arriving = self.inputs + ([self.written] if self.written else [])
        read, told = ({field.name: field.config for field in side} for side in (inputs, outputs))
        self.one_encoder = fields.share_encoder(read, told, encoders)
        alone = len(arriving) == 1 or self.one_encoder or (len(inputs) == 1 and layout_of(config) == "encoder-decoder")
        for field in arriving[:1] if self.one_encoder else arriving:
            own = encoders.get(field.name)
            reader = field.head.READER if field is self.written else field.type.Encoder
            self.add_module(f"in_{field.name}", Arrival(field, reader, own, config, alone))
        self.encoder: nn.Module | None = None
        joined = arriving
        if layout_of(config) == "encoder-decoder":
            joined = self.inputs
            reads = encoder_config(config)
            self.encoder = module.Backbone(reads, positions=self.positions(joined), axes=self.axes(joined))
            config = replace(config, cross=True)
        if len(joined) > 1 and not self.one_encoder:
            self.roles = Roles(len(joined), config.width)
        read_here = [self.written] if self.encoder is not None and self.written else joined
        positions, axes = self.positions(read_here), self.axes(read_here)
        if self.paired is not None:  # one after the other, in place of side by side
            forms = {(self.positions([field]), self.axes([field])) for field in joined}
            positions, axes = forms.pop() if len(forms) == 1 else (None, None)
        if self.made is not None:
            self.backbone = module.Backbone(config, positions=positions, shape=self.made.codec.shape)
        else:
            looks_back = (self.written is not None and not self.masked) or self.following is not None
            self.backbone = module.Backbone(config, positions=positions, causal=looks_back, axes=axes)
        for field in self.outputs:
            own_loss, width = field.config.loss or loss, self.backbone.out_width
            more = {"finer": getattr(self.backbone, "finer_widths", ())} if reads_finer(field.config) else {}
            head = field.head(field.config, field.codec, width, own_loss, **more)
            self.add_module(f"out_{field.name}", head)
            if field is self.paired:
                head.between([each.name for each in self.inputs])
        self.weighing = Uncertainty(len(self.outputs)) if weighing == "uncertainty" else None  # of their losses
        self.tie()
        copies = self.written.config.shares if self.written is not None and fields.copies(self.written.config) else None
        self.copied = next((place for place, field in enumerate(self.inputs) if field.name == copies), None)

    def tie(self) -> None:
        """Share what heads and encoders share; again after `give_memory`, which gives every parameter a memory of its own."""
        for field in self.outputs:
            if field is not self.written and (of := getattr(field.config, "shares", None)):
                self.head(field).tie(next(self.arrival(each).encoder for each in self.inputs if each.name == of))
        if self.written is None:
            return
        encoder, shares = self.arrival(self.written).encoder, getattr(self.written.config, "shares", None)
        for field in self.inputs:
            if field.name == shares:
                encoder.tie(self.arrival(field).encoder)
        self.head(self.written).tie(encoder)

    def positions(self, fields: Sequence[Field]) -> int | None:
        """How many feature positions some fields have together; None where that differs between rows."""
        lengths = [self.arrival(field).positions for field in fields]
        return None if None in lengths else sum(length for length in lengths if length is not None)

    def axes(self, fields: Sequence[Field]) -> int | None:
        """How many axes the grid of a field has; None where it has none, or is lost beside others."""
        return self.arrival(fields[0]).axes if len(fields) == 1 else None

    def arrival(self, field: Field) -> Arrival:
        name = self.inputs[0].name if self.one_encoder else field.name
        return self.get_submodule(f"in_{name}")  # type: ignore[return-value]

    @property
    def backbones(self) -> list[nn.Module]:
        """Every one that it has: those that inputs have of their own, the encoder before a decoder, and the one that all share."""
        own = (getattr(module, "own", None) for name, module in self.named_children() if name.startswith("in_"))
        return [backbone for backbone in (*own, self.encoder, self.backbone) if backbone is not None]

    def head(self, field: Field) -> Any:
        return self.get_submodule(f"out_{field.name}")

    def forward(self, batch: Batch) -> Features:
        """The features that the heads read: for a written output, those of its own positions only.

        For a pairing those of each input by itself, below each other: 2B rows. For what goes on with a history those of
        its places, each of which knows of the other inputs and of the places before it. For what is made from noise what
        the inputs say, which may be nothing: no positions.
        """
        if self.paired is not None:
            return stacked([self.alone(field, batch) for field in self.inputs])
        arrived = [self.arrival(field)(batch) for field in self.inputs]
        if self.made is not None:
            return self.join(arrived) if arrived else self.nothing(batch)
        if self.following is not None:
            return self.read(arrived[:-1], arrived[-1])
        if self.written is None:
            return self.backbone(self.join(arrived), causal=False)
        if self.masked:
            return self.backbone(at_precision(self.arrival(self.written).concealed(batch)))
        return self.read(arrived, self.arrival(self.written).shifted(batch))

    def nothing(self, batch: Batch) -> Features:
        """Features of no positions, which say nothing of the rows."""
        values = next(self.backbone.parameters()).new_zeros(len(batch["row"]), 0, self.backbone.out_width)
        return at_precision(Features(values, values.new_zeros(values.shape[:2], dtype=torch.bool)))

    def make(self, batch: Batch, seeds: Sequence[int], config: Any = None) -> dict[str, Tensor]:
        """The output that is made from noise, for the inputs of these rows: its arrays. `config`: another way to make it."""
        assert self.made is not None
        device = next(self.backbone.parameters()).device
        noise = repeated(seeds, self.backbone.noise_shape, device).noise
        return self.head(self.made).arrays(self.backbone.make(self(batch), noise, config))

    def alone(self, field: Field, batch: Batch) -> Features:
        """The features of one input, which the others have no part in."""
        arrived = self.arrival(field)(batch, field.name)
        if not self.one_encoder:
            place = [each.name for each in self.inputs].index(field.name)
            arrived = replace(arrived, values=self.roles(place, arrived.values))
        return self.backbone(at_precision(arrived), causal=False)

    def embed(self, field: Field, batch: Batch) -> Tensor:  # (B, E)
        """One input of each row as a vector of length 1, in the space of a pairing; of an output the mean of its words.

        Of a pairing with a late interaction (B, T, E): one for each position, zeros where nothing is.
        """
        if field is self.written:
            return self.arrival(field).encoder.vectors(batch, field.name)
        assert self.paired is not None
        return self.head(self.paired).embed(self.alone(field, batch), asks=field.name == self.paired.config.asks)

    def read(self, arrived: list[Features], written: Features, cache: Any = None) -> Features:
        """The features of what is written so far, given the inputs; `cache` remembers all for the steps that follow."""
        if self.encoder is not None:
            memory = self.encoder(self.join(arrived))
            features = self.backbone(at_precision(written), causal=True, memory=memory, cache=cache)
            return replace(_with_balance(features, memory), source=self.source(arrived, memory))
        features = self.backbone(self.join([*arrived, written]), causal=True, cache=cache)
        if not arrived:
            return features
        steps = written.mask.shape[1]
        values, mask = features.values[:, -steps:], features.mask[:, -steps:]
        return Features(values, mask, None, features.auxiliary, source=self.source(arrived, features))

    def source(self, arrived: list[Features], read: Features) -> Features | None:
        """The features of the input that is copied from, among those of all inputs, as they were read."""
        if self.copied is None:
            return None
        start = sum(features.mask.shape[1] for features in arrived[: self.copied])
        end = start + arrived[self.copied].mask.shape[1]
        return Features(read.values[:, start:end], read.mask[:, start:end])

    def go_on(self, written: Features, cache: Any) -> Features:
        """The features of further steps of what is written, after `read` with the same cache."""
        if self.encoder is None and self.inputs:
            written = replace(written, values=self.roles(len(self.inputs), written.values))
        return self.backbone(at_precision(written), causal=True, memory=cache.memory, cache=cache)

    def join(self, arrived: list[Features]) -> Features:
        """Several inputs side by side along T, each marked with its role."""
        if len(arrived) == 1:
            return at_precision(arrived[0])
        if any(features.grid for features in arrived) and hasattr(self.backbone, "refuse_lost_grid"):
            self.backbone.refuse_lost_grid()
        lengths = [features.mask.shape[1] for features in arrived]
        joined = self.roles.of_all(lengths, torch.cat([features.values for features in arrived], dim=1))
        own = [features.auxiliary for features in arrived if features.auxiliary is not None]
        mask = torch.cat([features.mask for features in arrived], dim=1)
        balance = torch.stack(own).sum() if own else None
        return at_precision(Features(joined, mask, None, balance, joined_places(arrived)))

    def counts(self, batch: Batch) -> Losses:
        """How many targets each output has in this batch (what its loss is divided by)."""
        return {field.name: self.head(field).count(batch, field.name) for field in self.outputs}

    def losses(self, batch: Batch) -> Losses:
        """The summed loss of each output, and the backbone's own loss (a mean) if it has one."""
        features = self(batch)
        result = self._losses(features, batch)
        if "mix.partner" in batch:  # mixup: the same features, judged by both rows' targets
            share, partner = batch["mix.share"], batch["mix.partner"]
            other = self._losses(
                features, {key: value[partner] for key, value in batch.items() if not key.startswith("mix.")}
            )
            result = {name: share * result[name] + (1 - share) * other[name] for name in result}
        if features.auxiliary is not None:
            result[AUXILIARY] = features.auxiliary
        return result

    def _losses(self, features: Features, batch: Batch) -> Losses:
        if self.made is not None:
            return {self.made.name: self.made_losses(features, batch).sum()}
        return {field.name: self.head(field).loss(features, batch, field.name) for field in self.outputs}

    def made_losses(self, condition: Features, batch: Batch) -> Tensor:  # (B,), 0 where there is no target
        """Outside of training draws follow from the rows: the same for every model."""
        assert self.made is not None
        head, rows, shape, device = self.head(self.made), batch["row"], self.backbone.noise_shape, batch["row"].device
        draws = drawn(len(rows), shape, device) if self.training else repeated(rows.tolist(), shape, device)
        losses = self.backbone.losses(head.values(batch, self.made.name), condition, draws)
        return losses * head.known(batch, self.made.name)

    def predict(self, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """What each output's head predicts for these rows."""
        return self._predict(self(batch), batch)

    def evaluate(self, batch: Batch) -> tuple[dict[str, dict[str, Tensor]], Losses]:
        """Predictions, and the summed loss of each output, from one pass."""
        features = self(batch)
        if self.made is not None:
            losses = self.made_losses(features, batch)
            return {self.made.name: {"loss": losses}}, {self.made.name: losses.sum()}
        outputs = self._predict(features, batch)
        if self.written is not None:  # what each token cost is its prediction and its loss
            return outputs, {self.written.name: outputs[self.written.name]["nats"].sum()}
        return outputs, self._losses(features, batch)

    @property
    def learnt_weights(self) -> dict[str, float] | None:
        """By how much each output's loss counts, where that is learnt."""
        if self.weighing is None:
            return None
        return {field.name: weight for field, weight in zip(self.outputs, self.weighing.weights, strict=True)}

    def _predict(self, features: Features, batch: Batch) -> dict[str, dict[str, Tensor]]:
        return {field.name: self.head(field).predict(features, batch, field.name) for field in self.outputs}

    def weights(self) -> Losses:
        """All parameters and kept buffers by name, shared ones once; to be saved, or filled in place."""
        parameters = {name: parameter.data for name, parameter in self.named_parameters()}
        kept = self.state_dict(keep_vars=True)
        return parameters | {name: buffer for name, buffer in self.named_buffers() if name in kept}

    def augment(self, batch: Batch) -> Batch:
        """The training batch as each field's type changes it at random."""
        return self._changed(batch, "augment")

    def measured(self, batch: Batch) -> Batch:
        """The batch to be measured on, as each field's type changes it, the same each time."""
        return self._changed(batch, "measured")

    def _changed(self, batch: Batch, how: str) -> Batch:
        for field in [*self.inputs, *self.outputs]:
            change = getattr(field.type, how, None)
            batch = change(field, batch) if change else batch
        return batch


class Arrival(nn.Module):
    """One input's way in: its type's encoder, and a backbone of its own if the recipe gives it one."""

    def __init__(self, field: Field, reader: Any, own: Any, config: Any, alone: bool):
        super().__init__()
        self.name = field.name
        self.own: Any = None
        reads = own or config
        module = backbones.load(reads.kind)
        self.encoder = reader(field.config, field.codec, reads.width, module.Backbone.PATCH)
        self.positions: int | None = self.encoder.positions
        self.axes: int | None = getattr(self.encoder, "axes", None)
        self.parts: int | None = getattr(self.encoder, "parts", None)
        if (own or alone) and (inner := reads.enters(self.axes)) != reads.width:  # which grid it has is known only now
            self.encoder = reader(field.config, field.codec, inner, module.Backbone.PATCH)
        if own:
            self.own = module.Backbone(own, positions=self.positions, axes=self.axes)
            parts = 1 if self.parts is None else CELLS * CELLS
            self.project = nn.Linear(parts * self.own.out_width, config.width)
            self.positions, self.axes = self.parts, None  # a backbone may change how many there are

    def forward(self, batch: Batch, name: str | None = None) -> Features:
        """The features of the input; `name`: of another that shares this way."""
        features = self.encoder(batch, name or self.name)
        if self.own is None:
            return features
        features = self.own(features)
        if self.parts is not None:
            values = cells(features, CELLS).unflatten(0, (-1, self.parts))  # (B, N, ·)
            features = Features(values, torch.ones_like(values[..., 0], dtype=torch.bool), None, features.auxiliary)
        return replace(features, values=self.project(features.values), finer=())

    def shifted(self, batch: Batch) -> Features:
        return self.encoder.shifted(batch, self.name)

    def concealed(self, batch: Batch) -> Features:
        return self.encoder.concealed(batch, self.name)


class Roles(nn.Module):
    """A learned mark for each input, added to all of its features."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.marks = nn.Embedding(count, width)  # a table of vectors, which optimizers do not decay

    def reset_parameters(self) -> None:
        nn.init.normal_(self.marks.weight, std=0.1)

    def forward(self, index: int, values: Tensor) -> Tensor:
        return values + self.marks.weight[index].to(values.dtype)

    def of_all(self, lengths: Sequence[int], values: Tensor) -> Tensor:
        """Those of inputs that stand side by side, so many positions each, (B, T, D): one sum and not one for each."""
        places = [index for index, length in enumerate(lengths) for _ in range(length)]  # (T,)
        return values + self.marks(torch.tensor(places, device=values.device)).to(values.dtype)


def joined_places(arrived: Sequence[Features]) -> Tensor | None:
    """The places of the one input that tells some, as they are in the joined sequence."""
    start = 0
    for features in arrived:
        if features.places is not None:
            return torch.where(features.places >= 0, features.places + start, -1)
        start += features.mask.shape[1]
    return None


def at_precision(x: Features) -> Features:
    """In the precision that matrix products run in: a residual stream in float32 would be cast at every layer, twice."""
    device = x.values.device.type
    return replace(x, values=x.values.to(torch.get_autocast_dtype(device))) if torch.is_autocast_enabled(device) else x


def unfit(name: str, config: Any, kind: str) -> tuple[str, str] | None:
    """What a kind of backbone would have to be for an output that is a text or words, and the fix; None if it is."""
    if only := fields.only_backbone(config):
        expected = f"{only}: the vectors of {name!r} are all that is learnt"
        return None if kind == only else (expected, f"write kind: {only}, or leave it out")
    if backbones.load(kind).Backbone.CAUSAL:
        return None
    if fields.masked(config):
        return f"a backbone that gives a feature for each token of {name!r}", "write kind: transformer"
    return f"a backbone that can write {name!r} step by step", "write kind: transformer"


def looks_ahead(name: str) -> tuple[str, str]:
    """What a kind of backbone would have to be for an output that every place of a history tells, and the fix."""
    expected = f"a backbone that can look back only: every place of a history tells the next {name!r}"
    return expected, "write kind: transformer or recurrent, or learn: last"


def unmade(made: bool, kind: str) -> tuple[str, str] | None:
    """What a kind of backbone would have to be for outputs of which one is made from noise, or none; None if it is."""
    if made == backbones.makes(kind):
        return None
    makers = [name for name in backbones.names() if backbones.makes(name) == made]
    expected = "a backbone that makes its output from noise" if made else "one that does not make its output from noise"
    return f"{expected}: {', '.join(makers)}", f"write kind: {'diffusion' if made else 'transformer'}"


KEEPS_APART = "a backbone that keeps documents apart within a window (boundaries: true)"


def keeps_apart(config: Any) -> bool:
    """Whether the backbone of this config looks at the segments of what it is given."""
    return getattr(backbones.load(config.kind).Backbone, "SEGMENTS", False)


def layout_of(config: Any) -> str:
    return getattr(config, "layout", "decoder")


def encoder_config(config: Any) -> Any:
    """Of the encoder beside a decoder: the same backbone, as deep unless the recipe says how deep."""
    return replace(config, layout="decoder", layers=config.encoder_layers or config.layers, encoder_layers=None)


def _with_balance(features: Features, memory: Features) -> Features:
    own = [each.auxiliary for each in (features, memory) if each.auxiliary is not None]
    return replace(features, auxiliary=torch.stack(own).sum() if own else None)


def build(
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    config: Any,
    *,
    encoders: dict[str, Any],
    loss: Loss,
    weighing: str = "fixed",
    seed: int,
    device: torch.device,
) -> Model:
    """A model on `device`, its parameters drawn from `seed`. The shape is made without memory and filled afterwards.

    Filled on the CPU, and moved one parameter at a time: generators of other devices would draw other weights.
    """
    with lean.shapes():
        model = Model(inputs, outputs, config, encoders, loss, weighing)
    count = sum(parameter.numel() for parameter in model.parameters())
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    fix = "lower model.width, model.layers or the size of the vocabulary"
    for place in {device, torch.device("cpu")}:
        require_memory(f"model: the weights of its {count:,} parameters take", size, place, fix)
    lean.give_memory(model, torch.device("cpu"))
    model.tie()
    initialize(model, seed)
    model.to(device)
    model.tie()
    return model


def initialize(model: nn.Module, seed: int) -> None:
    """Fill all parameters and buffers, children first, so that a parent may overrule them. `seed` is the CPU generator's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _reset(model)


def _reset(module: nn.Module) -> None:
    for child in module.children():
        _reset(child)
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    elif next(module.parameters(recurse=False), None) is not None:
        raise TypeError(f"{type(module).__name__} owns parameters but has no reset_parameters()")
