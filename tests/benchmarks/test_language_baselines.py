"""The baselines of the language models: probabilities that sum to one, and bits that behave as bits must."""

from __future__ import annotations

import math
import random

import pytest

from tests.scripts import load

baselines = load("benchmarks/language_baselines.py")
VERSE = (
    "the cat sat on the mat\nthe dog sat on the log\nthe frog sat on a dog and the cat ran\n" * 3
    + "what else can a cat do"
)


@pytest.mark.parametrize("context", [b"", b"t", b"th", b"the ", b"at on", b"zzzz", b"e zz"])
def test_probabilities_of_bytes_sum_to_one_after_any_context(context: bytes) -> None:
    model = baselines.NGrams(VERSE.encode())
    values = [model.probability(context[-4:] + bytes([symbol])) for symbol in range(256)]
    assert min(values) > 0
    assert sum(values) == pytest.approx(1)


@pytest.mark.parametrize("context", ["", "床前", "未見"])
def test_probabilities_of_characters_sum_to_one_over_all_of_unicode(context: str) -> None:
    model = baselines.NGrams("床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。" * 2)
    seen = set("床前明月光，疑是地上霜。舉頭望低思故鄉")
    known = sum(model.probability(context + symbol) for symbol in seen)
    unknown = model.probability(context + "龜")
    assert known + unknown * (0x110000 - len(seen)) == pytest.approx(1)


def test_the_model_knows_what_comes_next_where_it_was_always_so() -> None:
    model = baselines.NGrams(VERSE)
    assert model.probability("e cat") > 10 * model.probability("e cab")


def test_random_bytes_cost_about_eight_bits_and_a_known_text_little() -> None:
    noise = random.Random(0).randbytes(4000)
    model = baselines.NGrams(noise[:3000])
    assert model.bits(noise[3000:]) / 1000 == pytest.approx(8, abs=0.4)
    assert baselines.NGrams(VERSE).bits(VERSE) / len(VERSE) < 1.5


def test_the_first_symbols_have_less_context_and_cost_something() -> None:
    assert baselines.NGrams(VERSE).bits("t") == pytest.approx(-math.log2(baselines.NGrams(VERSE).probability("t")))


def test_the_training_text_helps_xz_and_the_figures_are_named() -> None:
    text = "".join(random.Random(1).choices("abcdefgh ", k=2000))
    figures = baselines.baselines(text, text[:500])
    assert list(figures) == ["xz alone", "xz after the training text", "5-gram of characters", "5-gram of bytes"]
    assert figures["xz after the training text"] < figures["xz alone"]
