"""What a language model has to beat, in bits per UTF-8 byte of a held-out text: `xz -9e` and a 5-gram model.

    python benchmarks/language_baselines.py train.txt held_out.txt
    python benchmarks/language_baselines.py recipes/language-model.yaml      # on the training and test rows of a recipe

"xz alone" reads only the held-out text; "xz after the training text" pays only for what the held-out text adds;
the 5-grams, of characters and of bytes, are fitted on the training text.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dougong import assembly
from dougong import recipe as recipes
from dougong.data.shards import Stream

ORDER = 5
ALPHABET = {str: 0x110000, bytes: 256}  # all that a symbol can be: nothing has probability zero


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="a text, or a recipe")
    parser.add_argument("held_out", type=Path, nargs="?")
    arguments = parser.parse_args()
    if arguments.held_out is None:
        figures = baselines(*texts_of(arguments.train))
    else:
        figures = baselines(arguments.train.read_text("utf-8"), arguments.held_out.read_text("utf-8"))
    for name, value in figures.items():
        print(f"{name:32} {value:.4f} bits per byte")
    print(json.dumps(figures))


def texts_of(recipe: Path) -> tuple[str, str]:
    """The training and the test rows of a language model's recipe, as its own preparation splits them."""
    loaded = recipes.load(recipe)
    prepared = assembly.prepared_data(loaded)
    _, (field,) = assembly.fitted(loaded, prepared)
    splits = (prepared.split(name).stream(f"{field.name}.tokens") for name in ("train", "test"))
    pieces = ([field.codec.text(row) for row in split_rows(stream)] for stream in splits)
    train, test = ("\n\n".join(rows) for rows in pieces)
    return train, test


def split_rows(stream: Stream) -> Iterator[np.ndarray]:
    """The rows that a stream was made of."""
    for column in stream.columns:
        yield from (column.row(index) for index in range(len(column)))


def baselines(train: str, held_out: str) -> dict[str, float]:
    """Bits per UTF-8 byte of the held-out text, by name of the baseline."""
    seen, new = train.encode(), held_out.encode()
    return {
        "xz alone": 8 * xz_size(new) / len(new),
        "xz after the training text": 8 * (xz_size(seen + new) - xz_size(seen)) / len(new),
        "5-gram of characters": NGrams(train).bits(held_out) / len(new),
        "5-gram of bytes": NGrams(seen).bits(new) / len(new),
    }


def xz_size(data: bytes) -> int:
    """What `xz -9e` makes of it, in bytes."""
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


class NGrams:
    """Interpolated modified Kneser-Ney (Kneser and Ney 1995, Chen and Goodman 1999) over characters or bytes."""

    def __init__(self, text: str | bytes, order: int = ORDER):
        self.order, self.alphabet = order, ALPHABET[type(text)]
        self.counts = counts_by_order(text, order)
        self.discounts = [discounts(table) for table in self.counts]
        self.contexts = [self._contexts(level) for level in range(order)]

    def bits(self, text: str | bytes) -> float:
        """What a code made of the model's predictions would spend on a text."""
        return -sum(math.log2(self.probability(text[max(0, at + 1 - self.order) : at + 1])) for at in range(len(text)))

    def probability(self, gram: str | bytes) -> float:
        """Of the last symbol of `gram`, after those before it: each order adds to what the next lower one says."""
        value = 1 / self.alphabet
        for level in range(len(gram)):
            part = gram[len(gram) - level - 1 :]  # level symbols of context, then the symbol
            found = self.contexts[level].get(part[:-1])
            if found is None:  # what was never seen after less context was not seen after more
                break
            total, rest = found
            count = self.counts[level].get(part, 0)
            value = (count - self.discounts[level][min(count, 3)]) / total + rest * value
        return value

    def _contexts(self, level: int) -> dict[str | bytes, tuple[int, float]]:
        """Of each context, the total count of what followed it, and the share left to lower orders."""
        totals: dict[str | bytes, int] = defaultdict(int)
        freed: dict[str | bytes, float] = defaultdict(float)
        for gram, count in self.counts[level].items():
            totals[gram[:-1]] += count
            freed[gram[:-1]] += self.discounts[level][min(count, 3)]
        return {context: (total, freed[context] / total) for context, total in totals.items()}


def counts_by_order(text: str | bytes, order: int) -> list[dict[str | bytes, int]]:
    """Of the longest grams, how often each occurs; of shorter ones, after how many different symbols each occurs."""
    grams = (text[at : at + order] for at in range(len(text) - order + 1))
    tables: list[dict[str | bytes, int]] = [Counter(grams)]
    for _ in range(order - 1):
        tables.append(Counter(gram[1:] for gram in tables[-1]))
    return tables[::-1]


def discounts(counts: dict[str | bytes, int]) -> tuple[float, float, float, float]:
    """What is taken off a count of 0, 1, 2, and 3 or more, estimated from the counts of counts."""
    n1, n2, n3, n4 = (sum(count == number for count in counts.values()) for number in (1, 2, 3, 4))
    if not (n1 and n2 and n3):  # a text too small to estimate from
        return 0.0, 0.5, 0.5, 0.5
    share = n1 / (n1 + 2 * n2)
    one, two, three = 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3
    return 0.0, min(max(one, 0.1), 0.95), min(max(two, 0.1), 1.95), min(max(three, 0.1), 2.95)


if __name__ == "__main__":
    main()
