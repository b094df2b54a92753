"""Text: tokens by one of `data/tokenizers.py`, token embeddings, and the language-model head.

Sources: tied embeddings after Press & Wolf 2017.
"""

# N rows, B batch, T time, D width, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config, dump
from dougong.core.errors import DataError, Problem, bad_field
from dougong.data import tokenizers
from dougong.data.columns import Columns, Ragged
from dougong.data.ordering import uniform
from dougong.data.tokenizers import (
    AnyTokenizer,
    BPETokenizer,
    CharTokenizer,
    FileTokenizer,
    InitTokenizer,
    TokenizerConfig,
)
from dougong.data.words import GPT2_WORDS, Words, WordTokens, ragged, word_places
from dougong.fields import FieldConfig, Whole, _ctc, aligned, masked
from dougong.layers.attention import Readers
from dougong.layers.copying import Copier, Source, copied_shares, mixed
from dougong.layers.features import Features, length_mask
from dougong.layers.lookup import lookup
from dougong.layers.losses import Loss, linear_cross_entropy_sum
from dougong.layers.masking import hide
from dougong.layers.norms import LayerNorm
from dougong.metrics.language import BitsPerByte, MaskedAccuracy, MaskedPerplexity, Perplexity, TokenLoss
from dougong.metrics.metric import Metric
from dougong.metrics.transcripts import CharacterErrorRate, WordErrorRate
from dougong.metrics.writing import BLEU, CHRF, ExactMatch, RougeL, WordF1, text_column, texts

WHOLE = 1 << 40  # tokens: as many as there are


@config
class Config(FieldConfig):
    """A text. `max_length` counts tokens; for a language model it is the context."""

    type: Literal["text"] = "text"
    tokenizer: TokenizerConfig = BPETokenizer()
    max_length: Count = 512
    lowercase: bool = False
    ngrams: Annotated[int, Field(ge=1, le=16)] = (
        1  # an input's positions also tell which runs of 2 … n tokens end there
    )
    rarity: bool = False  # an input's tokens count by how rare they are among the training rows, as its ngrams do
    token_dropout: Fraction = 0.0  # share of an input's positions hidden in training, against learning by heart
    words: bool = False  # tell where each word begins: what an output that names this input's words sets
    places: bool = False  # tell where each token ends, and keep the text: what an output that quotes this input sets
    objective: Literal["causal", "masked", "ctc"] = (
        "causal"  # tell the next token, or those that were hidden, or spell along the input's positions
    )
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15  # masked: of the tokens that are to be told
    transform: bool = (
        False  # masked: a layer of the head's own, and a bias for each token, stand before the scores, as in BERT
    )
    boundaries: bool = False  # without inputs: the documents in a window do not see one another
    tied: bool = True  # the head shares its matrix with the embedding
    shares: str | None = None  # an answer: the input with which it has one vocabulary, and one embedding
    copy: bool = False  # beside shares: a token may also be taken from that input, where it stands there
    runs: Annotated[int, Field(ge=1, le=8)] = 1  # beside its token each position has the runs of 2 … n that end there
    loss: Loss | None = None
    metrics: tuple[Literal["bleu", "chrf", "rouge_l", "exact_match", "f1", "wer", "cer"], ...] | None = (
        None  # of answers: rouge_l and exact_match, of ctc wer and cer
    )
    bleu_tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"  # what BLEU takes for words
    beams: Annotated[Count, Field(le=64)] = 1  # texts that are searched along at once when an answer is written
    length_penalty: float = 1.0  # of beams: above 0 favours longer texts

    @property
    def masked(self) -> bool:
        """Whether it is told from what stands around it, and not written."""
        return self.objective == "masked"

    def __post_init__(self) -> None:
        if self.lowercase and isinstance(self.tokenizer, FileTokenizer | InitTokenizer):
            expected = "false beside a finished tokenizer, which changes the text its own way"
            raise bad_field("text.lowercase", True, expected, "remove it")
        if self.runs > 1 and self.ngrams > 1:
            raise bad_field(
                "text.runs", self.runs, "1 beside ngrams, which stand in place of tokens", "remove one of them"
            )
        if self.rarity and self.ngrams > 1:
            raise bad_field("text.rarity", True, "false beside ngrams, which always count so", "remove it")
        if self.rarity and self.runs > 1:
            raise bad_field("text.rarity", True, "false beside runs", "remove one of them")
        if self.runs > 1 and self.boundaries:
            expected = "1 beside boundaries, across which runs would reach"
            raise bad_field("text.runs", self.runs, expected, "remove one of them")
        if self.mask_share != 0.15 and self.objective != "masked":
            expected = "0.15 beside objective: causal, which hides nothing"
            raise bad_field("text.mask_share", self.mask_share, expected, "write objective: masked, or remove it")
        if self.transform and self.objective != "masked":
            expected = f"false beside objective: {self.objective}"
            raise bad_field("text.transform", True, expected, "write objective: masked, or remove it")
        if self.objective == "ctc":
            self.check_ctc()

    def check_ctc(self) -> None:
        """Keys that have no effect where nothing is written step by step."""
        for key, default in (
            ("runs", 1),
            ("shares", None),
            ("copy", False),
            ("boundaries", False),
            ("length_penalty", 1.0),
        ):
            if (value := getattr(self, key)) != default:
                raise bad_field(f"text.{key}", value, "nothing beside objective: ctc", "remove it")
        if self.max_length != 512:
            expected = "nothing beside objective: ctc, whose texts are read whole"
            raise bad_field("text.max_length", self.max_length, expected, "remove it")


ONLY_IN = ("ngrams", "rarity", "token_dropout")
ONLY_OUT = (
    "objective",
    "mask_share",
    "transform",
    "boundaries",
    "tied",
    "shares",
    "copy",
    "metrics",
    "bleu_tokenize",
    "beams",
    "length_penalty",
)


def files(config: Config) -> list[Path]:
    """What the codec is made from beside the data: other contents give other tokens."""
    return [Path(config.tokenizer.path)] if isinstance(config.tokenizer, FileTokenizer) else []


def check(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    """What an answer cannot be beside the inputs that it answers to, and what it asks of the one that it shares with."""
    if not key.startswith("outputs."):
        return
    if whole.inputs and masked(config):
        expected = "causal or ctc beside inputs: a masked text is told from itself alone"
        yield Problem(f"{key}.objective", "masked", expected, "remove it, or the inputs")
    if whole.inputs and config.boundaries:
        yield Problem(f"{key}.boundaries", True, "false beside inputs: each row is read by itself", "remove it")
    if config.copy and config.shares is None:
        expected = "true beside shares: what is copied is a token of both vocabularies"
        fix = f"write shares: {next(iter(whole.inputs), 'INPUT')}, or remove it"
        yield Problem(f"{key}.copy", True, expected, fix)
    if config.shares is not None:
        yield from _shared(key, config, whole)


def _shared(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    """What an answer asks of the input with which it has one vocabulary and one embedding."""
    of, texts = config.shares, [name for name, other in whole.inputs.items() if other.type == config.type]
    if of not in texts:
        expected = f"an input of type {config.type}" + (f": one of {', '.join(texts)}" if texts else "")
        yield Problem(f"{key}.shares", of, expected, f"write shares: {texts[0]}" if texts else "remove it")
        return
    for setting in ("tokenizer", "lowercase"):
        if (theirs := getattr(whole.inputs[of], setting)) != getattr(config, setting):
            expected = f"an input with the same {setting}, and {of} has {dump(theirs)}"
            fix = f"write {setting} alike in inputs.{of} and {key}, or remove it"
            yield Problem(f"{key}.shares", of, expected, fix)
    if whole.inputs[of].ngrams > 1 or whole.inputs[of].rarity:
        expected = "an input that embeds its tokens, not their ngrams, and without rarity"
        yield Problem(f"{key}.shares", of, expected, f"remove it, or ngrams and rarity of {of}")
    if of in whole.encoders:
        expected = "an input without an encoder of its own, which may have another width"
        yield Problem(f"{key}.shares", of, expected, f"remove it, or inputs.{of}.encoder")


class Codec:
    """Text <-> token ids. Every text is closed by the end token."""

    RAW = pa.large_string()
    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all that hold so many characters
    SAMPLE_CHARACTERS = tokenizers.SAMPLE_CHARACTERS

    def __init__(self, config: Config, tokenizer: AnyTokenizer):
        self.config, self.tokenizer = config, tokenizer
        vocabulary = tokenizer.get_vocab()
        self.vocab_size = max(vocabulary.values()) + 1  # a tokenizer.json may leave out ids
        self.end = vocabulary[tokenizers.end_token(config.tokenizer, tokenizer)]
        self.unknown = tokenizers.unknown_token(tokenizer)
        hides = config.objective == "masked"
        self.mask = vocabulary[tokenizers.mask_token(config.tokenizer, tokenizer)] if hides else None
        # A tokenizer may drop spaces, accents, capitals: what it keeps is seen only when it is decoded.
        kind = config.tokenizer.kind
        self.pattern = tokenizers.known_pattern(config.tokenizer, tokenizer)
        self.lossy = config.lowercase or kind == "wordpiece" or (kind == "file" and self.pattern is None)
        self.dtype = np.uint16 if self.vocab_size <= 1 << 16 else np.int32
        self.in_windows = config.places  # a text that is quoted is read to its end, in as many windows as it takes
        if (config.words or config.places) and not isinstance(tokenizer, Tokenizer):
            told = "words" if config.words else "places"
            expected = f"one that tells where its tokens stand, for the output that names this text's {told}"
            raise bad_field("text.tokenizer", getattr(config.tokenizer, "path", kind), expected, "use kind: bpe")

    @staticmethod
    def parse(value: object, config: Config | None = None) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool | int | float):
            return str(value)
        raise ValueError(f"expected text, found {type(value).__name__}")

    @classmethod
    def fit(cls, config: Config, values: Iterable[str]) -> Codec:
        texts = tokenizers.sample(values)
        first = next(texts, None)
        if first is None and config.tokenizer.kind not in tokenizers.UNTRAINED:
            raise DataError(f"column {config.column!r}: no text in any training row. Fix: leave the column out.")
        tokenizer = tokenizers.train(config.tokenizer, chain([first or ""], texts), lowercase=config.lowercase)
        if config.objective == "masked" and isinstance(tokenizer, Tokenizer) and config.tokenizer.kind != "file":
            tokenizer.add_special_tokens([tokenizers.MASK])  # one more than vocab_size: the others are as without it
        return cls(config, tokenizer)

    def encode(self, values: Sequence[str | None]) -> tuple[Columns, dict[str, int]]:
        """{"tokens": ragged ids, "bytes": (N,) of UTF-8 that they stand for}, and how many tokens were unknown.

        Beside them "words": the place of each word's first token; "ends" and "text": where each token ends, in characters,
        and the text as UTF-8.
        """
        texts = ["" if value is None else value for value in values]
        tokens = Ragged.concat([Ragged.of([], self.dtype), *map(self.tokenize, tokenizers.groups(texts))])
        counts = {}
        if self.unknown is not None:
            what = "unknown characters" if isinstance(self.config.tokenizer, CharTokenizer) else "unknown tokens"
            counts[what] = int((tokens.values == self.unknown).sum()) - len(texts) * (self.unknown == self.end)
        size = np.array([len(text.encode()) for text in texts], dtype=np.int64)
        for index in range(len(texts)) if self.lossy or self.unknown is not None else ():
            row = tokens.row(index)
            if self.lossy or self.unknown in row:
                size[index] = min(size[index], self.size(row))  # ㍿ may have become 株式会社
        words = {"words": self.word_tokens(texts)} if self.config.words else {}
        quoted = {"ends": self.token_ends(texts), "text": text_column(texts)} if self.config.places else {}
        return {"tokens": tokens, "bytes": size, **words, **quoted}, counts

    def word_tokens(self, texts: list[str]) -> Ragged:
        """The place of the first token of each word (one that holds a part of the word before it, if there is no other)."""
        rows = []
        assert isinstance(self.tokenizer, Tokenizer)
        for text, encoding in zip(texts, self.tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)  # in characters, rising
            rows.append(np.searchsorted(ends, word_places(text), side="right").astype(np.int32))
        return Ragged.of(rows, np.int32)

    def token_ends(self, texts: list[str]) -> Ragged:
        """The character at which each token ends, the end token left out; tokens that share a character share its end."""
        rows = []
        assert isinstance(self.tokenizer, Tokenizer)
        for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False):
            ends = np.array([end for _, end in encoding.offsets], dtype=np.int32)
            if self.end in encoding.ids:  # its spelling stands in the text, and became several tokens
                ends = np.repeat(ends, [len(self.unended([index])) for index in encoding.ids])
            rows.append(ends)
        return Ragged.of(rows, np.int32)

    def tokenize(self, texts: list[str]) -> Ragged:
        if self.words is not None:
            return self.words.encode(texts)
        return Ragged.of([np.array([*ids, self.end], dtype=self.dtype) for ids in self.ids(texts)], self.dtype)

    def ids(self, texts: list[str]) -> list[list[int]]:
        found = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        return [ids if self.end not in ids else self.unended(ids) for ids in found]

    def unended(self, ids: list[int]) -> list[int]:
        """What a finished tokenizer took for its end token stood in a text, and is spelled out: it must not end there."""
        token = self.tokenizer.id_to_token(self.end) or ""
        halves = self.tokenizer.encode_batch_fast([token[:1], token[1:]], add_special_tokens=False)
        spelled = [index for half in halves for index in half.ids if index != self.end]
        return list(chain.from_iterable(spelled if index == self.end else [index] for index in ids))

    def tokens(self, texts: list[str]) -> Ragged:
        return ragged(self.ids(texts), self.dtype)

    @cached_property
    def words(self) -> Words | None:
        """For the tokenizers that cut a text into words first, and those into bytes."""
        if self.pattern is None:
            return None
        assert isinstance(self.tokenizer, Tokenizer)
        lowercase, dtype = self.config.lowercase, self.dtype
        tokens = WordTokens(self.tokenizer, self.pattern, self.tokens, dtype, lowercase=lowercase)
        return Words(tokens, self.end, dtype, blank_lines=self.pattern != GPT2_WORDS)

    def prompt(self, value: object, place: str) -> list[int]:
        """The tokens that a prompt begins with."""
        if not isinstance(value, str):
            raise bad_field(place, value, "text", "give each prompt as text")
        check_characters(place, value)
        return self.ids([value])[0]

    def decode(self, columns: Columns) -> list[str]:
        tokens = columns["tokens"]
        assert isinstance(tokens, Ragged)
        return [self.text(tokens.row(index)) for index in range(len(tokens))]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """Texts that were read off at once (ctc), padded."""
        rows = zip(np.asarray(prediction["tokens"]), np.asarray(prediction["tokens.length"]), strict=True)
        return [{"value": self.text(row[:length])} for row, length in rows]

    def text(self, tokens: Iterable[int]) -> str:
        """The text of some ids; end tokens are left out."""
        return self.tokenizer.decode([int(token) for token in tokens if token != self.end], skip_special_tokens=False)

    def size(self, tokens: np.ndarray) -> int:
        """Bytes of UTF-8 that some ids stand for: none for an unknown token, nor for a character that is cut through."""
        text = self.text(tokens[tokens != self.unknown]).rstrip("\ufffd")
        return len(text.encode()) - tokenizers.spaces_put(self.tokenizer, text)

    def limits(self) -> dict[str, int]:
        """How much of each ragged column a batch takes; of a text that is spelled along other positions all."""
        most = self.config.max_length if self.config.objective != "ctc" else WHOLE
        return {"tokens": most, **({"ends": most, "text": 0} if self.config.places else {})}

    def to_json(self) -> dict[str, Any]:
        return {"tokenizer": tokenizers.to_json(self.tokenizer)}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, tokenizers.from_json(saved["tokenizer"], "fields"))


def check_characters(place: str, prompt: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        expected = "whole characters (half of a surrogate pair stands alone)"
        raise bad_field(place, prompt, expected, "read the text as UTF-8, or leave that half out")


class Encoder(nn.Module):
    """Token ids -> features (B, T, D): embeddings of the tokens, or of the runs of tokens that end at each position."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = None
        self.end = codec.end
        self.token_dropout = config.token_dropout
        hashed = config.ngrams > 1 or config.rarity
        self.embedding = None if hashed else nn.Embedding(codec.vocab_size, width)
        self.grams = Grams(config.ngrams, width) if hashed else None
        self.runs = Runs(config.runs, width) if config.runs > 1 else None

    def reset_parameters(self) -> None:
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=self.embedding.weight.shape[1] ** -0.5)

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        """An input's tokens; in training some positions are hidden (Iyyer et al. 2015)."""
        tokens, lengths = batch[f"{name}.tokens"], batch[f"{name}.tokens.length"]  # (B, T), (B,)
        features = self.embed(tokens, lengths) if self.grams is None else self.grams(tokens, lengths)
        if f"{name}.words" in batch:
            words = batch[f"{name}.words"]  # (B, W)
            read = length_mask(batch[f"{name}.words.length"], words.shape[1]) & (words < lengths[:, None])
            features = replace(features, places=torch.where(read, words, -1))
        if f"{name}.ends" in batch:
            ends = batch[f"{name}.ends"]  # (B, E): of all tokens but the one that closes a text
            read = length_mask(batch[f"{name}.ends.length"], ends.shape[1])
            each = torch.arange(ends.shape[1], device=ends.device).expand_as(ends)
            features = replace(features, places=torch.where(read, each, -1))
        if not self.training or not self.token_dropout:
            return features
        shown = torch.rand(tokens.shape, device=tokens.device) >= self.token_dropout
        shown[:, 0] = True  # a text of which nothing is left says nothing
        return replace(features, mask=features.mask & shown)

    def shifted(self, batch: dict[str, Tensor], name: str) -> Features:
        """What a language model sees when it predicts `tokens`: the token before each (the end before the first)."""
        tokens = batch[f"{name}.tokens"]  # (B, T)
        before = batch.get(f"{name}.before")  # (B,) set for windows that are cut from a stream
        first = torch.full_like(tokens[:, :1], self.end) if before is None else before[:, None]
        features = self.embed(torch.cat([first, tokens[:, :-1]], dim=1), batch[f"{name}.tokens.length"])
        # What is seen where a document begins is the end of the one before, as when a text is written: it belongs to the new one.
        return replace(features, segments=batch.get(f"{name}.document"))

    def concealed(self, batch: dict[str, Tensor], name: str) -> Features:
        """What a masked language model sees: all tokens, those that it has to tell hidden."""
        features = self.embed(batch[f"{name}.seen"], batch[f"{name}.tokens.length"])
        return replace(features, segments=batch.get(f"{name}.document"))

    def tie(self, other: Encoder) -> None:
        """Have one embedding with another text, of the same vocabulary."""
        assert self.embedding is not None
        assert other.embedding is not None  # refused by the recipe
        self.embedding.weight = other.embedding.weight

    def embed(self, tokens: Tensor, lengths: Tensor) -> Features:
        assert self.embedding is not None  # ngrams, which stand in its place, only go in
        # Times sqrt(D): unit scale for what flows on, while the tied head keeps the small scale that its logits need.
        values = lookup(self.embedding.weight, tokens) * self.embedding.weight.shape[1] ** 0.5  # (B, T, D)
        if self.runs is not None:
            values = values + self.runs(tokens)
        return Features(values, length_mask(lengths, tokens.shape[1]))


def augment(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training batch with some tokens hidden at random (torch's generator, so that a resumed run repeats it)."""
    if field.config.objective != "masked":
        return batch
    tokens = batch[f"{field.name}.tokens"]
    return _hidden(field, batch, torch.rand((2, *tokens.shape), device=tokens.device))


def measured(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch to be measured on: which tokens are hidden follows from their places in the stream, for every model."""
    if field.config.objective != "masked":
        return batch
    tokens, start = batch[f"{field.name}.tokens"], batch[f"{field.name}.start"]  # (B, T), (B,)
    places = start.cpu().numpy()[:, None] + np.arange(tokens.shape[1])  # (B, T)
    draws = torch.from_numpy(np.stack([uniform(places, key) for key in range(2)]))  # (2, B, T)
    return _hidden(field, batch, draws.to(tokens.device))


def _hidden(field: Any, batch: dict[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
    """The batch with "seen" and "hidden" (B, T): the tokens as the model sees them, and which it has to tell."""
    tokens, codec = batch[f"{field.name}.tokens"], field.codec
    # The end of a text is no part of it, and is never asked for.
    free = length_mask(batch[f"{field.name}.tokens.length"], tokens.shape[1]) & (tokens != codec.end)
    seen, hidden = hide(
        tokens, free, draws, share=field.config.mask_share, mask=codec.mask, vocabulary=codec.vocab_size
    )
    return {**batch, f"{field.name}.seen": seen, f"{field.name}.hidden": hidden}


class Grams(nn.Module):
    """Embeddings of the runs of 1 … n tokens that end at each position, hashed into BUCKETS (Joulin et al. 2017).

    They give a backbone without a sense of order (mlp) short phrases, or with characters as tokens parts of words. Each
    counts by how rare it is among the training rows (inverse document frequency, Spärck Jones 1972), or what stands in
    every text would drown what tells one from another.
    """

    BUCKETS: ClassVar[int] = 1 << 17
    seen: Tensor
    rows: Tensor

    def __init__(self, longest: int, width: int):
        super().__init__()
        self.longest = longest
        self.embedding = nn.Embedding(self.BUCKETS, width)
        self.register_buffer("seen", torch.empty(self.BUCKETS, dtype=torch.int64))  # training rows with such a run …
        self.register_buffer("rows", torch.empty((), dtype=torch.int64))  # … of so many

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.01)  # small: a run that was never seen adds no noise
        self.seen.zero_()
        self.rows.zero_()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Features:  # (B, T), (B,) -> (B, T, D)
        mask = length_mask(lengths, tokens.shape[1])
        runs = hashed_runs(tokens, self.longest, self.BUCKETS)  # (n, B, T)
        whole = (
            torch.ones(runs.shape[0], tokens.shape[1], dtype=torch.bool, device=tokens.device).triu()[:, None] & mask
        )
        if self.training:
            self.count(runs, whole)
        rarity = torch.log((1 + self.rows) / (1 + self.seen))[runs] * whole  # (n, B, T)
        values = torch.zeros((), device=tokens.device)
        for run, weight in zip(
            runs, rarity, strict=True
        ):  # one after the other: all at once would take n times as much
            values = values + self.embedding(run) * weight[..., None]  # (B, T, D)
        return Features(values, mask)

    @torch.no_grad()
    def count(self, runs: Tensor, whole: Tensor) -> None:
        """Note in which rows which runs stand; each row counts once."""
        row = torch.arange(runs.shape[1], device=runs.device)[:, None]  # (B, 1)
        once = torch.unique((row * self.BUCKETS + runs)[whole.expand_as(runs)]) % self.BUCKETS
        self.seen += torch.bincount(once, minlength=self.BUCKETS)
        self.rows += runs.shape[1]


def hashed_runs(tokens: Tensor, longest: int, buckets: int) -> Tensor:
    """The bucket of each run of 1 … n tokens that ends at each position: (B, T) -> (n, B, T)."""
    run, found = torch.zeros_like(tokens), []
    for _ in range(longest):
        # the run of one token less that ends one position earlier; int64 wraps around: a hash, on every device the same
        run = nn.functional.pad(run, (1, 0))[:, :-1] * 0x9E3779B97F4A7 + tokens + 1
        found.append((run ^ (run >> 29)) % buckets)
    return torch.stack(found)


class Runs(nn.Module):
    """Embeddings of the runs of 2 … n tokens that end at each position, hashed, to be added to those of the tokens.

    They begin at zero, and soon know what a model of n-grams knows, so that the layers need not find it out through
    attention. Hashed embeddings after Svenstrup et al. 2017 (arXiv:1709.03933).
    """

    BUCKETS: ClassVar[int] = 1 << 14  # each is a vector that every step moves

    def __init__(self, longest: int, width: int):
        super().__init__()
        self.longest = longest
        self.embedding = nn.Embedding(self.BUCKETS, width)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.embedding.weight)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        runs = hashed_runs(tokens, self.longest, self.BUCKETS)[1:]  # (n - 1, B, T)
        return self.embedding(runs).sum(0) * self.embedding.weight.shape[1] ** 0.5


class Head(nn.Module):
    """Features at t -> the token at t, of which the backbone saw only what stands before it, or which it saw hidden."""

    AUTOREGRESSIVE: ClassVar[bool] = True
    STREAM: ClassVar[bool] = True  # with no inputs its rows are joined into one stream, and read in windows
    READER: ClassVar[type[nn.Module]] = Encoder  # embeds what is written so far

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in ("auto", "cross_entropy"):
            raise bad_field("train.loss", loss.kind, "cross_entropy for a text", "remove it")
        self.config, self.smoothing, self.masked = config, loss.label_smoothing, config.objective == "masked"
        self.beams, self.length_penalty = config.beams, config.length_penalty
        self.looks_back = config.runs  # tokens that it takes to embed the last that was written
        self.transform = Transform(width) if config.transform else nn.Identity()
        self.projection = Projection(width, codec.vocab_size, bias=config.transform)
        self.copier = Copier(width) if config.copy else None
        if config.copy and loss.label_smoothing:
            expected = "0 beside copy, which knows what may come next"
            raise bad_field("train.loss.label_smoothing", loss.label_smoothing, expected, "remove one of the two")

    def tie(self, encoder: Encoder) -> None:
        """Share the embedding's matrix, where the widths agree and the recipe says so."""
        assert encoder.embedding is not None
        if self.config.tied and encoder.embedding.weight.shape == self.projection.weight.shape:
            self.projection.weight, self.projection.shared = encoder.embedding.weight, True

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return batch[f"{name}.hidden"].sum() if self.masked else batch[f"{name}.tokens.length"].sum()

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        """The sum of nats over the tokens that are to be told."""
        told = self.told(features, batch, name)
        if self.copier is not None:
            logits = self.logits(features.values[told])  # (n, V): of all targets at once
            return self.copied(logits.log_softmax(-1), features, batch, name).sum()
        return linear_cross_entropy_sum(
            self.transform(features.values[told]),
            self.projection.weight,
            self.projection.bias,
            batch[f"{name}.tokens"][told],
            label_smoothing=self.smoothing,
        )

    def told(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:  # (B, T) bool
        return batch[f"{name}.hidden"] if self.masked else features.mask

    def logits(self, values: Tensor, source: Source | None = None, readers: Readers | None = None) -> Tensor:
        """(..., D) -> (..., V), for generation; with a source, of which `readers` says who reads what, (R, D) -> (R, V)."""
        logits = self.projection(self.transform(values)).float()
        if source is None or self.copier is None:
            return logits
        return self.copier.log_probabilities(values, logits, source, readers)

    def source(self, features: Features, batch: dict[str, Tensor]) -> Source:
        """What is copied from."""
        assert self.copier is not None
        assert features.source is not None
        return self.copier.source(features.source, batch[f"{self.config.shares}.tokens"])

    def copied(self, written: Tensor, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        """(n,) nats of the targets that are told, each written or copied; `written` (n, V): logarithms of the one way."""
        assert self.copier is not None
        told, targets, source = self.told(features, batch, name), batch[f"{name}.tokens"], self.source(features, batch)
        shares, gate = self.copier(features.values, source)  # (B, T, S), (B, T)
        copied = copied_shares(shares, source.tokens, targets)[told]  # (n,)
        return -mixed(written.gather(1, targets[told][:, None])[:, 0], copied, gate[told])

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"nats", "told"}, (B, T) each: what each token cost, 0 where it was not to be told; and which were.

        Where tokens were hidden also "right": which of them were the likeliest.
        """
        tokens, told = batch[f"{name}.tokens"], self.told(features, batch, name)  # (B, T)
        nats = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
        if self.copier is not None:
            logs = self.logits(features.values[told]).log_softmax(-1)  # (n, V)
            nats[told] = self.copied(logs, features, batch, name)
            return {"nats": nats, "told": told}
        costs, hits = [], []
        for rows, targets in zip(features.values[told].split(4096), tokens[told].split(4096), strict=True):
            logits = self.logits(rows)  # (n, V)
            costs.append(nn.functional.cross_entropy(logits, targets, reduction="none"))  # (n,)
            if self.masked:
                hits.append(logits.argmax(-1) == targets)
        nats[told] = torch.cat(costs)
        if not self.masked:
            return {"nats": nats, "told": told}
        return {"nats": nats, "told": told, "right": torch.zeros_like(told).masked_scatter(told, torch.cat(hits))}


def head(config: Config) -> Any:
    """Which of two a text has: one that tells tokens by their neighbours, or one that reads them off the input."""
    return _ctc.Head if config.objective == "ctc" else Head


class Transform(nn.Sequential):
    """What stands between features and scores where BERT tells hidden words (Devlin et al. 2019): (N, D) -> (N, D)."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(width, width), nn.GELU(), LayerNorm(width))


class Projection(nn.Linear):
    """Features -> a score for each token. Whose matrix it shares has filled it already."""

    shared = False

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if not self.shared:
            nn.init.zeros_(self.weight)  # the first prediction is uniform: loss starts at log V


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    if aligned(config):
        return answer_metrics(config.metrics or ("wer", "cer"), config, codec.decode)
    if masked(config):  # no bits per byte: what stands around a hidden token has told of it
        return [MaskedPerplexity(), MaskedAccuracy(), TokenLoss()]
    return [BitsPerByte(), Perplexity(), TokenLoss()]


def ANSWERS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802
    return answer_metrics(config.metrics or ("rouge_l", "exact_match"), config, texts)


def answer_metrics(names: Sequence[str], config: Config, read: Callable[[Columns], list[str]]) -> list[Metric]:
    """Metrics of texts; `read` gives those of N rows."""
    made: dict[str, Callable[[], Metric]] = {
        "bleu": partial(BLEU, config.bleu_tokenize, read),
        "chrf": partial(CHRF, read),
        "rouge_l": partial(RougeL, read),
        "exact_match": partial(ExactMatch, read),
        "f1": partial(WordF1, read),
        "wer": partial(WordErrorRate, read),
        "cer": partial(CharacterErrorRate, read),
    }
    return [made[name]() for name in names]
