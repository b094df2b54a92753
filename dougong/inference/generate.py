"""Write text step by step, with the backbone's cache. The same seed gives the same text.

Sampling: temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024); temperature 0 is greedy.
"""

# B batch, T time, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from dougong.core.config import Count, Fraction, NonNegative, config
from dougong.core.errors import bad_field
from dougong.layers.features import Features
from dougong.model import Batch, Model


@config
class Config:
    """How the next token is chosen."""

    max_tokens: Count = 200
    temperature: NonNegative = 0.8  # 0: always the most likely token
    top_k: Count | None = None  # only the k most likely tokens
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # only the most likely tokens that together hold this share
    min_p: Fraction = 0.0  # only tokens at least this likely, relative to the most likely one
    repetition_penalty: Annotated[float, Field(ge=1.0)] = 1.0  # logits of tokens that were there are divided by this
    seed: Annotated[int, Field(ge=0)] = 0


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[str], config: Config, rows: Sequence[Batch] | None = None) -> list[str]:
    """The continuation of each prompt, without the prompt; "" begins a text of its own.

    A model that also reads inputs needs `rows`: for each prompt a batch of one row with those inputs.
    """
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
    generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same text on every device
    model.eval()
    codec = model.written.codec
    results = []
    for index, prompt in enumerate(prompts):
        known = codec.tokenizer.encode(prompt, add_special_tokens=False).ids
        row = {key: value.to(device) for key, value in rows[index].items()} if rows else {}
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
        capacity = len(known) + config.max_tokens + sum(features.mask.shape[1] for features in self.inputs)
        cache = self.model.backbone.new_cache(1, capacity, self.device, next(self.model.parameters()).dtype)
        features = self.model.backbone(self.model.join([*self.inputs, self.embed(known)]), causal=True, cache=cache)
        head = self.model.head(self.field)
        written: list[int] = []
        while len(written) < config.max_tokens:
            logits = head.logits(features.values[0, -1])  # (V,)
            token = choose(logits.cpu(), [*known, *written], config, generator)
            if token == self.field.codec.end:
                break
            written.append(token)
            features = self.model.backbone(self.marked(self.embed([token])), causal=True, cache=cache)
        return written

    def embed(self, tokens: list[int]) -> Features:
        ids = torch.tensor([tokens], device=self.device)  # (1, T)
        encoder: Any = self.model.arrival(self.field).encoder
        return encoder.embed(ids, torch.tensor([len(tokens)], device=self.device))

    def marked(self, features: Features) -> Features:
        """A written token with the mark of its role, which `join` gives it in training."""
        if not self.inputs:
            return features
        return replace(features, values=self.model.roles(len(self.inputs), features.values))


def choose(logits: Tensor, before: Sequence[int], config: Config, generator: torch.Generator) -> int:
    """The next token for logits (V,)."""
    if config.repetition_penalty > 1:
        seen = torch.tensor(sorted(set(before)))
        value = logits[seen]
        logits = logits.index_copy(
            0, seen, torch.where(value > 0, value / config.repetition_penalty, value * config.repetition_penalty)
        )
    if config.temperature == 0:
        return int(logits.argmax())
    probabilities = (logits.double() / config.temperature).softmax(0)
    kept = torch.ones_like(probabilities, dtype=torch.bool)
    if config.top_k:
        kept &= probabilities >= probabilities.topk(min(config.top_k, len(logits))).values[-1]
    if config.min_p:
        kept &= probabilities >= config.min_p * probabilities.max()
    if config.top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        kept[index[ordered.cumsum(0) - ordered >= config.top_p]] = False
    return int(torch.multinomial(torch.where(kept, probabilities, 0.0), 1, generator=generator))
