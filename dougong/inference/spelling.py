"""The bytes that each token of a vocabulary writes.

Known for tokenizers that put their tokens together one after the other: bytes, characters, SentencePiece's. What else a
finished tokenizer may do to a text when it is decoded (joining words by spaces, cleaning up) is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from dougong.core.errors import bad_field

FALLBACK = re.compile("<0x([0-9A-Fa-f]{2})>")
PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))  # bytes that GPT-2's alphabet shows as they are
OTHERS = [value for value in range(256) if value not in PRINTED]  # and those that it shows as characters from 256 on
BYTES = {chr(value): value for value in PRINTED} | {chr(256 + place): value for place, value in enumerate(OTHERS)}


@dataclass
class Spellings:
    """Bytes of many tokens, end to end."""

    tokens: np.ndarray  # (n,) ids
    starts: np.ndarray  # (n,) into values
    sizes: np.ndarray  # (n,) above 0
    values: np.ndarray  # of all

    @classmethod
    def of(cls, spelled: dict[int, bytes]) -> Spellings:
        kept = {token: text for token, text in spelled.items() if text}  # what writes nothing could go on for ever
        sizes = np.array([len(text) for text in kept.values()], dtype=np.int64)
        values = np.frombuffer(b"".join(kept.values()), dtype=np.uint8)
        return cls(np.array(list(kept), dtype=np.int64), np.cumsum(sizes) - sizes, sizes, values)


@dataclass
class Vocabulary:
    """What the tokens write, and those that begin a text: some tokenizers drop the space that leads it."""

    spelled: dict[int, bytes]
    leading: dict[int, bytes] | None

    @property
    def bytewise(self) -> bool:
        """Whether each byte is a token: then whatever is begun can be finished."""
        single = {text for text in self.spelled.values() if len(text) == 1}
        return all(bytes([value]) in single for value in (*range(0xC0), *range(0xC2, 0xF5)))


def spell(tokenizer: Tokenizer, barred: set[int | None]) -> Vocabulary:
    """All tokens but those in `barred`, and but the special ones, which stand for no text."""
    said = json.loads(tokenizer.to_str())
    special = {each["id"] for each in said["added_tokens"] if each["special"]}
    tokens = {
        token: text for text, token in tokenizer.get_vocab().items() if token not in special and token not in barred
    }
    steps = _steps(said["decoder"])
    kinds = {step["type"] for step in steps}
    if steps and kinds == {"ByteLevel"}:
        return Vocabulary({token: _of_bytes(text) for token, text in tokens.items()}, None)
    if not steps or not all(map(_joins, steps)):
        kind = ", ".join(step["type"] for step in steps) or "none"
        expected = (
            "a tokenizer whose decoder only joins what its tokens write (ByteLevel, Fuse, Metaspace, ByteFallback)"
        )
        raise bad_field("tokenizer.decoder", kind, expected, "leave regex and json_schema out for this run")
    spelled = {token: _of_text(text, steps) for token, text in tokens.items()}
    if not any(map(_drops_space, steps)):
        return Vocabulary(spelled, None)
    return Vocabulary(spelled, {token: _of_text(text, steps, leading=True) for token, text in tokens.items()})


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for each in decoder["decoders"] for step in _steps(each)]
    return [decoder]


def _joins(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        return "String" in step["pattern"]
    return step["type"] in ("Fuse", "ByteFallback", "Metaspace") or _drops_space(step)


def _drops_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Strip":
        return (step["content"], step["start"], step["stop"]) == (" ", 1, 0)
    return step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never"


def _of_bytes(text: str) -> bytes:
    """A token of a byte-level alphabet. One that was added as it stands may hold other characters."""
    try:
        return bytes(BYTES[character] for character in text)
    except KeyError:
        return text.encode()


def _of_text(text: str, steps: list[dict[str, Any]], leading: bool = False) -> bytes:
    for step in steps:
        if step["type"] == "Replace":
            text = text.replace(step["pattern"]["String"], step["content"])
        elif step["type"] == "Metaspace":
            text = text.replace(step["replacement"], "" if leading and _drops_space(step) else " ")
        elif step["type"] == "ByteFallback" and (found := FALLBACK.fullmatch(text)):
            byte = bytes([int(found[1], 16)])
            return b"" if leading and byte == b" " and any(map(_drops_space, steps)) else byte
        elif step["type"] == "Strip" and leading:
            text = text.removeprefix(" ")
    return text.encode()
