"""Regular languages: parts (characters, chains, choices, repeats) -> a deterministic automaton over the bytes of UTF-8.

Characters that no part tells apart are one class, and the states are those over classes: `\\w{1,50}` has 51, however many
letters Unicode knows. A table of its own reads bytes into classes; a text that stands within a character is at a node of it.
The states are made from sets of positions (Rabin & Scott 1959).
"""

# S states, C classes, N nodes of the table of bytes

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

LAST = 0x110000  # one beyond the last code point
SURROGATES = (0xD800, 0xE000)  # code points that are no characters: UTF-8 has no bytes for them
MOST_STATES = 50_000
NEVER = 1 << 30  # a distance that leads nowhere; sums of a few stay below 2^31


@dataclass(frozen=True)
class Characters:
    """One character of a set: those from edges[0] to before edges[1], from edges[2] to before edges[3] …"""

    edges: tuple[int, ...]


@dataclass(frozen=True)
class Chain:
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Choice:
    """Any one of the parts; of none, nothing fits."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Repeat:
    part: Part
    least: int
    most: int | None


Part = Characters | Chain | Choice | Repeat


class TooLarge(Exception):  # noqa: N818 - the name says what was found
    """More states than MOST_STATES."""


def literal(text: str) -> Part:
    return Chain(tuple(Characters((ord(character), ord(character) + 1)) for character in text))


def optional(part: Part) -> Part:
    return Repeat(part, 0, 1)


class Automaton:
    """Whether a text fits, byte by byte. A place in it is (state, node); node 0 stands between two characters."""

    def __init__(self, part: Part):
        net = Net(part)
        classes = Classes(net.characters)
        self.examples = classes.examples
        self.after, self.whole = determined(net, classes)  # (S, C) states, -1: nothing fits; (S,) bool
        self.table = byte_table(classes)  # (N, 256): another node, or -1 - class where a character is whole
        self.sizes = class_sizes(self.table, len(self.examples))  # (N, C) bytes that lead to a class, NEVER: none does

    def step(self, states: np.ndarray, nodes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places after one more byte each; state -1 where it does not fit."""
        nodes = self.table[nodes, values]
        whole = nodes < 0
        states = np.where(whole, self.after[states, np.where(whole, -1 - nodes, 0)], states)
        return states, np.where(whole, 0, nodes)

    def follow(self, place: tuple[int, int], text: bytes) -> tuple[int, int]:
        """The place after some bytes more."""
        state, node = place
        for value in text:
            node = int(self.table[node, value])
            if node < 0:
                state, node = int(self.after[state, -1 - node]), 0
            if state < 0:
                break
        return state, node

    def distances(self) -> np.ndarray:  # (S,)
        """How many characters it takes from each state to a whole text; NEVER where none is."""
        sources, kinds = np.nonzero(self.after >= 0)
        return relaxed(self.whole, sources, self.after[sources, kinds], np.ones(len(sources), dtype=np.int64))


class Net:
    """States joined by sets of characters, and by nothing: Thompson 1968. It begins at state 0."""

    def __init__(self, part: Part):
        self.characters: dict[Characters, int] = {}  # each set once, with its index
        self.steps: list[list[tuple[int, int]]] = []  # of each state: set and next state
        self.free: list[list[int]] = []  # of each state: those that it also is
        self.end = self.add(part, self.new())

    def new(self) -> int:
        if len(self.steps) >= 4 * MOST_STATES:
            raise TooLarge
        self.steps.append([])
        self.free.append([])
        return len(self.steps) - 1

    def add(self, part: Part, start: int) -> int:
        """Join the part to a state; the state at its end."""
        if isinstance(part, Characters):
            end = self.new()
            self.steps[start].append((self.characters.setdefault(part, len(self.characters)), end))
            return end
        if isinstance(part, Chain):
            return reduce(lambda state, each: self.add(each, state), part.parts, start)
        if isinstance(part, Choice):
            end = self.new()
            for each in part.parts:
                self.free[self.add(each, self.joined(start))].append(end)
            return end
        return self.repeat(part, start)

    def repeat(self, part: Repeat, start: int) -> int:
        for _ in range(part.least):
            start = self.add(part.part, start)
        if part.most is None:
            again = self.joined(start)
            self.free[self.add(part.part, again)].append(again)
            return self.joined(again)
        end = self.new()
        for _ in range(part.most - part.least):
            self.free[start].append(end)
            start = self.add(part.part, self.joined(start))
        self.free[start].append(end)
        return end

    def joined(self, start: int) -> int:
        """A state of its own: what comes back to it does not come back to the state before."""
        state = self.new()
        self.free[start].append(state)
        return state

    def closed(self, states: Iterable[int]) -> frozenset[int]:
        """These states and all that they also are."""
        found = set(states)
        waiting = list(found)
        while waiting:
            for state in self.free[waiting.pop()]:
                if state not in found:
                    found.add(state)
                    waiting.append(state)
        return frozenset(found)


class Classes:
    """Code points by the sets that hold them: those that no set tells apart are one class."""

    def __init__(self, sets: Iterable[Characters]):
        sets = list(sets)
        cuts = np.unique(np.array([0, *SURROGATES, *(edge for each in sets for edge in each.edges if edge < LAST)]))
        held = [np.searchsorted(np.array(each.edges, dtype=np.int64), cuts, side="right") % 2 == 1 for each in sets]
        matrix = np.stack([np.zeros(len(cuts), dtype=bool), *held], axis=1)  # (cuts, 1 + sets)
        matrix[(cuts >= SURROGATES[0]) & (cuts < SURROGATES[1])] = False
        kinds, first, kind = np.unique(matrix, axis=0, return_index=True, return_inverse=True)
        self.cuts, self.kind = cuts.tolist(), kind.ravel().tolist()
        self.nothing = self.of(SURROGATES[0])  # the class of what no set holds
        self.members = [np.flatnonzero(kinds[:, index + 1]).tolist() for index in range(len(sets))]
        self.examples = [chr(cuts[place]) if number != self.nothing else "" for number, place in enumerate(first)]

    def of(self, point: int) -> int:
        return self.kind[bisect_right(self.cuts, point) - 1]

    def same(self, first: int, end: int) -> bool:
        """Whether the code points from first to before end are one class for sure."""
        return bisect_right(self.cuts, first) == bisect_right(self.cuts, end - 1)


def determined(net: Net, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Sets of the net's states that a text may be at -> states (S, C), and which are whole (S,)."""
    start = net.closed([0])
    numbers = {start: 0}
    after: list[np.ndarray] = []
    waiting = [start]
    for here in waiting:  # grows as it goes
        reached: dict[int, set[int]] = {}
        for state in here:
            for characters, target in net.steps[state]:
                for kind in classes.members[characters]:
                    reached.setdefault(kind, set()).add(target)
        row = np.full(len(classes.examples), -1, dtype=np.int32)
        known: dict[frozenset[int], int] = {}  # many classes lead to the same states
        for kind, targets in reached.items():
            key = frozenset(targets)
            if key not in known:
                there = net.closed(key)
                if there not in numbers:
                    numbers[there] = len(numbers)
                    waiting.append(there)
                known[key] = numbers[there]
            row[kind] = known[key]
        if len(numbers) > MOST_STATES:
            raise TooLarge
        after.append(row)
    return np.stack(after), np.array([net.end in states for states in numbers])


def byte_table(classes: Classes) -> np.ndarray:
    """(N, 256): from a node by a byte to another node, or to -1 - class. Equal nodes are one."""
    dead = -1 - classes.nothing
    rows: dict[tuple[int, ...], int] = {}
    same: dict[tuple[int, int], int] = {}  # of a whole block that is one class

    def block(first: int, more: int, least: int = 0) -> int:
        """Where the 64^more code points from `first` on are told apart; those below `least` have shorter bytes."""
        if first >= LAST:
            return dead
        size = 64**more
        uniform = classes.same(first, first + size) and first >= least and first + size <= LAST
        kind = classes.of(first)
        if more == 0 or (uniform and kind == classes.nothing):
            return -1 - kind
        if uniform and (kind, more) in same:
            return same[kind, more]
        starts = range(first, first + size, size // 64)
        children = tuple(dead if start < least else block(start, more - 1) for start in starts)
        if set(children) == {dead}:
            return dead
        number = rows.setdefault(children, len(rows) + 1)
        if uniform:
            same[kind, more] = number
        return number

    root = [-1 - classes.of(value) for value in range(0x80)] + [dead] * 0x80
    for value in range(0xC2, 0xF5):
        if value < 0xE0:
            root[value] = block((value & 0x1F) << 6, 1)
        elif value < 0xF0:
            root[value] = block((value & 0x0F) << 12, 2, least=0x800)
        else:
            root[value] = block((value & 0x07) << 18, 3, least=0x10000)
    table = np.full((len(rows) + 1, 256), dead, dtype=np.int32)
    table[0] = root
    for children, number in rows.items():
        table[number, 0x80:0xC0] = children
    return table


def class_sizes(table: np.ndarray, classes: int) -> np.ndarray:
    """(N, C): how few bytes lead from a node to a whole character of a class."""
    sizes = np.full((len(table), classes), NEVER, dtype=np.int64)
    for _ in range(4):  # a character has four bytes at most
        for number, row in enumerate(table):
            targets = np.unique(row)
            sizes[number, -1 - targets[targets < 0]] = 1
            further = targets[targets > 0]
            if len(further):
                sizes[number] = np.minimum(sizes[number], 1 + sizes[further].min(0))
    return np.minimum(sizes, NEVER)


def relaxed(whole: np.ndarray, sources: np.ndarray, targets: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The least cost (S,) of a way along the edges to a state that is whole: Bellman 1958."""
    least = np.where(whole, 0, NEVER)
    while True:
        before = least.copy()
        np.minimum.at(least, sources, costs + before[targets])
        if (least == before).all():
            return least
