"""Write text step by step, with the backbone's cache. The same seed gives the same text.

Sampling: temperature (0 is greedy), top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024).
"""

# B batch, T time, V vocabulary

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from dougong.core.config import Count, Fraction, NonNegative, config, dump, read
from dougong.core.devices import place
from dougong.core.errors import NO_SUCH_KEY, Note, bad_field
from dougong.layers.features import Features
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


def options(given: Mapping[str, Any]) -> Config:
    """The options by name, checked. Raises FieldError for an unknown name or a value out of its range."""
    config, problems = read(Config, dict(given))
    if problems:
        first = problems[0]
        expected = f"one of {', '.join(dump(Config()))}" if first.expected == NO_SUCH_KEY else first.expected
        raise bad_field(f"generate.{first.key}".strip("."), first.value, expected, first.fix)
    return config


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[str], config: Config, rows: Sequence[Batch] | None = None) -> list[str]:
    """The continuation of each prompt, without the prompt; "" begins a text of its own.

    Each has its own random numbers, from the seed and its place: what it becomes does not depend on the others.
    A model that also reads inputs needs `rows`: for each prompt a batch of one row with those inputs.
    """
    if isinstance(prompts, str):
        raise bad_field("prompts", prompts, "a list of texts", "put the text into brackets: [text]")
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
    device = next(model.parameters()).device
    options(dump(config))
    model.eval()
    codec = model.written.codec
    results = []
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise bad_field(f"prompts[{index}]", prompt, "text", "give each prompt as text")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            expected = "whole characters (half of a surrogate pair stands alone)"
            raise bad_field(f"prompts[{index}]", prompt, expected, "read the text as UTF-8, or leave that half out")
        generator = torch.Generator().manual_seed(config.seed + index)  # on the CPU: the same text on every device
        known = codec.tokenizer.encode(prompt, add_special_tokens=False).ids
        row = place(rows[index], device) if rows else {}
        results.append(codec.text(Writer(model, row, device).write([codec.end, *known], config, generator)))
    return results


class Writer:
    """Writes one text: reads the inputs and the prompt once, then one token at a time from the backbone's cache."""

    def __init__(self, model: Model, row: Batch, device: torch.device):
        assert model.written is not None
        self.model, self.device, self.field = model, device, model.written
        self.inputs = [model.arrival(field)(row) for field in model.inputs]

    def write(self, known: list[int], config: Config, generator: torch.Generator) -> list[int]:
        known = known[-self.field.config.max_length :]  # what lies further back than the model ever looked is left out
        start = len(known) + sum(features.mask.shape[1] for features in self.inputs)
        longest = getattr(self.model.backbone, "max_length", None)  # learned positions end somewhere
        # The last token that is written is never read, so it needs no position.
        most = config.max_tokens if longest is None else min(config.max_tokens, max(longest - start + 1, 0))
        capacity = start + most
        cache = self.model.backbone.new_cache(1, capacity, self.device, next(self.model.parameters()).dtype)
        features = self.model.backbone(self.model.join([*self.inputs, self.embed(known)]), causal=True, cache=cache)
        head = self.model.head(self.field)
        written: list[int] = []
        while len(written) < most:
            logits = head.logits(features.values[0, -1])  # (V,)
            token = choose(logits.cpu(), [*known, *written], config, generator)
            if token == self.field.codec.end:
                return written
            written.append(token)
            if len(written) < most:
                features = self.model.backbone(self.marked(self.newest([*known, *written])), causal=True, cache=cache)
        if most < config.max_tokens:
            said = f"stopped after {most:,} of {config.max_tokens:,} tokens: the model has only {longest:,} positions"
            warnings.warn(said, Note, stacklevel=2)
        return written

    def embed(self, tokens: list[int]) -> Features:
        ids = torch.tensor([tokens], device=self.device)  # (1, T)
        encoder: Any = self.model.arrival(self.field).encoder
        return encoder.embed(ids, torch.tensor([len(tokens)], device=self.device))

    def newest(self, tokens: list[int]) -> Features:
        """The last token, embedded with those before it as far as that looks back."""
        head: Any = self.model.head(self.field)
        features = self.embed(tokens[-head.looks_back :])
        return replace(features, values=features.values[:, -1:], mask=features.mask[:, -1:])

    def marked(self, features: Features) -> Features:
        """A written token with the mark of its role, which `join` gives it in training."""
        if not self.inputs:
            return features
        return replace(features, values=self.model.roles(len(self.inputs), features.values))


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
