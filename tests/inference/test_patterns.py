"""Against `re` itself: the same texts fit."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.core.errors import FieldError
from dougong.inference.automata import Automaton, Characters, Part, TooLarge, literal
from dougong.inference.patterns import pattern, searched

CHARACTERS = [
    chr(point) for point in (*range(0x3000), 0x1E9E, 0x212A, 0x5E8A, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF)
]


def fits(automaton: Automaton, text: str) -> bool:
    state, node = automaton.follow((0, 0), text.encode())
    return state >= 0 and node == 0 and bool(automaton.whole[state])


@pytest.mark.parametrize(
    "regex",
    [
        r"\w{1,3}", r"(?i)straße|K+", r"^(ab|a)*?c$", r"[^\W\d]+\.?", r".*x.{2}", r"(a|b)*abb", r"\s", r"a{2,5}b?", r"(?s).",
        "[é-ü\U0001f600-\U0001f64f]+", r"(?a)\w+", r"(?a:\w)\w", r"(?i:K)k\w?", "", r"(a*)*b", r"(?:^a|^b)$", r"\A\d\Z",
        r"-?(0|[1-9]\d{0,3})", r"(?x) a b  # and no c", r"a|", r"[^a]", r"(a{2}){2}", r"a{0}b", r"(?P<one>s)t", r"[\]\-x]+",
    ],
)  # fmt: skip
def test_the_same_texts_fit_as_re_matches(regex: str) -> None:
    automaton, chance = Automaton(pattern(regex, "regex")), random.Random(0)
    mixed = ["".join(chance.choice("abcxstkKßSsé\n .01床😀-") for _ in range(chance.randrange(7))) for _ in range(3000)]
    wrong = [each for each in CHARACTERS + mixed + ["ab", "abc", "straße", "STRASSE", "aabb", "b", "st", "aaaa"]
             if fits(automaton, each) != bool(re.fullmatch(regex, each))]  # fmt: skip
    assert wrong == []


PIECES = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\s", "é", r"\d"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@given(regex=PIECES, texts=st.lists(st.text("abé1 \n", max_size=6), min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_expression_of_these_pieces_fits_as_re_matches(regex: str, texts: list[str]) -> None:
    automaton = Automaton(pattern(regex, "regex"))
    assert [fits(automaton, each) for each in texts] == [bool(re.fullmatch(regex, each)) for each in texts]


@pytest.mark.parametrize("regex", ["b", "^b", "b$", "^b$", "^a|b$", "^$", "", "^(a|b)+", "(a|b)c$", "^^a$$"])
def test_a_search_finds_what_re_finds(regex: str) -> None:
    automaton = Automaton(searched(regex, "regex", Characters((ord("a"), ord("d")))))
    texts = ["", "a", "b", "ab", "ba", "bb", "abc", "bca", "cab", "ccc"]
    assert [fits(automaton, each) for each in texts] == [bool(re.search(regex, each)) for each in texts]


@given(data=st.binary(max_size=5))
@settings(max_examples=500, deadline=None)
def test_bytes_that_are_no_utf8_fit_nothing(data: bytes) -> None:
    automaton = EVERYTHING
    state, node = automaton.follow((0, 0), data)
    try:
        data.decode()
        assert (state >= 0, node) == (True, 0)
    except UnicodeDecodeError:
        assert state < 0 or node > 0


EVERYTHING = Automaton(pattern(r"(?s:.*)", "regex"))


def test_every_character_is_read_whole() -> None:
    automaton = Automaton(pattern(r"[\w]|[^\w]x", "regex"))
    every = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    known = set(re.findall(r"\w", "".join(every)))
    assert [each for each in every if fits(automaton, each) != (each in known)] == []


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("a(?=b)", r"without \(\?=…\) or \(\?<=…\), which look around"),
        ("(?<!a)b", r"without \(\?!…\) or \(\?<!…\), which look around"),
        (r"(a)\1", "without references back to a group"),
        ("(a)?(?(1)b|c)", r"without \(\?\(1\)…\), which asks for a group"),
        ("(?>a*)b", r"without \(\?>…\), which gives nothing back"),
        ("a*+b", r"without repeats such as \*\+, which give nothing back"),
        (r"a\b", r"without \\b or \\B"),
        ("a^b", r"without \^ or \$ within the text"),
        ("a$b", r"without \^ or \$ within the text"),
        ("[z-a]", r"\(bad character range z-a at character 2\)"),
        ("a**", r"\(multiple repeat at character 3\)"),
    ],
)
def test_what_no_automaton_can_do_is_refused_by_name(regex: str, said: str) -> None:
    with pytest.raises(FieldError, match=said) as caught:
        pattern(regex, "generate.regex")
    assert "generate.regex = " in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_what_is_too_large_is_refused_before_it_fills_the_memory() -> None:
    for regex in (r"(a{1000}){1000}", r"(a|b)*a(a|b){20}"):
        with pytest.raises(TooLarge):
            Automaton(pattern(regex, "regex"))


def test_states_do_not_grow_with_unicode() -> None:
    automaton: Any = Automaton(pattern(r"\w{0,50}", "regex"))
    assert automaton.after.shape == (51, 2)
    part: Part = literal("ab")
    assert Automaton(part).after.shape[0] == 3
