"""Speech for the recipes: who and what falls on which side, texts that are kept, and sounds that are written. No network."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.scripts import load

fetch = load("recipes/data/fetch.py")
tables = load("recipes/data/tables.py")
espeak = load("recipes/data/espeak.py")
spoken = load("recipes/data/spoken.py")
wesnoth = load("recipes/data/wesnoth.py")
captions_fr = load("recipes/data/captions_fr.py")
SPLITS = ("train", "validation", "test")


def test_persons_and_commands_stand_in_one_split_each() -> None:
    persons = [{espeak.person(each) for each in spoken.persons(split)} for split in SPLITS]
    assert not persons[0] & persons[1] | persons[0] & persons[2] | persons[1] & persons[2]
    assert sum(len(spoken.persons(split)) for split in SPLITS) == len(espeak.VARIANTS) == len(set(espeak.VARIANTS))
    said = [set(spoken.said_in(split, 300)) for split in SPLITS]
    assert not said[0] & said[1] | said[0] & said[2] | said[1] & said[2]
    assert all(map(len, persons))


def test_all_of_a_persons_variants_are_one() -> None:
    assert espeak.person("steph3") == espeak.person("steph") == "steph"
    assert espeak.person("m1") != espeak.person("m2")


def test_commands_are_whole_words_of_letters() -> None:
    for text in spoken.said_in("train", 200):
        assert "{" not in text
        assert text.replace(" ", "").isalpha()


@pytest.mark.parametrize(
    ("value", "words"), [(1, "one"), (16, "sixteen"), (19, "nineteen"), (20, "twenty"), (99, "ninety nine")]
)
def test_numbers_are_words(value: int, words: str) -> None:
    assert spoken.number(value) == words


class Silent:
    """In place of the synthesizer: a tone as long as the text."""

    rate = 22_050

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def say(self, text: str, voice: str, *, speed: int, pitch: int, lively: int) -> np.ndarray:
        self.asked.append((text, voice, speed))
        return (9_000 * np.sin(np.arange(2_000 * len(text)) / 20)).astype(np.int16)


def test_the_same_row_is_said_by_the_same_voice_of_its_split() -> None:
    speaker = Silent()
    for _ in range(2):
        for row in range(30):
            spoken.utterance(speaker, f"test {row}", "stop", "test")
    assert speaker.asked[:30] == speaker.asked[30:]
    assert {voice.split("+")[1] for _, voice, _ in speaker.asked} <= set(spoken.persons("test"))
    assert len({speed for _, _, speed in speaker.asked}) > 10


def test_noise_is_repeatable_and_stays_within_16_bits() -> None:
    sound = (9_000 * np.sin(np.arange(8_000) / 20)).astype(np.int16)
    one, other = spoken.noisy(sound, "a"), spoken.noisy(sound, "b")
    assert np.array_equal(one, spoken.noisy(sound, "a"))
    assert not np.array_equal(one, other)
    assert 0.1 < np.abs(one).max() / 32767 < 0.95


def test_silence_at_both_ends_is_cut_and_what_is_written_is_FLAC() -> None:
    sound = np.concatenate([np.zeros(5_000), 5_000 * np.sin(np.arange(4_000) / 9), np.zeros(7_000)]).astype(np.int16)
    trimmed = espeak.trimmed(sound, 16_000)
    assert 4_000 <= len(trimmed) <= 4_000 + 2 * 800
    samples, rate = soundfile.read(io.BytesIO(espeak.flac(trimmed, 16_000)), dtype="int16")
    assert rate == 16_000
    assert np.array_equal(samples, trimmed)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Un merle.", "un merle"),
        ("L’œuf, et la poule !", "l'œuf et la poule"),
        ("Une pièce de 10 centimes (0,10 €).", None),
        ("x" * 61, None),
        ("", None),
    ],
)
def test_captions_are_kept_where_there_is_one_way_to_read_them(text: str, kept: str | None) -> None:
    assert captions_fr.plain(text) == kept


def test_a_clip_belongs_to_the_French_line_beside_it(tmp_path: Path) -> None:
    clips, texts = tmp_path / "clips" / "animals", tmp_path / "texts" / "animals"
    clips.mkdir(parents=True)
    texts.mkdir(parents=True)
    for name, lines in (("a", "A bird.\nfr.utf8=Un oiseau.\n"), ("b", "No French.\n"), ("c", None)):
        (clips / f"{name}_desc_fr.ogg").write_bytes(b"OggS")
        if lines:
            (texts / f"{name}.txt").write_text(lines, encoding="utf-8")
    assert captions_fr.captions(clips.parent, texts.parent) == [(clips / "a_desc_fr.ogg", "un oiseau")]
