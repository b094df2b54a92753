"""A sentencepiece `.model`, used through its own library, with what is called of a `tokenizers.Tokenizer`.

It is not turned into one, because tokens would differ: `tokenizers` looks its normalizer's rules up by grapheme, where
sentencepiece takes the longest that fits (ﾊﾞ would become ハ), it finds control tokens in the text of a user, and
it adds scores in float64, where float32 decides between ways to cut `oooooooo`. Source: Kudo & Richardson 2018.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dougong.core.errors import DataError, missing_extra


@dataclass(frozen=True)
class Encoding:
    """The tokens of a text."""

    ids: list[int]


class SentencePiece:
    """Unigram or BPE as sentencepiece trained it. Texts are without lone surrogates, as `data/cleaning.py` leaves them."""

    def __init__(self, model: bytes, source: str):
        self.model = model
        try:
            check_whole(model)
            self.processor = _processor()(model_proto=model)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            fix = "give the .model that `sentencepiece` saved, or a tokenizer.json"
            raise DataError(f"{source}: not a sentencepiece model ({reason}). Fix: {fix}.") from None

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        return {self.id_to_token(index): index for index in range(self.processor.get_piece_size())}

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def token_to_id(self, token: str) -> int | None:
        return self.vocabulary.get(token)

    def id_to_token(self, index: int) -> str:
        return self.processor.id_to_piece(index)

    @property
    def unknown(self) -> int:
        return self.processor.unk_id()

    def encode(self, text: str, add_special_tokens: bool = False) -> Encoding:
        return self.encode_batch_fast([text], add_special_tokens)[0]

    def encode_batch_fast(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Encoding]:
        assert not add_special_tokens, "the codec closes a text by itself"
        # One thread: the processes that prepare data are as many as there are cores.
        return [Encoding(ids) for ids in self.processor.encode(list(texts), num_threads=1)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return self.processor.decode(list(ids))

    def to_str(self) -> str:
        return json.dumps({"sentencepiece": b64encode(self.model).decode()})

    @classmethod
    def from_saved(cls, saved: dict[str, Any], source: str) -> SentencePiece:
        """What `to_str` wrote, read as JSON."""
        return cls(b64decode(saved["sentencepiece"]), source)


PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of the file's message, in this order


def check_whole(model: bytes) -> None:
    """Refuse the beginning of a file: the library takes one, fills in another algorithm, and leaves the rules out."""
    seen, place = set(), 0
    while place < len(model):
        key, place = _number(model, place)
        length, place = _number(model, place)
        if key & 7 != 2:  # every field is a message, given with its length
            raise RuntimeError("it is of another kind")
        seen.add(key >> 3)
        place += length
    if place > len(model) or not {PIECES, TRAINER, NORMALIZER} <= seen:
        raise RuntimeError("it is cut off")


def _number(model: bytes, place: int) -> tuple[int, int]:
    """A number of the protocol-buffer encoding: seven bits a byte, the last without the eighth; and where it ends."""
    number = shift = 0
    while place < len(model) and shift < 64:
        byte = model[place]
        number, shift, place = number | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return number, place
    raise RuntimeError("it is cut off, or of another kind")


def _processor() -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise missing_extra("sentencepiece", "spm", "a sentencepiece tokenizer") from None
    return SentencePieceProcessor
