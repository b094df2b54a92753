"""Chat: conversations, of which a model learns the assistant's turns. Comes out, from nothing but what was said before.

Each message is written by a template: special tokens that no user's text is ever read as, then its content. The same
code writes it for training, evaluation and generation. ChatML after OpenAI 2023.
"""

# N rows, B batch, T time, D width

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn

from dougong.core.config import Count, config, dump
from dougong.core.errors import Note, bad_field
from dougong.data import conversations
from dougong.data.columns import Columns, Ragged
from dougong.data.conversations import ROLES, Message
from dougong.data.tokenizers import END, AnyTokenizer, BPETokenizer, TokenizerConfig
from dougong.fields import FieldConfig, text
from dougong.layers.features import Features
from dougong.layers.losses import Loss

METRICS = text.METRICS
MOST_GOLDEN = 20


@dataclass(frozen=True)
class Template:
    """How a message is written: its role's special token, the text behind that, its content, `end`, and `after` it."""

    openings: dict[str, tuple[str, str]]  # role -> special token, text
    end: str
    after: str = ""


TEMPLATES = {
    "dougong": Template({role: (f"<|{role}|>", "") for role in ROLES}, END),
    "chatml": Template({role: ("<|im_start|>", f"{role}\n") for role in ROLES}, "<|im_end|>", "\n"),
}


@config
class GoldenMessage:
    """One message of a golden conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@config
class Config(FieldConfig):
    """A conversation. `max_length` counts the tokens of all its messages; messages beyond it are left out."""

    type: Literal["chat"] = "chat"
    tokenizer: TokenizerConfig = BPETokenizer()
    template: Literal["dougong", "chatml"] = "dougong"
    loss_on: Literal["assistant", "all"] = "assistant"
    max_length: Count = 512
    lowercase: bool = False
    tied: bool = True
    runs: Annotated[int, Field(ge=1, le=8)] = 1
    golden: tuple[tuple[GoldenMessage, ...], ...] = ()  # answered at each evaluation
    loss: Loss | None = None

    def __post_init__(self) -> None:
        as_text(self)  # what a text refuses
        if len(self.golden) > MOST_GOLDEN:
            expected = f"at most {MOST_GOLDEN} conversations: they are answered at each evaluation"
            raise bad_field("chat.golden", f"{len(self.golden)} conversations", expected, "leave some out")
        for place, conversation in enumerate(self.golden):
            check_waits(f"chat.golden[{place}]", dump(conversation))


def as_text(config: Config) -> text.Config:
    """The config of a text that is cut into tokens, embedded and written as this conversation is."""
    return text.Config(
        column=config.column,
        tokenizer=config.tokenizer,
        max_length=config.max_length,
        lowercase=config.lowercase,
        tied=config.tied,
        runs=config.runs,
    )


def files(config: Config) -> Any:
    """What the codec is made from beside the data."""
    return text.files(as_text(config))


def check_waits(place: str, value: object) -> list[Message]:
    """The messages of a prompt: a conversation that the assistant is to answer."""
    try:
        messages = conversations.read(value)
    except ValueError as error:
        fix = "give a text, or a list of messages {role, content}"
        raise bad_field(place, value, str(error).removeprefix("expected "), fix) from None
    if messages[-1]["role"] == "assistant":
        raise bad_field(place, messages[-1], "a conversation that waits for a reply", "leave its last message out")
    return messages


class Codec:
    """Conversation <-> token ids: every message is opened by what its role begins with, and closed by the end token."""

    RAW = pa.list_(pa.struct([("role", pa.large_string()), ("content", pa.large_string())]))
    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all that hold so many characters as a tokenizer takes

    def __init__(self, config: Config, tokenizer: AnyTokenizer, template: Template):
        self.config, self.template = config, template
        if not isinstance(tokenizer, Tokenizer):
            expected = "one that takes further special tokens, which a sentencepiece model does not"
            raise bad_field("chat.tokenizer", config.tokenizer.kind, expected, "write tokenizer: bpe")
        specials = [*dict.fromkeys(special for special, _ in template.openings.values()), template.end]
        tokenizer.add_special_tokens(specials)
        self.contents = text.Codec(as_text(config), tokenizer)  # of messages
        self.tokenizer, self.vocab_size, self.dtype = tokenizer, self.contents.vocab_size, self.contents.dtype
        self.openings = {
            role: [self.id(special), *self.ids(more)] for role, (special, more) in template.openings.items()
        }
        self.end = self.id(template.end)
        self.closing = [self.end, *self.ids(template.after)]
        self.check(specials)
        self.check_golden()

    def check_golden(self) -> None:
        """Those that the recipe names are replied to as they stand, or not at all."""
        for place, conversation in enumerate(self.config.golden):
            if (length := len(self.render(dump(conversation), reply=True))) > self.config.max_length:
                expected = f"at most max_length ({self.config.max_length:,}) tokens, found {length:,}"
                raise bad_field(
                    f"chat.golden[{place}]", dump(conversation), expected, "shorten it, or raise max_length"
                )

    def id(self, special: str) -> int:
        token: int = self.tokenizer.get_vocab()[special]
        return token

    def ids(self, piece: str) -> list[int]:
        return self.contents.ids([piece])[0] if piece else []

    def check(self, specials: list[str]) -> None:
        """Nobody may open or close a turn by writing its token into a message, and roles must be told apart."""
        kind = self.config.tokenizer.kind
        found = [special for special in specials if self.id(special) in self.ids(special)]
        if found:
            expected = f"one that does not find {found[0]} in a user's text"
            fix = "use another template, or a tokenizer that is trained on the data, such as bpe"
            raise bad_field("chat.tokenizer", kind, expected, fix)
        if any(self.contents.unknown in opening for opening in [*self.openings.values(), self.closing]):
            expected = "dougong, whose tokens are all its own: this tokenizer does not know the names of the roles"
            raise bad_field("chat.template", self.config.template, expected, "write template: dougong")

    @staticmethod
    def parse(value: object, config: Config | None = None) -> list[Message] | None:
        if value is None or value == "":
            return None
        messages = conversations.read(value)
        conversations.check_has_reply(messages)
        return messages

    @classmethod
    def fit(cls, config: Config, values: Iterable[list[Message] | None]) -> Codec:
        template = TEMPLATES[config.template]

        def texts() -> Iterable[str]:
            yield from (more for _, more in template.openings.values() if more)
            yield from (message["content"] for value in values if value for message in value)

        return cls(config, text.Codec.fit(as_text(config), texts()).tokenizer, template)

    def encode(self, values: Sequence[list[Message] | None]) -> tuple[Columns, dict[str, int]]:
        """{"tokens": ragged ids of the turns that fit into `max_length`, "learnt": (N,) how many of them are targets,
        "bytes": (N,) of UTF-8 that these stand for}, and what did not fit."""
        rows, counts = self.turns(values)
        kept = [row[: fitting(row, self.config.max_length)] or [self.cut(turn) for turn in row[:1]] for row in rows]
        left_out = [turn for row, fit in zip(rows, kept, strict=True) for turn in row[len(fit) :]]
        counts |= {
            f"conversations cut to {self.config.max_length:,} tokens": sum(map(was_cut, rows, kept)),
            "messages left out": len(left_out),
            "replies left out": sum(turn.role == "assistant" for turn in left_out),
            "conversations with nothing left to learn": sum(
                bool(row) and not learnt_of(fit) for row, fit in zip(rows, kept, strict=True)
            ),
        }
        tokens = [np.concatenate([turn.tokens for turn in row] or [np.array([self.end])]) for row in kept]
        columns: Columns = {"tokens": Ragged.of(tokens, self.dtype)}
        columns["learnt"] = np.array([learnt_of(row) for row in kept], dtype=np.int64)
        columns["bytes"] = np.array([sum(turn.bytes for turn in row) for row in kept], dtype=np.int64)
        return columns, counts

    def turns(self, values: Sequence[Sequence[Message] | None]) -> tuple[list[list[Turn]], dict[str, int]]:
        """The messages of N conversations as tokens, and how many of these were unknown."""
        messages = [message for value in values for message in value or ()]
        columns, counts = self.contents.encode([message["content"] for message in messages])
        tokens, size = columns["tokens"], np.asarray(columns["bytes"])
        assert isinstance(tokens, Ragged)
        made = iter(
            # A text is closed by the tokenizer's own end token, a turn by the template's.
            self.turn(message["role"], tokens.row(place)[:-1], int(size[place]))
            for place, message in enumerate(messages)
        )
        return [list(islice(made, len(value or ()))) for value in values], counts

    def turn(self, role: str, content: np.ndarray, size: int) -> Turn:
        tokens = np.concatenate([self.openings[role], content, self.closing]).astype(self.dtype)
        if self.config.loss_on == "all":
            return Turn(role, tokens, len(tokens), size)
        return Turn(role, tokens, len(content) + 1, size) if role == "assistant" else Turn(role, tokens, 0, 0)

    def cut(self, turn: Turn) -> Turn:
        """A first message that is longer than all that is read: its beginning."""
        tokens, opening = turn.tokens[: self.config.max_length], len(self.openings[turn.role])
        said = tokens[opening:]
        learnt = len(tokens) if self.config.loss_on == "all" else min(turn.learnt, len(said))
        return Turn(turn.role, tokens, learnt, self.contents.size(said[said != self.end]) if turn.learnt else 0)

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> list[int]:
        """The tokens of a conversation; with `reply` those of a prompt that waits for the assistant's."""
        tokens = [int(token) for turn in self.turns([messages])[0][0] for token in turn.tokens]
        return tokens + (self.openings["assistant"] if reply else [])

    def prompt(self, value: object, place: str) -> list[int]:
        """What a reply is written behind: a text (what a user says), or a conversation; "" lets the assistant begin."""
        if value in ("", []):
            return self.render([], reply=True)
        asked = [{"role": "user", "content": value}] if isinstance(value, str) else value
        messages, most = check_waits(place, asked), self.config.max_length
        for message in messages:
            text.check_characters(place, message["content"])
        first = int(messages[0]["role"] == "system")  # what it says holds for the whole conversation
        left = messages[first:]
        while len(tokens := self.render([*messages[:first], *left], reply=True)) > most and len(left) > 1:
            left = left[1:]
        if len(tokens) > most:
            expected = f"at most the {most:,} tokens that the model has learnt to look back on, found {len(tokens):,}"
            raise bad_field(place, value, expected, "shorten it, or train with a larger max_length")
        if old := len(messages) - first - len(left):
            said = f"{place}: its {old:,} oldest messages are left out: the model looks back on {most:,} tokens"
            warnings.warn(said, Note, stacklevel=2)
        return tokens

    def decode(self, columns: Columns) -> list[list[Message]]:
        tokens = columns["tokens"]
        assert isinstance(tokens, Ragged)
        return [self.messages(tokens.row(index).tolist()) for index in range(len(tokens))]

    def messages(self, tokens: list[int]) -> list[Message]:
        """The messages that some ids hold."""
        found: list[Message] = []
        after = self.closing[1:]
        while tokens:
            stop = tokens.index(self.end) if self.end in tokens else len(tokens)
            turn, tokens = tokens[:stop], tokens[stop + 1 :]
            tokens = tokens[len(after) :] if tokens[: len(after)] == after else tokens
            for role, opening in self.openings.items():
                if turn[: len(opening)] == opening:
                    found.append({"role": role, "content": self.text(turn[len(opening) :])})
        return found

    def text(self, tokens: Iterable[int]) -> str:
        """The text of some ids; end tokens are left out."""
        return self.contents.text(token for token in tokens if token != self.end)

    def limits(self) -> dict[str, int]:
        return {"tokens": self.config.max_length}

    def to_json(self) -> dict[str, Any]:
        return {**self.contents.to_json(), "template": dataclasses.asdict(self.template)}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        """As it was fitted: a run keeps its template, whatever becomes of that of the same name."""
        kept = saved["template"]
        openings = {role: (special, more) for role, (special, more) in kept["openings"].items()}
        template = Template(openings, kept["end"], kept["after"])
        return cls(config, text.Codec.from_json(as_text(config), saved).tokenizer, template)


@dataclass(frozen=True)
class Turn:
    """A message as tokens, with how many of them are learnt, and the bytes of UTF-8 that these stand for."""

    role: str
    tokens: np.ndarray
    learnt: int
    bytes: int


def fitting(turns: Sequence[Turn], most: int) -> int:
    """How many whole turns, from the first on, have together at most so many tokens."""
    return int((np.cumsum([len(turn.tokens) for turn in turns]) <= most).sum())


def learnt_of(turns: Sequence[Turn]) -> int:
    return sum(turn.learnt for turn in turns)


def was_cut(turns: Sequence[Turn], kept: Sequence[Turn]) -> bool:
    return sum(len(turn.tokens) for turn in kept) < sum(len(turn.tokens) for turn in turns)


class Reader(text.Encoder):
    """Token ids of what was said so far -> features (B, T, D)."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__(as_text(config), codec, width, patch)  # type: ignore[arg-type]  # has what a text's codec has


class Head(text.Head):
    """Next-token prediction of the tokens that are learnt: an assistant's, each with all that stands before it."""

    STREAM: ClassVar[bool] = False
    READER: ClassVar[type[nn.Module]] = Reader

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__(as_text(config), codec, width, loss)  # type: ignore[arg-type]
        self.opening = codec.openings["assistant"] if config.loss_on == "assistant" else []
        self.end = codec.end

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return batch[f"{name}.learnt"].sum()

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        return super().loss(self.learnt(features, batch[f"{name}.tokens"]), batch, name)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"nats": (B, T)}: what each token that is learnt cost; 0 where it is not."""
        return super().predict(self.learnt(features, batch[f"{name}.tokens"]), batch, name)

    def learnt(self, features: Features, tokens: Tensor) -> Features:  # tokens (B, T)
        """The features at the targets: those behind an assistant's opening, up to the end token that closes it."""
        if not self.opening:
            return features
        opened = torch.ones_like(tokens, dtype=torch.bool)
        for back, token in enumerate(reversed(self.opening)):
            opened &= nn.functional.pad(tokens, (back, 0), value=-1)[:, : tokens.shape[1]] == token
        inside = last(opened) > last(tokens == self.end)
        return replace(features, mask=features.mask & inside)


def last(marks: Tensor) -> Tensor:  # (B, T) bool -> (B, T) int64
    """The place, from 1, of the last mark before each position; 0 where there is none."""
    places = torch.arange(1, marks.shape[1] + 1, device=marks.device) * marks
    return nn.functional.pad(places.cummax(1).values, (1, 0))[:, :-1]
