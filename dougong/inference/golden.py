"""Golden prompts: a few conversations and what a chat model replies to each, always the likeliest token.

They stay with an evaluation, so that whoever changes the model later can ask them again, and see what became of the replies.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch

from dougong.core.config import dump
from dougong.data.conversations import Message
from dougong.data.shards import Split
from dougong.fields import Field
from dougong.inference import generate
from dougong.model import Model

COUNT = 4  # of held-out conversations, where the recipe names none
LOOKED_AT = 100  # rows among which so many are looked for
MAX_TOKENS = 64  # of a reply


@torch.inference_mode()
def replies(model: Model, split: Split) -> list[dict[str, Any]]:
    """{"messages": what was said, "reply": what the model says to it}; none of a model that does not converse."""
    field = model.written
    if field is None or not hasattr(field.codec, "render"):
        return []
    asked = [dump(conversation) for conversation in field.config.golden]
    asked = asked or list(islice((each for each in held_out(field, split) if fits(field, each)), COUNT))
    config = generate.Config(max_tokens=MAX_TOKENS, temperature=0.0)
    found = []
    for messages in asked:
        tokens = [field.codec.end, *field.codec.render(messages, reply=True)]
        (written,) = generate.write(model, {}, [tokens], config)
        found.append({"messages": messages, "reply": field.codec.text(written)})
    return found


def held_out(field: Field, split: Split) -> list[list[Message]]:
    """The first conversations of a split up to the assistant's last turn, of those that have one."""
    columns = split.take(np.arange(min(LOOKED_AT, split.rows)))
    found = field.codec.decode({"tokens": columns[f"{field.name}.tokens"]})
    roles = [[message["role"] for message in messages] for messages in found]
    last = [len(each) - each[::-1].index("assistant") - 1 if "assistant" in each else -1 for each in roles]
    return [messages[:turn] for messages, turn in zip(found, last, strict=True) if turn >= 0]


def fits(field: Field, messages: list[Message]) -> bool:
    """Decoding may make a text longer: an unknown character becomes the name of its token."""
    return len(field.codec.render(messages, reply=True)) <= field.config.max_length
