"""Text that must match a regular expression or a JSON schema: which tokens may follow, and how many it takes to the end.

A token may be written if what it leaves to be written fits into the tokens that are left: a text is whole in time
wherever that can be, and never runs into an end where no token goes on. The end token may come where the text is whole.
What may follow is computed once for each place in the automaton, for all tokens side by side.
"""

# S states, C classes, N nodes, V vocabulary, E edges between states

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from dougong.core.errors import FieldError, bad_field
from dougong.fields.text import Codec
from dougong.inference.automata import MOST_STATES, NEVER, Automaton, Part, TooLarge, relaxed
from dougong.inference.json_schemas import FIELD, schema_part
from dougong.inference.patterns import pattern
from dougong.inference.spelling import Spellings, spell

PLACES = 512  # places whose tokens are remembered; within a long text in a large vocabulary one takes 2 MB


@dataclass(frozen=True)
class Place:
    """How far a text is: its state, the node within a character, and whether anything is written."""

    state: int
    node: int
    begun: bool


@dataclass
class Moves:
    """Tokens that may follow on a place, and how many must follow on each before the text is whole."""

    tokens: Tensor  # (n,)
    needs: Tensor  # (n,)
    most: int  # of needs


@lru_cache(maxsize=8)
def constraint(codec: Codec, regex: str | None, json_schema: str | None) -> Constraint:
    """What `regex`, or the text of `json_schema`, asks of a codec's tokens. Raises FieldError where it cannot be."""
    field: str = "generate.regex"
    value: Any = regex
    if json_schema is not None:
        field, value = FIELD, json.loads(json_schema)
    try:
        return Constraint(codec, pattern(value, field) if json_schema is None else schema_part(value), field, value)
    except (TooLarge, RecursionError):
        expected = f"what takes at most {MOST_STATES:,} states"
        raise bad_field(field, value, expected, "repeat long parts fewer times, or without bound") from None


class Constraint:
    """What may be written, over the vocabulary of a codec."""

    def __init__(self, codec: Codec, part: Part, field: str, value: object):
        if not isinstance(codec.tokenizer, Tokenizer):
            expected = "a tokenizer that tells what each token writes, which a sentencepiece model does not"
            raise bad_field(field, value, expected, "train with tokenizer: bpe or a tokenizer.json")
        self.automaton, self.end = Automaton(part), codec.end
        vocabulary = spell(codec.tokenizer, {codec.end, codec.unknown})
        self.vocabulary, self.bytewise = vocabulary, vocabulary.bytewise
        self.later = Spellings.of(vocabulary.spelled)
        self.first = self.later if vocabulary.leading is None else Spellings.of(vocabulary.leading)
        self.start = Place(0, 0, begun=vocabulary.leading is None)
        self.needs = self.distances()  # (S,) tokens from between two characters to a whole text
        self.moves = lru_cache(maxsize=PLACES)(self.find_moves)
        if not len(self.moves(self.start).tokens):
            raise self.impossible(field, value)
        self.shortest = int(self.moves(self.start).needs.min()) + 1 if not self.is_whole(self.start) else 0

    def allowed(self, place: Place, left: float) -> Tensor:
        """The tokens that may follow, where so many are left to be written."""
        moves = self.moves(place)
        return moves.tokens if moves.most < left else moves.tokens[moves.needs < left]

    def restrict(self, scores: Tensor, places: Sequence[Place], left: float) -> Tensor:  # (B, V)
        """The scores of what may follow on each row; minus infinity for all else."""
        restricted = torch.full_like(scores, -math.inf)
        for row, place in enumerate(places):
            tokens = self.allowed(place, left).to(scores.device)
            restricted[row, tokens] = scores[row, tokens]
        return restricted

    def follow(self, place: Place, token: int) -> Place:
        spelled = self.vocabulary.spelled if place.begun or not self.vocabulary.leading else self.vocabulary.leading
        return Place(*self.automaton.follow((place.state, place.node), spelled[token]), begun=True)

    def is_whole(self, place: Place) -> bool:
        return place.state >= 0 and place.node == 0 and bool(self.automaton.whole[place.state])

    def rest(self, tokens: Sequence[int]) -> tuple[int, str] | None:
        """What these tokens lack: how many more, and the shortest text that they write; None if the text is whole."""
        place, lacking = self.start, b""
        for token in tokens:
            place = self.follow(place, token)
        count = 0
        while not self.is_whole(place):
            moves = self.moves(place)
            token = int(moves.tokens[moves.needs.argmin()])
            lacking += self.vocabulary.spelled[token]
            place, count = self.follow(place, token), count + 1
        return (count, lacking.decode(errors="replace")) if count else None

    def find_moves(self, place: Place) -> Moves:
        tokens, states, nodes = self.walk(place)
        needs = self.needs_of(states, nodes)
        tokens, needs = tokens[needs < NEVER], needs[needs < NEVER]
        if self.is_whole(place):
            tokens, needs = np.append(tokens, self.end), np.append(needs, 0)
        most = int(needs.max(initial=0))
        return Moves(torch.from_numpy(tokens), torch.from_numpy(needs), most)

    def walk(self, place: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All tokens that fit at a place, and the states and nodes behind them."""
        spellings = self.later if place.begun else self.first
        rows = np.arange(len(spellings.tokens))  # those that fit so far
        states, nodes = np.full(len(rows), place.state), np.full(len(rows), place.node)
        found = []
        for index in range(int(spellings.sizes.max(initial=0))):
            states, nodes = self.automaton.step(states, nodes, spellings.values[spellings.starts[rows] + index])
            fits = states >= 0
            rows, states, nodes = rows[fits], states[fits], nodes[fits]
            done = spellings.sizes[rows] == index + 1
            found.append((spellings.tokens[rows[done]], states[done], nodes[done]))
            rows, states, nodes = rows[~done], states[~done], nodes[~done]
            if not len(rows):
                break
        tokens, states, nodes = (np.concatenate(each) for each in zip(*found, strict=True))
        return tokens, states, nodes

    def needs_of(self, states: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """How many tokens it takes from each of these places to a whole text, NEVER where none can."""
        needs = np.where(nodes == 0, self.needs[states], NEVER)
        if self.bytewise:  # a character that is begun is finished byte by byte
            inside = np.flatnonzero(nodes)
            pairs, place = np.unique(np.stack([states[inside], nodes[inside]]), axis=1, return_inverse=True)
            after = self.automaton.after[pairs[0]]  # (n, C)
            further = np.where(after >= 0, self.needs[after], NEVER) + self.automaton.sizes[pairs[1]]
            needs[inside] = np.minimum(further.min(1, initial=NEVER), NEVER)[place.ravel()]
        return needs

    def distances(self) -> np.ndarray:  # (S,)
        """Tokens from each state to a whole text: exact but for tokens that end within a character."""
        sources, targets, costs = self.by_characters()
        enough = relaxed(self.automaton.whole, sources, targets, costs) <= 1  # tokens: no other way is shorter
        for state in np.flatnonzero((self.automaton.distances() < NEVER) & ~enough).tolist():
            _, states, nodes = self.walk(Place(state, 0, begun=True))
            behind = np.unique(states[nodes == 0])
            sources = np.append(sources, np.full(len(behind), state))
            targets, costs = np.append(targets, behind), np.append(costs, np.ones(len(behind), dtype=np.int64))
        return relaxed(self.automaton.whole, sources, targets, costs)

    def by_characters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # 3 times (E,)
        """Steps from state to state by one character each, and how many tokens write it."""
        classes = self.class_costs()
        sources, kinds = np.nonzero((self.automaton.after >= 0) & (classes < NEVER))
        return sources, self.automaton.after[sources, kinds], classes[kinds]

    def class_costs(self) -> np.ndarray:  # (C,)
        """How many tokens write a character of each class: one, or its bytes where each byte is a token."""
        costs = self.automaton.sizes[0].copy() if self.bytewise else np.full(len(self.automaton.examples), NEVER)
        for text in self.vocabulary.spelled.values():
            if len(text) <= 4:
                node, *none = self.read(text)
                if node is not None and not none:
                    costs[node] = 1
        return costs

    def read(self, text: bytes) -> list[int | None]:
        """The classes of a text's characters; None where its bytes are none, or where it ends within one."""
        found: list[int | None] = []
        node = 0
        for value in text:
            node = int(self.automaton.table[node, value])
            if node < 0:
                found.append(-1 - node)
                node = 0
        return [*found, None] if node else found

    def impossible(self, field: str, value: object) -> FieldError:
        """Nothing can be written: which character of the shortest text is missing in the vocabulary."""
        automaton = self.automaton
        shortest = automaton.distances()
        fix = "change it, or use a run whose tokenizer has that character"
        if shortest[0] >= NEVER:
            return bad_field(field, value, "something that a text can fit, and none fits this", "change it")
        costs, written, state = self.class_costs(), "", 0
        while shortest[state]:
            kinds = np.flatnonzero(automaton.after[state] >= 0)
            kind = kinds[shortest[automaton.after[state, kinds]].argmin()]
            if costs[kind] >= NEVER:
                missing = automaton.examples[kind]
                expected = f"what the vocabulary can write: no token goes on after {written!r} to {written + missing!r}"
                return bad_field(field, value, expected, fix)
            written, state = written + automaton.examples[kind], automaton.after[state, kind]
        return bad_field(field, value, "what the vocabulary can write: no token begins it", fix)
