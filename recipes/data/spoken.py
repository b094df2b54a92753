"""Synthetic speech, said by eSpeak NG -> spoken-commands-SPLIT.parquet and spoken-words-SPLIT.parquet, of three splits.

    python recipes/data/spoken.py       # Linux on x86-64; needs the extra `audio` to write FLAC

Commands to a house (columns `sound` and `said`), and single words under noise (`sound` and `word`); each in another voice,
accent, speed and pitch, drawn by a hash. Who speaks in the test speaks nowhere else, nor is a command of the test said
elsewhere, and so with validation: a person's split, and a sentence's, is a hash of its name. The words are the same in all.
"""

from __future__ import annotations

import random

import espeak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tables

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
COMMANDS = {"train": 5_000, "validation": 200, "test": 500}
WORDS_TEXT = "zero one two three four five six seven eight nine yes no up down left right on off stop go"
WORDS = WORDS_TEXT.split()
TIMES = {"train": 5, "validation": 2, "test": 5}  # that each person says each word
SHARES = {"test": 0.2, "validation": 0.3}  # up to which place a split reaches
UNITS_TEXT = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
UNITS = UNITS_TEXT.split()
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
PARTS = {
    "{switch}": ("turn on", "turn off"),
    "{device}": ("lamp", "heater", "radio", "fan", "television", "oven", "computer", "kettle"),
    "{room}": ("kitchen", "bedroom", "bathroom", "garden", "garage", "hall", "office", "cellar"),
    "{move}": ("open", "close", "lock"),
    "{leaf}": ("door", "window", "gate", "curtain"),
    "{clock}": ("timer", "alarm"),
    "{time}": ("seconds", "minutes", "hours"),
    "{change}": ("raise", "lower"),
    "{measure}": ("heat", "volume", "light"),
    "{play}": ("music", "the news", "a song", "my messages"),
    "{ask}": ("time", "weather", "date"),
    "{city}": ("london", "paris", "berlin", "tokyo", "madrid", "cairo"),
    "{name}": ("anna", "peter", "maria", "thomas", "julia", "robert"),
}
PATTERNS = (
    "{switch} the {device} in the {room}",
    "{move} the {leaf} of the {room}",
    "set the {clock} for {number} {time}",
    "{change} the {measure} by {number} percent",
    "play {play} in the {room}",
    "what is the {ask} in {city}",
    "call {name} in {number} {time}",
)


def main() -> None:
    speaker = espeak.Speaker()
    for split, count in COMMANDS.items():
        sentences = said_in(split, count)
        rows = [(utterance(speaker, f"{split} {row} {text}", text, split), text) for row, text in enumerate(sentences)]
        write(f"spoken-commands-{split}.parquet", "said", rows)
    for split, times in TIMES.items():
        rows = [
            (noisy(utterance(speaker, key, word, split, variant), key), word)
            for word in WORDS
            for variant in persons(split)
            for time in range(times)
            for key in [f"{split} {word} {variant} {time}"]
        ]
        write(f"spoken-words-{split}.parquet", "word", rows)


def said_in(split: str, count: int) -> list[str]:
    """Commands of one split; some stand there twice."""
    draw, found = random.Random(f"commands {split}"), []
    while len(found) < count:
        text = command(draw)
        if split_of(text) == split:
            found.append(text)
    return found


def command(draw: random.Random) -> str:
    text = draw.choice(PATTERNS).replace("{number}", number(draw.randint(1, 99)))
    for part, choices in PARTS.items():
        if part in text:
            text = text.replace(part, draw.choice(choices))
    return text


def number(value: int) -> str:
    if value <= len(UNITS):
        return UNITS[value - 1]
    if value < 20:
        return {17: "seventeen", 18: "eighteen", 19: "nineteen"}[value]
    tens = TENS[value // 10 - 2]
    return f"{tens} {UNITS[value % 10 - 1]}" if value % 10 else tens


def persons(split: str) -> list[str]:
    """The variants of one split: all of a person's in the same."""
    return [each for each in espeak.VARIANTS if split_of(f"person {espeak.person(each)}") == split]


def split_of(text: str) -> str:
    return next((split for split, share in SHARES.items() if tables.place(text) < share), "train")


def utterance(speaker: espeak.Speaker, key: str, text: str, split: str, variant: str | None = None) -> np.ndarray:
    """The samples of a text in a voice that a hash of the key draws."""
    draw = random.Random(f"voice {key}")
    voice = f"{draw.choice(ACCENTS)}+{variant or draw.choice(persons(split))}"
    speed, pitch, lively = draw.randint(130, 210), draw.randint(25, 75), draw.randint(30, 70)
    return espeak.trimmed(speaker.say(text, voice, speed=speed, pitch=pitch, lively=lively), speaker.rate)


def noisy(samples: np.ndarray, key: str) -> np.ndarray:  # (N,) int16 -> the same
    """With noise that falls with the frequency, as much as 0 to 20 dB below the voice, and as loud as another day."""
    draw = np.random.default_rng(int(tables.place(f"noise {key}") * 2**53))
    spectrum = np.fft.rfft(draw.normal(size=len(samples)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(samples))
    voice = samples.astype(np.float64)
    noise *= np.sqrt((voice**2).mean() / (noise**2).mean()) * 10 ** (-draw.uniform(0, 20) / 20)
    mixed = voice + noise
    return (mixed * draw.uniform(0.2, 0.9) * 32767 / np.abs(mixed).max()).astype(np.int16)


def write(name: str, column: str, rows: list[tuple[np.ndarray, str]], rate: int = 22_050) -> None:
    sounds = pa.array([espeak.flac(samples, rate) for samples, _ in rows], pa.binary())
    with tables.writing(name) as path:
        pq.write_table(pa.table({"sound": sounds, column: [text for _, text in rows]}), path, row_group_size=500)
    tables.tell(name, len(rows))


if __name__ == "__main__":
    main()
