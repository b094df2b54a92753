"""Small trained runs of every sort, each made once for all tests that want one: `run("reviews")`."""

from __future__ import annotations

import atexit
import contextlib
import csv
import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import dougong
from dougong.data import pictures
from dougong.run import Run

ROWS = 120
TINY = {"kind": "transformer", "preset": "tiny"}
BYTES = {"type": "text", "tokenizer": "byte", "max_length": 48}
STEPS = {"steps": 30, "batch_size": 16, "validate_every": 15, "device": "cpu"}
GOOD, BAD = ("good", "fine", "great", "lovely"), ("bad", "poor", "awful", "dull")


@cache
def home() -> Path:
    """The folder in which all of them stand; it goes when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="dougong-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_data(folder)
    return folder


@cache
def run(name: str) -> Run:
    with contextlib.chdir(home()):
        dougong.train(recipe_of(name))
    return dougong.load(home() / "runs" / name)


def recipe_of(name: str) -> dict[str, Any]:
    recipe = RECIPES[name]
    data = {"cache": str(home() / ".dougong"), **recipe["data"]}
    data["train"] = str(home() / data["train"])
    return {"name": name, "train": STEPS, **recipe, "data": data}


def write_data(folder: Path) -> None:
    chance = random.Random(0)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "stars", "colour", "price", "label"])
        for index in range(ROWS):
            good = index % 2 == 0
            words = [chance.choice(GOOD if good else BAD) for _ in range(chance.randint(2, 6))]
            stars, colour = chance.randint(1, 9), chance.choice(["red", "green", "blue"])
            price = 10 * stars + (5 if colour == "red" else 0)
            writer.writerow([f"a {' '.join(words)} thing {index}", stars, colour, price, "good" if good else "bad"])
    with (folder / "tags.jsonl").open("w", encoding="utf-8") as stream:
        for index in range(ROWS):
            tags = [tag for tag, chosen in (("even", index % 2 == 0), ("third", index % 3 == 0)) if chosen]
            line = {"text": f"{' '.join(tags)} number {index}", "reply": f"{index}!", "tags": tags}
            stream.write(json.dumps(line) + "\n")
    with (folder / "spans.jsonl").open("w", encoding="utf-8") as stream:
        for index in range(ROWS):
            colour, shape = ("red", "dark blue")[index % 2], ("long", "扁 flat")[index % 4 > 1]
            facts = {"size": str(index % 7 * 15), "colour": colour, "shape": shape}
            asked = ("size", "colour", "shape")[index % 3]
            right = facts[asked] if index % 5 else None
            passage = "; ".join(f"{key}: {value}" for key, value in facts.items() if right or key != asked)
            stream.write(json.dumps({"question": asked, "passage": passage, "answer": right}) + "\n")
    lines = [f"{chance.choice(GOOD)} day number {index}\nand {chance.choice(BAD)} night" for index in range(ROWS)]
    with (folder / "chats.jsonl").open("w", encoding="utf-8") as stream:
        for index in range(ROWS):
            asked, said = (GOOD, "no") if index % 2 else (BAD, "yes")
            turns = [("user", chance.choice(asked)), ("assistant", said)] * chance.randint(1, 2)
            turns = [("system", "oppose")] * (index % 3 == 0) + turns
            messages = [{"role": role, "content": content} for role, content in turns]
            stream.write(json.dumps({"messages": messages}) + "\n")
    write_pictures(folder / "pictures.parquet")
    (folder / "poems.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def write_pictures(file: Path) -> None:
    """Grey pictures of 8 × 6 that are bright on one side, which their label says, and a name says by other words."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 60, (ROWS, 8, 6, 1), dtype=np.uint8)
    left = np.arange(ROWS) % 2 == 0
    pixels[left, :, :3] += 150
    pixels[~left, :, 3:] += 150
    columns = {
        "image": [pictures.png(each) for each in pixels],
        "label": ["left" if each else "right" for each in left],
        "name": ["bright at first" if each else "dark, then bright" for each in left],
    }
    pq.write_table(pa.table(columns), file)


RECIPES: dict[str, dict[str, Any]] = {
    "reviews": {
        "data": {"train": "table.csv"}, "model": TINY,
        "inputs": {"review": BYTES}, "outputs": {"label": "category"},
    },
    "reviews-mlp": {
        "data": {"train": "table.csv"}, "model": {"kind": "mlp", "preset": "tiny"},
        "inputs": {"review": BYTES}, "outputs": {"label": "category"},
    },
    "reviews-other": {
        "data": {"train": "table.csv", "split": {"test": 0.3, "validation": 0.1}},
        "model": {"kind": "mlp", "preset": "tiny"}, "inputs": {"review": BYTES}, "outputs": {"label": "category"},
    },
    "prices": {
        "data": {"train": "table.csv", "cleaning": {"missing": "keep"}}, "model": {"kind": "mlp", "preset": "tiny"},
        "inputs": {"stars": "number", "colour": "category"}, "outputs": {"price": "number"},
    },
    "tags": {
        "data": {"train": "tags.jsonl"}, "model": TINY,
        "inputs": {"text": BYTES}, "outputs": {"tags": {"type": "labels", "threshold": 0.3}},
    },
    "spans": {  # windows of 16 bytes: most passages take several
        "data": {"train": "spans.jsonl"}, "model": TINY,
        "inputs": {"question": BYTES, "passage": {**BYTES, "max_length": 16}},
        "outputs": {"answer": {"type": "span", "of": "passage", "max_answer": 10}},
    },
    "poems": {"data": {"train": "poems.txt"}, "model": TINY, "outputs": {"text": BYTES}},
    "poems-learned": {
        "data": {"train": "poems.txt"}, "model": {**TINY, "positions": "learned", "max_length": 56},
        "outputs": {"text": BYTES},
    },
    "poems-recurrent": {
        "data": {"train": "poems.txt"}, "model": {"kind": "recurrent", "preset": "tiny"}, "outputs": {"text": BYTES},
    },
    "poems-boundaries": {
        "data": {"train": "poems.txt"}, "model": TINY, "outputs": {"text": {**BYTES, "boundaries": True}},
    },
    "poems-window": {"data": {"train": "poems.txt"}, "model": {**TINY, "window": 5}, "outputs": {"text": BYTES}},
    "poems-stretched": {
        "data": {"train": "poems.txt"},
        "model": {**TINY, "rotary_scaling": {"kind": "yarn", "factor": 2.0, "original": 28}}, "outputs": {"text": BYTES},
    },
    "poems-runs": {
        "data": {"train": "poems.txt"}, "model": TINY, "outputs": {"text": {**BYTES, "runs": 3}},
    },
    "masked": {"data": {"train": "poems.txt"}, "model": TINY, "outputs": {"text": {**BYTES, "objective": "masked"}}},
    "masked-recurrent": {
        "data": {"train": "poems.txt"}, "model": {"kind": "recurrent", "preset": "tiny"}, "seed": 1,
        "outputs": {"text": {**BYTES, "objective": "masked"}},
    },
    "masked-convnet": {
        "data": {"train": "poems.txt"}, "model": {"kind": "convnet", "preset": "tiny"},
        "outputs": {"text": {**BYTES, "objective": "masked"}},
    },
    "chats": {
        "data": {"train": "chats.jsonl"}, "model": TINY,
        "outputs": {"messages": {"type": "chat", "tokenizer": "byte", "max_length": 48}},
        "train": {**STEPS, "steps": 150, "optimizer": {"kind": "adamw", "lr": 0.02}},
    },
    "replies": {
        "data": {"train": "tags.jsonl"}, "model": TINY, "inputs": {"text": BYTES}, "outputs": {"reply": BYTES},
    },
    "replies-copied": {
        "data": {"train": "tags.jsonl"}, "model": {**TINY, "layout": "encoder-decoder"},
        "inputs": {"text": BYTES}, "outputs": {"reply": {**BYTES, "shares": "text", "copy": True}},
    },
    "replies-copied-decoder": {
        "data": {"train": "tags.jsonl"}, "model": TINY,
        "inputs": {"text": BYTES}, "outputs": {"reply": {**BYTES, "shares": "text", "copy": True}},
    },
    "replies-encoder-decoder": {
        "data": {"train": "tags.jsonl"}, "model": {**TINY, "layout": "encoder-decoder"},
        "inputs": {"text": BYTES}, "outputs": {"reply": BYTES},
    },
    "replies-recurrent-encoder-decoder": {
        "data": {"train": "tags.jsonl"}, "model": {"kind": "recurrent", "preset": "tiny", "layout": "encoder-decoder"},
        "inputs": {"text": BYTES}, "outputs": {"reply": BYTES},
    },
    "replies-recurrent": {
        "data": {"train": "tags.jsonl"}, "model": {"kind": "recurrent", "preset": "tiny"},
        "inputs": {"text": BYTES}, "outputs": {"reply": BYTES},
    },
    "pairs": {
        "data": {"train": "tags.jsonl"}, "model": TINY, "inputs": {"text": BYTES, "reply": BYTES},
        "outputs": {"match": {"type": "pairing", "dim": 16, "asks": "text"}},
    },
    "pairs-late": {
        "data": {"train": "tags.jsonl"}, "model": {"kind": "identity", "width": 16},
        "inputs": {"text": BYTES, "reply": BYTES},
        "outputs": {"match": {"type": "pairing", "dim": 16, "asks": "text", "interaction": "late", "length_discount": 0.2}},
    },
    "pairs-mlp": {
        "data": {"train": "tags.jsonl"}, "model": {"kind": "mlp", "preset": "tiny"},
        "inputs": {"text": BYTES, "reply": BYTES}, "outputs": {"match": {"type": "pairing", "dim": 16, "asks": "text"}},
    },
    "judge": {
        "data": {"train": "pictures.parquet"}, "model": {"kind": "convnet", "preset": "tiny"},
        "inputs": {"image": "image"}, "outputs": {"label": "category"},
    },
    "judge-pairs": {
        "data": {"train": "pictures.parquet"}, "model": TINY,
        "inputs": {"image": "image", "name": BYTES}, "outputs": {"match": {"type": "pairing", "dim": 8}},
    },
    "pictures": {
        "data": {"train": "pictures.parquet"}, "model": {"kind": "diffusion", "preset": "tiny", "sampling_steps": 5},
        "inputs": {"label": "category"}, "outputs": {"image": {"type": "image", "samples": 20}},
    },
    "pictures-gan": {
        "data": {"train": "pictures.parquet"}, "model": {"kind": "gan", "preset": "tiny"},
        "inputs": {"label": "category"}, "outputs": {"image": {"type": "image", "samples": 20}},
        "train": {**STEPS, "ema": 0.9, "clip_norm": None},
    },
    "pictures-autoregressive": {
        "data": {"train": "pictures.parquet"}, "model": {"kind": "autoregressive", "preset": "tiny"},
        "inputs": {"label": "category"}, "outputs": {"image": {"type": "image", "samples": 20}},
    },
    "pictures-of-nothing": {
        "data": {"train": "pictures.parquet"}, "model": {"kind": "diffusion", "preset": "tiny", "sampling_steps": 2},
        "outputs": {"image": {"type": "image", "samples": 5}}, "train": {**STEPS, "steps": 2, "validate_every": 1},
    },
}  # fmt: skip
