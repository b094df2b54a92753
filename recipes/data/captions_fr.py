"""French captions of a painting program's stamps, spoken by people -> captions-fr-{train,validation,test}.parquet.

    python recipes/data/captions_fr.py       # fetches 160 MB of pictures and sounds, and 265 MB of a game for its texts

Real speech: Debian's `tuxpaint-stamps-default` (GPL-2: fetched, never shipped). Columns `sound`, `said` (lower case, without
punctuation; captions with digits or signs are left out, as nobody wrote down how they were read) and `kind`. A caption's
split is a hash of its text, so that copies of it stand on one side; nobody wrote down who speaks, and whoever does may speak
in all splits.

Beside the real clips of training, which stand there six times each, there is synthetic speech (eSpeak NG, French voices; see
spoken.py): the captions of training, twice each, and short French texts of the game Wesnoth (GPL-2). No caption of validation or
test is among them.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import espeak
import fetch
import pyarrow as pa
import pyarrow.parquet as pq
import spoken
import tables
import wesnoth

ENDING = "_desc_fr.ogg"
ACCENTS = ("fr", "fr-be", "fr-ch")
AGAIN = 2  # times that a caption of training is said by the synthesizer
OTHERS = 2_500  # texts of the game
LONGEST = 60  # characters
REPEATED = 6  # times that a real clip stands among the training rows: the synthetic ones are many


def main() -> None:
    clips = captions(stamps(f"*{ENDING}"), stamps("*/stamps/*.txt"))
    splits: dict[str, list[tuple[bytes, str, str]]] = {"train": [], "validation": [], "test": []}
    for path, text in clips:
        splits[spoken.split_of(text)].append((path.read_bytes(), text, "real"))
    held = {text for split in ("validation", "test") for _, text, _ in splits[split]}
    train = list(dict.fromkeys(text for _, text, _ in splits["train"]))
    texts = [*train * AGAIN, *others(held | set(train))]
    splits["train"] = splits["train"] * REPEATED + [
        (said(row, text), text, "synthetic") for row, text in enumerate(texts)
    ]
    for split, rows in splits.items():
        random.Random(split).shuffle(rows)
        columns = dict(zip(("sound", "said", "kind"), map(list, zip(*rows, strict=True)), strict=True))
        name = f"captions-fr-{split}.parquet"
        with tables.writing(name) as path:
            pq.write_table(
                pa.table({**columns, "sound": pa.array(columns["sound"], pa.binary())}), path, row_group_size=500
            )
        tables.tell(name, len(rows))


def stamps(keep: str) -> Path:
    """Some of the package's files."""
    return fetch.debian(
        "tuxpaint-stamps-default",
        "2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        keep=keep,
    )


def captions(clips: Path, texts: Path) -> list[tuple[Path, str]]:
    """(clip, what is said in it), in the order of the paths."""
    found = []
    for clip in sorted(clips.rglob(f"*{ENDING}")):
        listed = texts / str(clip.relative_to(clips)).replace(ENDING, ".txt")
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
        text = next((plain(line.removeprefix("fr.utf8=")) for line in lines if line.startswith("fr.utf8=")), None)
        if text:
            found.append((clip, text))
    return found


def plain(text: str) -> str | None:
    """As it is learnt; None where it holds what can be read in several ways."""
    text = " ".join(re.sub('[.!?,;:…«»“”"]', " ", text.lower().replace("’", "'")).split())
    return text if re.fullmatch("[a-zàâäæçéèêëîïôöœùûüÿ' -]+", text) and len(text) <= LONGEST else None


def others(but: set[str]) -> list[str]:
    """Short texts of the game, as their hashes have them in order."""
    folders = [
        fetch.debian(f"wesnoth-1.16-{name}", wesnoth.VERSION, sha256, keep="*/LC_MESSAGES/wesnoth*.mo")
        for name, sha256 in wesnoth.PACKAGES.items()
    ]
    files = [path for folder in folders for path in folder.rglob("fr/LC_MESSAGES/*.mo")]
    texts = {text for path in files for _, other in wesnoth.read(path) if (text := plain(other)) and len(text) >= 8}
    return sorted(texts - but, key=tables.place)[:OTHERS]


def said(row: int, text: str) -> bytes:
    """A text in a voice that a hash draws, as a FLAC file."""
    draw = random.Random(f"french {row} {text}")
    voice = f"{draw.choice(ACCENTS)}+{draw.choice(espeak.VARIANTS)}"
    speaker = espeak.speaker()
    samples = speaker.say(
        text, voice, speed=draw.randint(120, 190), pitch=draw.randint(25, 75), lively=draw.randint(30, 70)
    )
    return espeak.flac(espeak.trimmed(samples, speaker.rate), speaker.rate)


if __name__ == "__main__":
    main()
