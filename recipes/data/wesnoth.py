"""The texts of the game Battle for Wesnoth and their translations -> wesnoth-LANGUAGE-{train,test}.jsonl.

    python recipes/data/wesnoth.py

English with German and with Chinese (zh_CN), out of the compiled catalogues of Debian's packages (GPL-2: fetched, never
shipped). Split by catalogue, most of which are campaigns: the stories of TEST are told nowhere else. A text that stands
on both sides falls away from the training side.
"""

from __future__ import annotations

import gettext
from collections.abc import Iterator
from pathlib import Path

import fetch
import tables

LANGUAGES = ("de", "zh_CN")
TEST = ("wesnoth-dm", "wesnoth-sof", "wesnoth-tb")  # campaigns: Delfador's Memoirs, The Sceptre of Fire, A Tale of Two Brothers
LONGEST = 400  # characters of either side: longer ones are help pages


def main() -> None:
    folder = fetch.debian("wesnoth-1.16-data", VERSION, SHA256, keep="*/LC_MESSAGES/wesnoth*.mo")
    for language in LANGUAGES:
        pairs = {path.stem: dict(read(path)) for path in sorted(folder.rglob(f"{language}/LC_MESSAGES/*.mo"))}
        test = {english: other for name in TEST for english, other in pairs[name].items()}
        train = {
            english: other
            for name, catalogue in pairs.items()
            if name not in TEST
            for english, other in catalogue.items()
            if english not in test
        }
        for split, rows in (("train", train), ("test", test)):
            named = [{"english": english, "other": other} for english, other in rows.items()]
            tables.write_jsonl(f"wesnoth-{language}-{split}.jsonl", named)


def read(path: Path) -> Iterator[tuple[str, str]]:
    """The translated texts of a catalogue. A context before the English, marked by ^ or by gettext, is left out."""
    with path.open("rb") as file:
        catalogue = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    for key, other in catalogue.items():
        english = key if isinstance(key, str) else key[0] if key[1] == 0 else ""
        english = english.rpartition("\x04")[2].rpartition("^")[2].strip()
        other = other.rpartition("^")[2].strip()
        if english and other and english != other and max(len(english), len(other)) <= LONGEST:
            yield english, other


if __name__ == "__main__":
    main()
