"""A text that is spelled along the positions of its input: what the head does, and what the recipe refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import dougong
from dougong import fields, lifecycle
from dougong.core.config import read
from dougong.core.errors import DataError, RecipeError
from dougong.data import sounds
from dougong.data.columns import Ragged
from dougong.fields import Field, text
from dougong.layers.features import Features
from dougong.layers.losses import Loss

TONES = {"a": 300, "b": 600, "c": 1200}
RATE = 4_000


def config(**settings: Any) -> text.Config:
    found, problems = read(
        text.Config, {"type": "text", "objective": "ctc", "tokenizer": {"kind": "char"}, "column": "x", **settings}
    )
    assert not problems, problems
    return found


def field(**settings: Any) -> Field:
    own = config(**settings)
    return Field("x", own, text.Codec.fit(own, ["abc", "cab", "bb"]))


def test_the_objective_chooses_the_head() -> None:
    assert fields.head_of(config()) is not text.Head
    assert fields.head_of(text.Config()) is text.Head
    assert fields.aligned(config())
    assert not fields.aligned(text.Config())
    assert not config().masked
    assert not fields.head_of(config()).AUTOREGRESSIVE


@pytest.mark.parametrize("beams", [1, 4])
def test_what_its_positions_say_is_read_back_as_text(beams: int) -> None:
    known = field(beams=beams)
    head = known.head(known.config, known.codec, known.codec.vocab_size, Loss())
    head.reset_parameters()
    head.projection.weight.data = 9 * torch.eye(known.codec.vocab_size)
    a, b, c = (known.codec.ids([letter])[0][0] for letter in "abc")
    end, pad = known.codec.end, 0
    paths = torch.tensor([[a, a, end, a, b], [c, end, end, pad, pad]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    features = Features(torch.nn.functional.one_hot(paths, known.codec.vocab_size).float(), mask)
    found = head.predict(features, {}, "x")
    assert [answer["value"] for answer in known.codec.answers({k: v.numpy() for k, v in found.items()})] == ["aab", "c"]
    gap = Features(features.values.flip(1), mask.flip(1))  # padding may stand before
    assert head.predict(gap, {}, "x")["tokens.length"].tolist() == [3, 1]


def test_the_loss_is_of_the_text_without_the_token_that_closes_it() -> None:
    known = field()
    head = known.head(known.config, known.codec, 8, Loss())
    head.reset_parameters()
    batch = {"x.tokens": torch.tensor([[1, 2, known.codec.end]]), "x.tokens.length": torch.tensor([3])}
    features = Features(torch.randn(1, 2, 8), torch.ones(1, 2, dtype=torch.bool))
    assert int(head.count(batch, "x")) == 2
    assert float(head.loss(features, batch, "x").detach()) == pytest.approx(
        2 * np.log(known.codec.vocab_size), rel=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runs": 2}, "text.runs = 2: expected nothing beside objective: ctc"),
        ({"shares": "y"}, "text.shares = 'y': expected nothing beside objective: ctc"),
        ({"boundaries": True}, "text.boundaries = True: expected nothing beside objective: ctc"),
        ({"length_penalty": 0.5}, "text.length_penalty = 0.5: expected nothing beside objective: ctc"),
        ({"transform": True}, "false beside objective: ctc"),
        ({"max_length": 9}, "text.max_length = 9: expected nothing beside objective: ctc, whose texts are read whole"),
    ],
)
def test_keys_without_an_effect_are_refused(settings: dict[str, Any], words: str) -> None:
    _, problems = read(text.Config, {"type": "text", "objective": "ctc", **settings})
    assert words.split(": expected ")[-1] in " ".join(map(str, problems))


def spoken(said: str, draw: np.random.Generator) -> bytes:
    """Each letter a tone, a pause behind it."""
    parts = [
        part
        for letter in said
        for part in (np.sin(np.arange(600) * 2 * np.pi * TONES[letter] / RATE), np.zeros(int(draw.integers(200, 400))))
    ]
    return sounds.wav((8000 * np.concatenate(parts)).astype(np.int16), RATE)


def recipe(rows: int, tmp_path: Any, least: int = 1) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(0)
    said = ["".join(draw.choice(list("abc"), draw.integers(least, 4))) for _ in range(rows)]
    columns = {"sound": pa.array([spoken(each, draw) for each in said], pa.binary()), "said": said}
    pq.write_table(pa.table(columns), tmp_path / "tones.parquet")
    return {
        "name": "tones",
        "data": {"train": str(tmp_path / "tones.parquet"), "split": {"test": 0.15}, "cache": str(tmp_path / "cache")},
        "inputs": {"sound": {"type": "audio", "sample_rate": RATE, "mels": 16, "max_seconds": 2}},
        "outputs": {"said": {"type": "text", "objective": "ctc", "tokenizer": "char"}},
        "model": {"kind": "conformer", "preset": "tiny"},
        "train": {"epochs": 12, "batch_size": 8, "optimizer": {"kind": "muon", "lr": 0.02}},
    }


def test_tones_are_learnt_evaluated_and_predicted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of recipes/speech-recognition.yaml at its smallest."""
    monkeypatch.chdir(tmp_path)
    run = dougong.train(recipe(120, tmp_path))
    found = run.metrics()["test"]
    assert set(found) == {"said.wer", "said.cer"}
    assert found["said.cer"]["value"] < 0.2
    assert found["said.cer"]["low"] <= found["said.cer"]["value"] <= found["said.cer"]["high"]
    assert run.predict([spoken("abc", np.random.default_rng(9))]) == [{"said": {"value": "abc"}}]
    assert (run.folder / "report.html").is_file()


def test_rows_with_more_tokens_than_positions_are_told_of(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lost = recipe(30, tmp_path, least=2)
    lost["inputs"]["sound"]["hop_ms"], lost["inputs"]["sound"]["window_ms"] = (
        100,
        100,
    )  # 400 ms a position: one a letter and less
    lost["train"]["epochs"] = 1
    heard: list[str] = []
    dougong.train(lost, say=heard.append)
    assert any(
        "training rows have more tokens than positions to spell them along, and teach nothing" in line for line in heard
    )
    lost["name"], lost["inputs"]["sound"]["subsample"] = "none", 8
    lost["inputs"]["sound"] |= {"hop_ms": 900, "window_ms": 900}
    with pytest.raises(
        DataError, match=r"of \d+ training rows have more tokens than positions .*Fix: use a smaller subsample"
    ):
        dougong.train(lost)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"kind": "mlp"}}, r"model.kind = 'mlp': expected a backbone that keeps the places of what goes in"),
        ({"inputs": {}}, "at least one input"),
        ({"train": {"epochs": 1, "loss": "cross_entropy"}}, "'said' is a text"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_recipe(tmp_path: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        dougong.prepare(recipe(4, tmp_path) | change)


def test_only_what_is_a_sequence_is_counted(tmp_path: Any) -> None:
    """How many positions other inputs make, only their encoders know."""
    assert lifecycle.assembly.without_path(None, [field_of_category()], [field()]) == {}  # type: ignore[arg-type]


def field_of_category() -> Field:
    category = fields.load("category")
    own = dataclasses.replace(category.Config(), column="y")
    return Field("y", own, category.Codec.fit(own, ["a", "b"]))


def test_ragged_tokens_are_decoded_for_its_metrics() -> None:
    known = field()
    metrics = fields.metrics_of(known, answers=False)
    assert [metric.name for metric in metrics] == ["wer", "cer"]
    right = {"tokens": Ragged.of([np.array([*known.codec.ids(["abc"])[0], known.codec.end])], np.int64)}
    said = {"tokens": Ragged.of([np.array(known.codec.ids(["abb"])[0])], np.int64)}
    assert metrics[1].statistics(said, right).tolist() == [[1.0, 3.0]]


@pytest.mark.nightly
def test_a_text_is_also_written_from_a_sound_step_by_step(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder of its own for the sound, a decoder that attends to it, the same metrics; batches by positions."""
    monkeypatch.chdir(tmp_path)
    written = recipe(160, tmp_path)
    written["inputs"]["sound"]["encoder"] = {"kind": "conformer", "preset": "tiny"}
    written["outputs"]["said"] = {"type": "text", "tokenizer": "char", "max_length": 6, "metrics": ["wer", "cer"]}
    written["model"] = {"kind": "transformer", "preset": "tiny", "layout": "encoder-decoder", "encoder_layers": 1}
    written["train"] = {"epochs": 25, "batch_tokens": 200, "optimizer": "muon"}
    run = dougong.train(written)
    assert run.metrics()["test"]["said.cer"]["value"] < 0.7
    assert set(run.metrics()["test"]) >= {"said.wer", "said.cer", "said.perplexity"}


@pytest.mark.nightly
def test_a_recurrent_network_spells_as_well(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spelled = recipe(160, tmp_path)
    spelled["model"] = {"kind": "recurrent", "preset": "tiny", "width": 32}
    spelled["outputs"]["said"]["beams"] = 4
    assert dougong.train(spelled).metrics()["test"]["said.cer"]["value"] < 0.2
