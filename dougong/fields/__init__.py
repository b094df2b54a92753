"""Fields: one file a type of value, found by its file name.

Each file offers

    Config      what the recipe says of such a field
    Codec       raw value <-> arrays: fit, encode, decode, to_json, from_json; numpy only
    Encoder     nn.Module: arrays of a batch -> Features          (absent where the type only comes out;
                .positions, .axes: how many features a row has, and axes their grid, where all rows have the same;
                .parts: a backbone of its own reads so many parts of a row each by itself, below each other (B · N, T, D),
                and one feature is made of each, (B, N, D), in place of one row's;
                what is written step by step, or told from around it, is read by its Head's READER;
                a READER with `vectors` and `table` gives those of rows, and of all that its Codec knows)
    Head        nn.Module: Features -> loss, prediction           (absent where the type only goes in;
                BACKBONE: the one kind that it works with, where there is but one;
                FINER: it is also given the widths of the `finer` features that the backbone's come with;
                ALIGNED: true where it reads the places of what goes in, one after the other, and needs them all;
                MADE: made from noise, by a backbone that MAKES. Then its Codec has `shape`, and the Head, in place of a loss
                from features, `values`, the arrays of a batch as (B, C, H, W) of about -1 to 1, `arrays`, back again, and
                `known`, which rows have one)
    head        config -> the Head of such a field                (only where its type has more than one)
    shares      config, inputs, encoders -> whether the inputs have one encoder   (beside a Head with SEPARATE)
    CHECKED     of its Codec: true where `dougong check` fits it too: it is quick, and finds faults   (as where there are classes)
    learnt_as   of its Codec: what of its to_json weights depend on, so that a run with another cannot be begun with
                (only where that is not all: a picture's mean and deviation only bring pixels to one scale)
    check       key, config, whole -> the Problems that such a field finds in the other sections   (only where there are some)
    ONLY_IN     the keys of Config that work only where the type goes in   (only where there are some)
    ONLY_OUT    those that work only where it comes out                    (beside weight and loss, which all have)
    AXES        how many axes the grid of the Encoder's features has           (only where there is one)
    PREFERS     the kind of backbone that reads such an input best         (only where the recipe should choose it by itself)
    files       config -> paths of the files that it names                 (only where there are some)
    rooted      config, folder -> the same, with paths from that folder on   (beside `files`, but for tokenizers)
    OF          the type of input whose words or places an output names; its Config has `of`, its Codec `check`
                value, text -> the value as it is told of that text (or picture)   (only where it does, as NAMES)
    NAMES       the key by which that input is told so: `words`, or `places`, which are quoted: its Config has `step`,
                the tokens from window to window of a long text, and its Codec `quote`, predictions with their texts;
                or `sizes`, of pictures in whose pixels the output is told;
                or config -> such a key, or None where there is nothing to tell
    ALONE       true where it can also do without such an input
    CAUSAL      config -> whether each place of that input tells what comes after it: the backbone then looks back only,
                and the Head reads the features of that input's places, all of them   (only where some do)
    LONGEST     config -> positions of its features at most, beside `text` and `chat`   (only where rows differ)
    augment     field, batch -> the training batch, changed at random; on either side    (only where it is)
    measured    field, batch -> the batch to be measured on, changed without chance      (only where it is)
    METRICS     config, codec -> the metrics of a prediction      (beside Head)
    TOP         how many an answer lists at most, where the question may say so: Codec.answers takes `top`   (only where it may)
    SETTLED     config -> its keys that the Head's `settle` fills in after training   (only where there are some)
    ANSWERS     config, codec -> further metrics of what is written from inputs   (beside a Head that writes; absent
                where it takes no inputs)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dougong.core.config import NonNegative, config
from dougong.core.errors import Problem
from dougong.core.registry import Registry

registry = Registry("dougong.fields", __file__, "type")
names, load, having = registry.names, registry.load, registry.having


@config
class FieldConfig:
    """What every field's Config has. Each adds `type: Literal["its file name"]`."""

    column: str | None = None  # the column of the data; the field's own name unless given
    weight: NonNegative = 1.0  # of its loss, where the field comes out


def one_sided(module: ModuleType, part: str) -> tuple[str, ...]:
    """The keys of a type that have no effect where its `part` (Encoder or Head) stands."""
    if part == "Head":
        return getattr(module, "ONLY_IN", ())
    return ("weight", "loss", *getattr(module, "ONLY_OUT", ()))


def settled_keys(config: Any) -> tuple[str, ...]:
    """The keys of an output whose value is found on the validation rows, once, after training: see evaluation.settling."""
    module = load(config.type)
    return tuple(module.SETTLED(config)) if hasattr(module, "SETTLED") else ()


def head_of(config: Any) -> Any:
    """The Head of an output, of those that its type has."""
    module = load(config.type)
    return module.head(config) if hasattr(module, "head") else module.Head


def masked(config: Any) -> bool:
    """Whether an output is told from what stands around it, in place of written step by step: its Config says so."""
    return bool(getattr(config, "masked", False))


def aligned(config: Any) -> bool:
    """Whether an output is read off the places of what goes in, one after the other, and needs them all."""
    return getattr(head_of(config), "ALIGNED", False)


def only_backbone(config: Any) -> str | None:
    """The one kind of backbone that an output works with, if there is but one."""
    kind: str | None = getattr(head_of(config), "BACKBONE", None)
    return kind


def causal(config: Any) -> bool:
    """Whether an output reads each place of the input that it goes on with, from a backbone that looks back only."""
    module = load(config.type)
    return bool(module.CAUSAL(config)) if hasattr(module, "CAUSAL") else False


def named_by(config: Any) -> str | None:
    """The key by which an output has the input that it speaks of told so."""
    names = load(config.type).NAMES
    key: str | None = names(config) if callable(names) else names
    return key


def longest(config: Any) -> int:
    """How many positions an input has at most, as far as its config tells."""
    module = load(config.type)
    if hasattr(module, "LONGEST"):
        return int(module.LONGEST(config))
    return int(config.max_length) if config.type in ("text", "chat") else 0


def has_vectors(config: Any) -> bool:
    """Whether what an output is made of, words, has vectors that can be asked for, and looked through."""
    return hasattr(getattr(head_of(config), "READER", None), "vectors")


def axes_of(config: Any) -> int | None:
    """How many axes the grid of an input's features has: 2 of a picture, 3 of a clip unless its frames are read one by one."""
    axes: int | None = getattr(load(config.type), "AXES", None)
    return 2 if getattr(config, "per_frame", False) else axes


def has_grid(config: Any) -> bool:
    """Whether the features of an input are a grid: a picture's, a clip's."""
    return axes_of(config) is not None


def copies(config: Any) -> bool:
    """Whether an output may take what it writes from the input that it shares a vocabulary with."""
    return bool(getattr(config, "copy", False))


def made(config: Any) -> bool:
    """Whether an output is made from noise."""
    return bool(getattr(head_of(config), "MADE", False))


def bounded(config: Any) -> bool:
    """Whether the documents that an output's windows were cut from do not see one another."""
    return bool(getattr(config, "boundaries", False))


def reads_apart(config: Any) -> bool:
    """Whether an output reads each input by itself, in place of all of them joined."""
    return getattr(head_of(config), "SEPARATE", False)


def reads_finer(config: Any) -> bool:
    """Whether an output also looks at the features of a backbone's earlier stages."""
    return getattr(head_of(config), "FINER", False)


def quotes(config: Any) -> bool:
    """Whether an output is quoted from an input, which is read in windows where it is long."""
    return getattr(load(config.type), "NAMES", None) == "places"


def share_encoder(inputs: Mapping[str, Any], outputs: Mapping[str, Any], encoders: Mapping[str, Any]) -> bool:
    """Whether the inputs, each read by itself, go through one encoder."""
    config = next((config for config in outputs.values() if reads_apart(config)), None)
    return config is not None and bool(load(config.type).shares(config, inputs, encoders))


@dataclass(frozen=True)
class Whole:
    """The recipe that a field stands in. Of what could not be read, a field is left out, and a section is None."""

    inputs: Mapping[str, Any]  # name -> the Config of its type
    outputs: Mapping[str, Any]
    encoders: Mapping[str, Any]  # name of an input -> the Config of a backbone of its own
    model: Any
    train: Any


def problems_of(key: str, config: Any, whole: Whole) -> Iterable[Problem]:
    """What a field, `inputs.NAME` or `outputs.NAME`, finds wrong with the rest of its recipe: its type's own rules."""
    module = load(config.type)
    return module.check(key, config, whole) if hasattr(module, "check") else ()


@dataclass(frozen=True)
class Field:
    """A named field of a model: its type's config and the codec fitted on the training rows."""

    name: str
    config: Any
    codec: Any

    @property
    def type(self) -> ModuleType:
        return load(self.config.type)

    @property
    def head(self) -> Any:
        """The class of its Head."""
        return head_of(self.config)

    @property
    def column(self) -> str:
        return self.config.column or self.name


def metrics_of(output: Field, *, answers: bool) -> list[Any]:
    """The metrics of an output; `answers`: of texts that were written, too."""
    module = output.type
    written = module.ANSWERS(output.config, output.codec) if answers and output.head.AUTOREGRESSIVE else []
    return [*written, *module.METRICS(output.config, output.codec)]
