"""The tasks of the recipes with pictures, at tiny size: captions, questions, pairings, and several kinds of input at once."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dougong
from dougong.run import Run

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (240, 240, 240)}
BYTES = {"type": "text", "tokenizer": "byte", "max_length": 24}
CONVNET = {"kind": "convnet", "width": 16, "layers": [1, 1]}
TINY = {"kind": "transformer", "width": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one colour and some noise, what they show, a question with its answer, and a number that says half of it."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    rows = []
    for index in range(240):
        name = list(COLOURS)[index % 4]
        asked = list(COLOURS)[int(chance.integers(4))] if index % 8 > 3 else name
        pixels = np.array(COLOURS[name]) + chance.integers(-15, 16, (8, 8, 3))
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
        rows.append(
            {
                "image": stream.getvalue(), "said": f"a {name} thing", "question": f"is it {asked}?",
                "answer": "yes" if asked == name else "no", "colour": name, "bright": float(name in ("green", "white")),
                "hint": "vivid" if name in ("red", "green") else "calm",
            }
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "pictures.parquet")
    return folder


def train(home: Path, name: str, inputs: dict[str, Any], outputs: dict[str, Any], **more: Any) -> Run:
    train = {"steps": 60, "batch_size": 32, "validate_every": 50, "device": "cpu", "optimizer": {"kind": "muon"}}
    data = {"train": str(home / "pictures.parquet"), "split": {"test": 0.2, "validation": 0.1}}
    model = more.pop("model", TINY)
    recipe = {"name": name, "data": data, "inputs": inputs, "outputs": outputs, "model": model, "train": train | more}
    with contextlib.chdir(home):
        dougong.train(recipe)
    return dougong.load(home / "runs" / name)


def value(run: Run, metric: str) -> float:
    return float(run.metrics()["test"][metric]["value"])


@pytest.mark.parametrize("encoder", [CONVNET, pytest.param({**TINY, "width": 16}, marks=pytest.mark.nightly), None])
def test_a_caption_is_written_from_a_picture_that_an_encoder_of_any_kind_has_read(
    home: Path, encoder: dict[str, Any] | None
) -> None:
    image = {"type": "image", "patch": 4} | ({} if encoder is None else {"encoder": encoder})
    name = f"captions-{encoder['kind'] if encoder else 'none'}"
    model = {**TINY, "layout": "encoder-decoder"}
    steps = 400 if encoder else 20  # of the third way only that it works
    run = train(home, name, {"image": image}, {"said": {**BYTES, "metrics": ["exact_match"]}}, model=model, steps=steps)
    assert value(run, "said.exact_match") > (0.8 if encoder else -1)


def test_a_question_about_a_picture_is_answered_and_both_are_needed(home: Path) -> None:
    inputs = {"image": {"type": "image", "patch": 4}, "question": BYTES}
    run = train(home, "questions", inputs, {"answer": "category"}, steps=200)
    assert value(run, "answer.accuracy") > 0.85
    with contextlib.chdir(home):
        told = dougong.evaluate(run).details["answer"]["inputs"]
    assert all(each["high"] < 0 for each in told.values())


def test_pictures_are_found_by_words_and_are_told_by_the_words_that_are_nearest(home: Path) -> None:
    inputs = {"image": {"type": "image", "encoder": CONVNET, "patch": 2}, "said": BYTES}
    run = train(home, "pairing", inputs, {"match": {"type": "pairing", "dim": 16}}, steps=150)
    rows = pq.read_table(home / "pictures.parquet").slice(0, 8).to_pylist()
    names = [{"said": f"a {name} thing"} for name in COLOURS]
    told = dougong.predict(
        run, [{"image": row["image"]} for row in rows], corpus=names, top=1
    )  # no example was labelled
    assert [answer["match"]["nearest"][0]["value"] for answer in told] == [row["said"] for row in rows]
    found = dougong.predict(run, names, corpus=[{"image": row["image"]} for row in rows], top=2)
    assert [{each["row"] % 4 for each in answer["match"]["nearest"]} for answer in found] == [{1}, {2}, {3}, {0}]


def test_pictures_words_and_numbers_together_tell_a_category(home: Path) -> None:
    inputs = {"image": {"type": "image", "encoder": CONVNET, "patch": 2}, "hint": BYTES, "bright": "number"}
    run = train(home, "mixture", inputs, {"colour": "category"})
    assert value(run, "colour.accuracy") > 0.9
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in page[page.index('id="inputs"') :] for name in inputs)
    assert page.count('<img class="seen" alt="input" src="data:image/png;base64,') == 8
    assert "img-src data:;" in page
