"""Write text step by step, with the backbone's cache. The same seed gives the same text.

Sampling: temperature (0 is greedy), top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
"""

# B batch, T time, V vocabulary

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from dougong.core.config import Count, Fraction, NonNegative, config, dump, read
from dougong.core.devices import place
from dougong.core.errors import NO_SUCH_KEY, Note, bad_field
from dougong.fields import has_vectors
from dougong.inference import beams, constraints
from dougong.inference.constraints import Constraint
from dougong.inference.writer import Writer
from dougong.model import Batch, Model


@config
class Config:
    """How the next token is chosen."""

    max_tokens: Annotated[Count, Field(le=100_000)] = 200
    temperature: NonNegative = 0.8  # 0: always the most likely token
    top_k: Count | None = None  # only the k most likely tokens
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # only the most likely tokens that together hold this share
    min_p: Fraction = 0.0  # only tokens at least this likely, relative to the most likely one
    repetition_penalty: Annotated[float, Field(ge=1.0)] = 1.0  # logits of tokens that were there are divided by this
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    beams: Annotated[Count, Field(le=64)] = 1  # texts that are searched along at once; beside temperature 0
    length_penalty: float = 1.0  # of beams: above 0 favours longer texts
    regex: str | None = None  # what is written matches it as a whole
    json_schema: dict[str, Any] | None = None  # what is written is JSON that fits it

    def __post_init__(self) -> None:
        if self.regex is not None and self.json_schema is not None:
            raise bad_field("generate.regex", self.regex, "one of regex and json_schema", "remove one of the two")
        if self.beams > 1 and self.temperature:
            raise bad_field(
                "generate.beams", self.beams, "1 beside a temperature: beams do not sample", "add temperature: 0"
            )
        if self.beams > 1 and self.repetition_penalty > 1:
            raise bad_field(
                "generate.repetition_penalty", self.repetition_penalty, "1 beside beams", "remove one of the two"
            )


def options(given: Mapping[str, Any]) -> Config:
    """The options by name, checked. Raises FieldError for an unknown name or a value out of its range."""
    config, problems = read(Config, dict(given))
    if problems:
        first = problems[0]
        expected = f"one of {', '.join(dump(Config()))}" if first.expected == NO_SUCH_KEY else first.expected
        raise bad_field(f"generate.{first.key}".strip("."), first.value, expected, first.fix)
    return config


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[Any], config: Config, rows: Sequence[Batch] | None = None) -> list[str]:
    """The continuation of each prompt, without the prompt; "" begins a text of its own. Of a chat the reply to each.

    Each has its own random numbers, from the seed and its place: what it becomes does not depend on the others.
    A model that also reads inputs needs `rows`: for each prompt a batch of one row with those inputs.
    """
    if isinstance(prompts, str):
        raise bad_field("prompts", prompts, "a list of texts", "put the text into brackets: [text]")
    refuse_masked(model)
    if model.written is None:
        raise bad_field(
            "run",
            ", ".join(field.name for field in model.outputs),
            "a model that writes text",
            "use predict for this run",
        )
    if model.inputs and rows is None:
        raise bad_field(
            "prompt", list(prompts)[:1], f"values for {', '.join(field.name for field in model.inputs)}", "use predict"
        )
    options(dump(config))
    model.eval()
    codec = model.written.codec
    constraint = None
    if config.regex is not None or config.json_schema is not None:
        schema = None if config.json_schema is None else json.dumps(config.json_schema)
        constraint = constraints.constraint(codec, config.regex, schema)
    results = []
    for index, prompt in enumerate(prompts):
        known = codec.prompt(prompt, f"prompts[{index}]")
        # One after the other: in a batch sums come out a last digit differently, and a text would depend on the others.
        row = rows[index] if rows else {}
        (written,) = write(model, row, [[codec.end, *known]], config, first=index, constraint=constraint)
        results.append(codec.text(written))
        if constraint and (lacking := constraint.rest(written)):
            warnings.warn(cut_short(index, len(written), *lacking), Note, stacklevel=2)
    return results


def refuse_masked(model: Model) -> None:
    """What was trained to fill gaps has never gone on from a beginning."""
    if model.masked and model.written is not None:
        expected = "causal, to write on: a masked model tells what is hidden between what stands on both sides of it"
        fix = "train a model with objective: causal"
        if has_vectors(model.written.config):
            fix = "use predict with embed or top, which give vectors of words, and the nearest"
        raise bad_field(f"outputs.{model.written.name}.objective", model.written.config.objective, expected, fix)


@torch.inference_mode()
def answers(model: Model, rows: Batch, *, precise: Any = nullcontext) -> list[str]:
    """What a model with inputs writes for the rows of a batch: greedily, or by beam search where its recipe says so."""
    assert model.written is not None
    model.eval()
    field, head = model.written, model.head(model.written)
    most = field.config.max_length
    config = Config(max_tokens=most, temperature=0.0, beams=head.beams, length_penalty=head.length_penalty)
    with precise():
        written = write(model, rows, [[field.codec.end]] * len(rows["row"]), config)
    return [field.codec.text(tokens) for tokens in written]


def cut_short(index: int, written: int, missing: int, text: str) -> str:
    """What is told of a text that is not whole."""
    tokens = "1 more token" if missing == 1 else f"at least {missing:,} more tokens"
    return f"text {index + 1} is not whole after {written:,} tokens: it takes {tokens}, such as {text!r}"


def write(
    model: Model,
    rows: Batch,
    known: Sequence[list[int]],
    config: Config,
    first: int = 0,
    constraint: Constraint | None = None,
) -> list[list[int]]:
    """The tokens that follow on those known, for B rows. Each has its own random numbers, from the seed and its place."""
    writer = Writer(model, place(rows, next(model.parameters()).device), known, config.max_tokens, constraint)
    if config.beams > 1:
        written = beams.search(writer, config.beams, config.length_penalty)
    else:
        written = sample(writer, config, first)
    if writer.most < config.max_tokens and any(len(tokens) == writer.most for tokens in written):
        longest = getattr(model.backbone, "max_length", 0)
        said = (
            f"stopped after {writer.most:,} of {config.max_tokens:,} tokens: the model has only {longest:,} positions"
        )
        warnings.warn(said, Note, stacklevel=2)
    return written


def sample(writer: Writer, config: Config, first: int) -> list[list[int]]:
    end = writer.field.codec.end
    # On the CPU: the same text on every device.
    generators = [torch.Generator().manual_seed(config.seed + first + row) for row in range(len(writer.known))]
    written: list[list[int]] = [[] for _ in writer.known]
    going = list(range(len(written)))  # the rows that the writer holds
    for step in range(writer.most):
        logits = writer.restrict(writer.logits).cpu()
        pairs = zip(logits, writer.known, going, strict=True)
        tokens = [choose(scores, known, config, generators[row]) for scores, known, row in pairs]
        kept = [place for place, token in enumerate(tokens) if token != end]
        if not kept:
            break
        if len(kept) < len(going):
            writer.choose(kept)
        going, tokens = [going[place] for place in kept], [tokens[place] for place in kept]
        for row, token in zip(going, tokens, strict=True):
            written[row].append(token)
        if step + 1 < writer.most:
            writer.append(tokens)
    return written


def choose(logits: Tensor, before: Sequence[int], config: Config, generator: torch.Generator) -> int:
    """The next token for logits (V,)."""
    if config.repetition_penalty > 1 and before:
        seen = torch.tensor(sorted(set(before)))
        value = logits[seen]
        logits = logits.index_copy(
            0, seen, torch.where(value > 0, value / config.repetition_penalty, value * config.repetition_penalty)
        )
    if config.temperature == 0:
        return int(logits.argmax())
    logits = logits.double()
    probabilities = ((logits - logits.max()) / config.temperature).softmax(0)  # no overflow, however cold
    kept = torch.ones_like(probabilities, dtype=torch.bool)
    if config.top_k:
        kept &= probabilities >= probabilities.topk(min(config.top_k, len(logits))).values[-1]
    if config.min_p:
        kept &= probabilities >= config.min_p * probabilities.max()
    if config.top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        kept[index[ordered.cumsum(0) - ordered >= config.top_p]] = False
    return int(torch.multinomial(torch.where(kept, probabilities, 0.0), 1, generator=generator))
