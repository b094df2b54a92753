"""Sounds: whole ones are read, others cost their row; spectra as the codec has them; SpecAugment hides and is repeatable."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dougong
from dougong.core.config import read
from dougong.core.errors import DataError, RecipeError
from dougong.data import sounds
from dougong.data.loader import collate
from dougong.fields import Field
from dougong.fields.audio import Codec, Config, Encoder, augment, frames_of
from dougong.model import initialize
from tests.clear_error import clear_error

RATE = 8_000
SMALL = {"sample_rate": RATE, "mels": 24, "max_seconds": 1.0}


def config(**settings: Any) -> Config:
    found, problems = read(Config, {"type": "audio", "column": "x", **SMALL, **settings})
    assert not problems, problems
    return found


def noise(size: int, seed: int = 0) -> bytes:
    return sounds.wav(np.random.default_rng(seed).integers(-3000, 3000, size).astype(np.int16), RATE)


def fitted(**settings: Any) -> Field:
    own = config(**settings)
    return Field("x", own, Codec.fit(own, [Codec.parse(noise(size, size), own) for size in (4_000, 6_000, 8_000)]))


def encoder(field: Field, width: int = 16) -> Encoder:
    made = Encoder(field.config, field.codec, width, 4)
    initialize(made, 0)
    return made


def batch(field: Field, *sizes: int) -> dict[str, torch.Tensor]:
    columns, _ = field.codec.encode([Codec.parse(noise(size, size), field.config) for size in sizes])
    limits = {f"x.{key}": limit for key, limit in field.codec.limits().items()}
    return collate({f"x.{key}": column for key, column in columns.items()}, np.arange(len(sizes)), limits)


def test_the_encoder_has_the_spectra_of_the_codec_and_normalizes_them() -> None:
    field = fitted()
    made, samples = encoder(field), np.random.default_rng(1).integers(-3000, 3000, 5_000)
    ours = made.mel(torch.tensor(samples / 32768, dtype=torch.float32)[None])[0]
    assert np.abs(ours.numpy() - frames_of(field.config).mel(samples / 32768)).max() < 1e-4
    parsed = [Codec.parse(noise(size, size), field.config) or b"" for size in (4_000, 6_000, 8_000)]
    spectra = [frames_of(field.config).log_mel(np.frombuffer(value, np.int16)) for value in parsed]
    flat = np.concatenate(spectra)
    assert np.allclose(field.codec.mean, flat.mean(0))
    assert np.allclose(field.codec.std, flat.std(0))


def test_padding_and_other_rows_change_nothing() -> None:
    field = fitted()
    made = encoder(field)
    together, alone = made(batch(field, 2_000, 8_000, 500), "x"), made(batch(field, 2_000), "x")
    real = alone.mask.sum()
    assert together.mask.sum(1).tolist() == [int(real), 26, 2]
    torch.testing.assert_close(together.values[0, :real], alone.values[0, :real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("subsample", [1, 2, 4, 8])
def test_positions_are_as_many_as_strides_tell(subsample: int) -> None:
    from dougong.data.columns import positions_of

    field = fitted(subsample=subsample)
    sizes = (1, 79, 80, 319, 320, 321, 5_000)
    mask = encoder(field)(batch(field, *sizes), "x").mask
    told = positions_of(np.array(sizes), field.codec.strides()["samples"])
    assert mask.sum(1).tolist() == told.tolist()


def test_samples_travel_as_int16() -> None:
    assert batch(fitted(), 100)["x.samples"].dtype == torch.int16


def test_specaugment_hides_stretches_of_what_is_there_and_repeats_with_the_seed() -> None:
    field = fitted(augment={"time_masks": 2, "time_share": 0.2, "band_masks": 2, "band_width": 5})
    given = batch(field, 8_000, 1_000)
    torch.manual_seed(3)
    first = augment(field, given)
    torch.manual_seed(3)
    again = augment(field, given)
    frames, bands = first["x.hidden.frames"], first["x.hidden.bands"]
    assert torch.equal(frames, again["x.hidden.frames"])
    assert torch.equal(bands, again["x.hidden.bands"])
    assert frames.shape == (2, 101)
    assert bands.shape == (2, 24)
    assert not frames[1, 13:].any(), "only where there is sound"
    most = [
        [int(augment(field, given)[f"x.hidden.{kind}"].sum(1).max()) for _ in range(200)]
        for kind in ("frames", "bands")
    ]
    assert max(most[0]) <= 40
    assert max(most[1]) <= 10
    assert min(map(max, most)) > 5


def test_what_is_hidden_is_the_mean_and_what_is_not_stays() -> None:
    field = fitted(subsample=1)
    made, given = encoder(field), batch(field, 8_000)
    hidden = {
        "x.hidden.frames": torch.zeros(1, 101, dtype=torch.bool),
        "x.hidden.bands": torch.ones(1, 24, dtype=torch.bool),
    }
    silent = made({**given, **hidden}, "x").values
    torch.testing.assert_close(silent[:, 2:-2], silent[:, 2:3].expand(-1, 97, -1))
    hidden["x.hidden.bands"] = ~hidden["x.hidden.bands"]
    assert torch.equal(made({**given, **hidden}, "x").values, made(given, "x").values)


def test_without_augmentation_nothing_is_drawn() -> None:
    field, before = fitted(), torch.get_rng_state()
    given = batch(field, 100)
    assert augment(field, given) is given
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_longer_is_refused_or_cut_and_counted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2\.00 s of sound; at most 1 are read \(max_seconds\)"):
        Codec.parse(noise(16_000), config())
    cut = config(longer="cut")
    columns, _ = Codec(cut, [0.0] * 24, [1.0] * 24).encode([Codec.parse(noise(16_000), cut)])
    assert columns["samples"].lengths.tolist() == [8_001]  # one more than is taken, so that the report can count it
    rows = [(noise(16_000 if row == 3 else 4_000, row), "ab"[row % 2]) for row in range(60)]
    recipe = recipe_of(tmp_path, rows)
    recipe["inputs"]["sound"]["longer"] = "cut"
    assert dougong.prepare(recipe).report.notes["train.sound: cut to 8,000 samples"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mels": 200}, "expected at most 64: the 256 samples of a window tell no more bands apart"),
        ({"hop_ms": 30}, "expected at least hop_ms (30), or samples between the windows are never seen"),
        ({"subsample": 3}, "one of 1, 2, 4, 8"),
        ({"augment": {"band_masks": 1, "band_width": 30}}, "expected at most mels (24)"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    _, problems = read(Config, {"type": "audio", **SMALL, **settings})
    assert words in " ".join(map(str, problems))


def test_no_sound_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no sound in any training row"):
        Codec.fit(config(), [None, None])


def recipe_of(folder: Path, rows: list[tuple[bytes | None, str]]) -> dict[str, Any]:
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sound", "label"])
        for index, (data, label) in enumerate(rows):
            if data is not None:
                (folder / f"{index}.wav").write_bytes(data)
            writer.writerow([f"{index}.wav", label])
    return {
        "name": "sounds",
        "data": {"train": str(folder / "data.csv"), "split": {}, "cache": str(folder / "cache")},
        "inputs": {"sound": {"type": "audio", **SMALL}},
        "outputs": {"label": "category"},
        "train": {"steps": 2, "batch_size": 8},
    }


def test_D9_broken_files_cost_their_rows_and_the_rest_goes_on(tmp_path: Path) -> None:
    broken = {0: b"", 1: noise(4_000)[:500], 2: b"\x89PNG\r\n\x1a\n", 3: None, 4: noise(9_000)}
    rows = [(broken.get(row, noise(4_000, row)), "ab"[row % 2]) for row in range(60)]
    recipe = recipe_of(tmp_path, rows)
    with clear_error("5 of 60", error=DataError):  # one in twelve is too many by itself
        dougong.prepare(recipe)
    recipe["data"]["cleaning"] = {"max_bad": 0.1}
    prepared = dougong.prepare(recipe)
    assert prepared.report.bad.total() == 5
    assert prepared.split("train").rows == 55
    listed = (prepared.folder / "quarantine.jsonl").read_text()
    for reason in (
        "0.wav: an empty file",
        "1.wav: cut short",
        "2.wav: not a WAV",
        "no such sound file: 3.wav",
        "4.wav: 1.12 s",
    ):
        assert reason in listed


def test_a_folder_of_sounds_is_a_table_and_a_recipe_is_proposed_for_it(tmp_path: Path) -> None:
    for label in ("high", "low"):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for row in range(12):
            (tmp_path / "sounds" / label / f"{row}.wav").write_bytes(noise(900 + row, row))
    text = dougong.new(tmp_path / "sounds").read_text()
    assert "audio: audio" in text
    assert "label: category" in text


def test_it_only_goes_in(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [(noise(100), "a")])
    recipe["outputs"] = {"label": "audio"}
    with pytest.raises(RecipeError, match="audio only goes in"):
        dougong.prepare(recipe)
