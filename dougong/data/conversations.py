"""Conversations: lists of messages {role, content}, as data files and prompts hold them."""

from __future__ import annotations

from typing import cast

from dougong.core.errors import shown
from dougong.data.json_lines import JSON
from dougong.data.records import Unreadable

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


def read(value: object) -> list[Message]:
    """The messages of a conversation: a list of them, or the same as JSON text. ValueError says what it should be."""
    messages = _from_json(value) if isinstance(value, str) else value
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError("expected a list of messages {role, content}")
    found = [_message(message, place) for place, message in enumerate(messages, 1)]
    if any(message["role"] == "system" for message in found[1:]):
        raise ValueError("expected at most one system message, and that first")
    return found


def check_has_reply(messages: list[Message]) -> None:
    """A conversation that is learnt from has something of the assistant's to learn."""
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError("expected at least one message of the assistant")


def _message(value: object, place: int) -> Message:
    if not isinstance(value, dict):
        raise ValueError(f"message {place}: expected role and content")
    more = [key for key, item in value.items() if key not in ("role", "content") and item is not None]
    if more:  # a tool call, a picture: what is left out would not be missed by anybody
        raise ValueError(f"message {place}: expected role and content only, found {shown(more[0])} too")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise ValueError(f"message {place}: expected one of the roles {', '.join(ROLES)}, found {shown(role)}")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"message {place}: expected a content that is text and not empty, found {shown(content)}")
    return {"role": cast("str", role), "content": content}


def _from_json(text: str) -> object:
    try:
        return JSON.decode(text.strip())
    except (ValueError, RecursionError, Unreadable):
        raise ValueError("expected a list of messages {role, content}, or the same as JSON text") from None
