"""What the benchmarks read, made once from the English text that ships with dougong, and the same on every machine."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.shapes import SHAPES

ROOT = Path(__file__).parents[1]
TEXT = ROOT / "dougong" / "corpus" / "shakespeare-verse.txt"
WORK = ROOT / "benchmarks" / ".work"
PREPARED = WORK / "prepared"
END = "<|end|>"


def recipe_of(shape: str) -> Path:
    return ROOT / "benchmarks" / f"pretrain-{shape}.yaml"


# ------------------------------------------------------------------------------------------------- tokens to pretrain on


def token_file(shape: str) -> Path:
    """The text's tokens as uint16, by the tokenizer that dougong's recipe of that shape has."""
    path = WORK / f"{shape}.bin"
    if not path.is_file():
        tokens = words(SHAPES[shape].vocab_size) if SHAPES[shape].vocab_size > 1000 else characters(shape)
        assert tokens.max() < SHAPES[shape].vocab_size
        write(path, tokens.astype(np.uint16).tobytes())
    return path


def characters(shape: str) -> np.ndarray:
    """Characters, those beyond the most frequent as one token."""
    from dougong.data import tokenizers
    from dougong.fields import text

    config = text.Config(tokenizer=tokenizers.CharTokenizer(vocab_size=SHAPES[shape].vocab_size))
    return encoded(text.Codec.fit(config, [TEXT.read_text("utf-8")]))


def words(vocab_size: int) -> np.ndarray:
    """Byte pairs of both texts that ship; as they do not give so many, the rest are tokens that no text has."""
    from dougong.data import tokenizers
    from dougong.fields import text

    corpus = [path.read_text("utf-8") for path in sorted(TEXT.parent.glob("*.txt"))]
    lines = [line for document in corpus for line in document.splitlines(keepends=True)]
    trained = text.Codec.fit(text.Config(tokenizer=tokenizers.BPETokenizer(vocab_size=vocab_size)), lines)
    path = WORK / "small-tokenizer.json"
    write(path, padded(trained.tokenizer.to_str(), vocab_size).encode())
    file = text.Config(tokenizer=tokenizers.FileTokenizer(path=str(path), end=END))
    return encoded(text.Codec.fit(file, []))


def padded(tokenizer: str, vocab_size: int) -> str:
    """A tokenizer.json with as many tokens as asked for."""
    described = json.loads(tokenizer)
    vocabulary = described["model"]["vocab"]
    used = {*vocabulary.values(), *(token["id"] for token in described["added_tokens"])}
    missing = [index for index in range(vocab_size) if index not in used]
    vocabulary |= {f"<|unused {index}|>": index for index in missing}
    return json.dumps(described, ensure_ascii=False)


def encoded(codec: object) -> np.ndarray:
    columns, _ = codec.encode([TEXT.read_text("utf-8")])  # type: ignore[attr-defined]
    return np.asarray(columns["tokens"].row(0))


# -------------------------------------------------------------------------------------------------------- text to learn

TRAINING = 0.9  # share of the text, from its start; the rest is validated on


def learning_files() -> tuple[Path, Path]:
    """The English text in two, where nanoGPT cuts it: what is learnt from, and what is validated on.

    Line breaks at the ends are left out: dougong's reader of documents drops them.
    """
    text = TEXT.read_text("utf-8")
    cut = int(len(text) * TRAINING)
    paths = WORK / "learning-train.txt", WORK / "learning-validation.txt"
    for path, part in zip(paths, (text[:cut], text[cut:]), strict=True):
        write(path, part.strip("\n").encode())
    return paths


# ----------------------------------------------------------------------------------------------------- text to tokenize

SEED = 0
PARAGRAPH = 12  # lines, on average
NEW_WORDS = 0.25  # share of the lines in which one word is new: the vocabulary of real text grows with its size


def text_file(megabytes: float) -> Path:
    """Paragraphs between empty lines, about so many MB."""
    path = WORK / f"text-{megabytes:g}MB.txt"
    if not path.is_file():
        WORK.mkdir(exist_ok=True)
        temporary = path.with_suffix(".partial")
        with temporary.open("w", encoding="utf-8") as stream:
            for paragraph in paragraphs(TEXT.read_text("utf-8"), int(megabytes * 1e6)):
                stream.write(paragraph + "\n\n")
        temporary.rename(path)
    return path


def paragraphs(text: str, size: int) -> Iterator[str]:
    """Lines of the text in another order, again and again, until there are `size` bytes."""
    draw = random.Random(SEED)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    vocabulary = sorted({word for line in lines for word in line.split() if len(word) > 3})
    while size > 0:
        chosen = draw.choices(lines, k=1 + int(draw.expovariate(1 / PARAGRAPH)))
        paragraph = "\n".join(renewed(line, vocabulary, draw) for line in chosen)
        size -= len(paragraph.encode()) + 2
        yield paragraph


def renewed(line: str, vocabulary: list[str], draw: random.Random) -> str:
    """The line, now and then with one word more: the beginning of one and the end of another."""
    if draw.random() >= NEW_WORDS:
        return line
    first, second = draw.choice(vocabulary), draw.choice(vocabulary)
    return f"{line} {first[: draw.randint(1, len(first))]}{second[-draw.randint(1, len(second)) :]}"


def read_paragraphs(path: Path) -> Iterator[str]:
    """The rows of such a file, without holding it in memory."""
    with path.open(encoding="utf-8") as stream:
        lines: list[str] = []
        for line in stream:
            if line == "\n":
                yield "".join(lines)[:-1]
                lines = []
            else:
                lines.append(line)


def tokenizer_file(vocab_size: int = 16_384) -> tuple[Path, int]:
    """A tokenizer.json trained on the text that ships, and its end token."""
    from dougong.data import tokenizers
    from dougong.fields import text

    path = WORK / f"tokenizer-{vocab_size}.json"
    codec = text.Codec.fit(
        text.Config(tokenizer=tokenizers.BPETokenizer(vocab_size=vocab_size)),
        paragraphs(TEXT.read_text("utf-8"), TEXT.stat().st_size),
    )
    write(path, codec.tokenizer.to_str().encode())
    return path, codec.end


# ----------------------------------------------------------------------------------------------------- texts to classify

LENGTH, SPREAD, LONGEST = 75, 0.8, 512  # tokens: mean and longest; standard deviation of the logarithm
LABELS = "abcdefgh"
LEANING = 0.3  # share of the words that tell the class


def classified_file(rows: int, vocab_size: int = 8192) -> tuple[Path, Path]:
    """Texts of log-normal lengths with their classes as JSON lines, and the tokenizer.json that counted them.

    Words are those of the English text, as often as there. A class prefers the words of its part of the alphabet.
    """
    from tokenizers import Tokenizer

    tokenizer, _ = tokenizer_file(vocab_size)
    path = WORK / f"classified-{rows}.jsonl"
    vocabulary = TEXT.read_text("utf-8").split()
    sizes = dict.fromkeys(vocabulary, 0)
    counted = Tokenizer.from_file(str(tokenizer)).encode_batch([f" {word}" for word in sizes], add_special_tokens=False)
    sizes = {word: len(encoding.ids) for word, encoding in zip(sizes, counted, strict=True)}
    draw = random.Random(SEED)
    lines = [json.dumps(row, ensure_ascii=False) for row in classified(rows, vocabulary, sizes, draw)]
    write(path, "".join(f"{line}\n" for line in lines).encode())
    return path, tokenizer


def classified(
    rows: int, vocabulary: list[str], sizes: dict[str, int], draw: random.Random
) -> Iterator[dict[str, str]]:
    """Rows of {text, label}; `sizes` says how many tokens a word has."""
    ordered = sorted(vocabulary, key=str.lower)  # with repetitions: parts of the alphabet of equally many words
    cuts = [part * len(ordered) // len(LABELS) for part in range(len(LABELS) + 1)]
    parts = [ordered[start:stop] for start, stop in pairwise(cuts)]
    for _ in range(rows):
        label = draw.randrange(len(LABELS))
        left = draw.lognormvariate(math.log(LENGTH) - SPREAD**2 / 2, SPREAD)
        left = min(left, LONGEST) - 1  # the end token
        words: list[str] = []
        while not words or left >= 1:
            words.append(draw.choice(parts[label] if draw.random() < LEANING else vocabulary))
            left -= sizes[words[-1]]
        if left < 0 and len(words) > 1:
            words.pop()
        yield {"text": " ".join(words), "label": LABELS[label]}


def write(path: Path, data: bytes) -> None:
    WORK.mkdir(exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(data)
    temporary.rename(path)
