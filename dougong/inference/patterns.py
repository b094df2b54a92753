"""Regular expressions of Python's `re` -> parts: a text fits the parts where `re.fullmatch` would match it.

Python's own parser reads them, and its own engine says which characters `\\w`, `[^a-f]` or `(?i)s` stand for: another
engine's `\\w` differs from it in some 13,000 characters. What no automaton can do (looking around, references back) is
refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from re import _compiler, _constants, _parser  # type: ignore[attr-defined] # private names, the same since Python 3.11
from typing import Any

from dougong.core.errors import FieldError, bad_field
from dougong.inference.automata import LAST, SURROGATES, Chain, Characters, Choice, Part, Repeat

SINGLE = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
REFUSED = {
    "ASSERT": "(?=…) or (?<=…), which look around",
    "ASSERT_NOT": "(?!…) or (?<!…), which look around",
    "GROUPREF": "references back to a group",
    "GROUPREF_EXISTS": "(?(1)…), which asks for a group",
    "ATOMIC_GROUP": "(?>…), which gives nothing back",
    "POSSESSIVE_REPEAT": "repeats such as *+, which give nothing back",
}
ALPHABETS = re.ASCII | re.UNICODE
EVERY = Characters((0, SURROGATES[0], SURROGATES[1], LAST))


def pattern(text: str, field: str, only: Characters = EVERY) -> Part:
    """What `re.fullmatch(text, …)` matches, of characters in `only`. Raises FieldError, in the name of `field`."""
    tree = parsed(text, field)
    return Reader(text, field, only).parts(tree, tree.state.flags, first=True, last=True)


def searched(text: str, field: str, only: Characters = EVERY) -> Part:
    """What `re.search(text, …)` finds something in, of characters in `only`."""
    tree = parsed(text, field)
    return Reader(text, field, only).searched(tree, tree.state.flags)


def parsed(text: str, field: str) -> Any:
    try:
        return _parser.parse(text)
    except re.error as error:
        place = "" if error.pos is None else f" at character {error.pos + 1}"
        raise bad_field(field, text, f"a regular expression ({error.msg}{place})", "correct it there") from None
    except (OverflowError, RecursionError) as error:
        raise bad_field(field, text, f"a regular expression ({error})", "write a simpler one") from None


class Reader:
    """Goes through what Python's parser made of a regular expression."""

    def __init__(self, text: str, field: str, only: Characters):
        self.text, self.field, self.only = text, field, only

    def parts(self, items: Any, flags: int, first: bool, last: bool) -> Part:
        """Items that follow on each other; `first` and `last` say whether the text begins and ends with them."""
        made = []
        for place, (operation, value) in enumerate(items):
            begins = first and all(op == _constants.AT for op, _ in items[:place])
            ends = last and all(op == _constants.AT for op, _ in items[place + 1 :])
            made.append(self.part(str(operation), value, flags, begins, ends))
        return made[0] if len(made) == 1 else Chain(tuple(made))

    def searched(self, items: Any, flags: int) -> Part:
        """These items with anything before and behind them, unless ^ and $ forbid it."""
        if len(items) == 1 and items[0][0] == _constants.BRANCH:
            return Choice(tuple(self.searched(each, flags) for each in items[0][1][1]))
        begins = len(items) > 0 and str(items[0][1]).startswith("AT_BEGINNING")
        ends = len(items) > 0 and str(items[-1][1]).startswith("AT_END")
        anything = Repeat(self.only, 0, None)
        part = self.parts(items, flags, first=begins, last=ends)
        return Chain((*([] if begins else [anything]), part, *([] if ends else [anything])))

    def part(self, operation: str, value: Any, flags: int, first: bool, last: bool) -> Part:
        if operation in SINGLE:
            return common(characters(getattr(_constants, operation), freeze(value), flags), self.only)
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):  # greedy or not: the same texts fit
            least, most, items = value
            part = self.parts(items, flags, first=False, last=False)
            return Repeat(part, least, None if most == _constants.MAXREPEAT else int(most))
        if operation == "SUBPATTERN":
            _, added, removed, items = value
            kept = flags & ~ALPHABETS if added & ALPHABETS else flags  # (?a:…) takes the place of Unicode
            return self.parts(items, (kept | added) & ~removed, first, last)
        if operation == "BRANCH":
            return Choice(tuple(self.parts(items, flags, first, last) for items in value[1]))
        if operation == "FAILURE":  # (?!): nothing fits
            return Choice(())
        if operation == "AT":
            return self.anchor(str(value), first, last)
        raise self.refused(REFUSED.get(operation, operation))

    def anchor(self, name: str, first: bool, last: bool) -> Part:
        """The whole text is matched, so that ^ before it and $ after it say nothing."""
        if (first and name.startswith("AT_BEGINNING")) or (last and name.startswith("AT_END")):
            return Chain(())
        if name.startswith(("AT_BEGINNING", "AT_END")):
            raise self.refused("^ or $ within the text")
        raise self.refused(r"\b or \B")

    def refused(self, what: str) -> FieldError:
        fix = "write it with characters, classes, groups, | and repeats alone"
        return bad_field(self.field, self.text, f"a regular expression without {what}", fix)


def freeze(value: Any) -> Any:
    return tuple(freeze(each) for each in value) if isinstance(value, list | tuple) else value


@cache
def characters(operation: Any, value: Any, flags: int) -> Characters:
    """Which characters one item stands for: Python's engine is asked about each."""
    state = _parser.State()
    state.flags = flags & ~re.DEBUG
    items = [list(value) if operation == _constants.IN else value]
    single = _parser.SubPattern(state, [(operation, *items)])
    runs = _parser.SubPattern(state, [(_constants.MAX_REPEAT, (1, _constants.MAXREPEAT, single))])
    found = [match.span() for match in _compiler.compile(runs, state.flags).finditer(every_character())]
    skipped = SURROGATES[1] - SURROGATES[0]
    edges: list[int] = []
    for start, end in found:
        for low, high in ((start, min(end, SURROGATES[0])), (max(start, SURROGATES[0]), end)):
            shift = skipped if low >= SURROGATES[0] else 0
            if low < high:
                edges += [low + shift, high + shift]
    return Characters(tuple(edges))


@cache
def every_character() -> str:
    return "".join(map(chr, (*range(SURROGATES[0]), *range(SURROGATES[1], LAST))))


def common(one: Characters, other: Characters) -> Characters:
    """The characters that both sets hold."""
    return combined((one, other), 2)


def combined(sets: Iterable[Characters], least: int) -> Characters:
    """The characters that at least so many of the sets hold."""
    turns: dict[int, int] = {}
    for each in sets:
        for index, edge in enumerate(each.edges):
            turns[edge] = turns.get(edge, 0) + (-1 if index % 2 else 1)
    edges, count = [], 0
    for edge in sorted(turns):
        before, count = count, count + turns[edge]
        if (before >= least) != (count >= least):
            edges.append(edge)
    return Characters(tuple(edges))
