"""Pictures: only what is safe and whole is read, whatever its name; changes for training are random but repeatable."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dougong import model as models
from dougong.core.config import read
from dougong.core.errors import DataError
from dougong.data import pictures
from dougong.fields import Field, category
from dougong.fields.image import Codec, Config, Encoder, augment
from dougong.layers.losses import Loss
from dougong.layers.pictures import Augment, Policy
from tests.clear_error import clear_error

ROOT = Path(__file__).parents[2]


def saved(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, form, **options)
    return stream.getvalue()


def noise(height: int = 8, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# -------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_format_is_read_from_bytes_and_from_a_file(tmp_path: Path, form: str) -> None:
    data = saved(noise(), form)
    file = tmp_path / "name.png"  # the ending says nothing
    file.write_bytes(data)
    assert Codec.parse(data) == Codec.parse(str(file)) == data
    assert Codec.parse("") is None


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_D8_other_formats_are_refused_whatever_their_ending(tmp_path: Path, form: str) -> None:
    file = tmp_path / "fake.png"
    file.write_bytes(saved(noise(16, 16), form))
    with pytest.raises(ValueError, match="not a PNG, JPEG, WEBP image"):
        Codec.parse(str(file))


BOMB = zlib.compress(bytes(64 << 20))


@pytest.mark.parametrize(
    "data",
    [
        png(50_000, 50_000), png(1 << 30, 1), png(7_100, 7_100, BOMB), png(0, 5), png(2**31 - 1, 2**31 - 1),
        saved(noise())[:-40], saved(noise(), "JPEG")[:-60], saved(noise(64, 64), "WEBP")[:-50], saved(noise())[:33],
        b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\x00\x00\x00WEBP", b"GIF89a" + bytes(20), b"not a picture",
        saved(noise()).replace(b"IDAT", b"IDAX"), b"%!PS-Adobe-3.0 EPSF-3.0\n(id) run\n", b"<svg/>",
    ],
)  # fmt: skip
def test_D8_bombs_damaged_and_false_pictures_are_a_ValueError_that_quarantine_takes(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"image|pixels") as caught:
        Codec.parse(data)
    assert len(str(caught.value)) < 100
    assert "PIL" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_D8_every_cut_and_flip_of_a_picture_is_read_or_refused() -> None:
    random = np.random.default_rng(0)
    for form in ("PNG", "JPEG", "WEBP"):
        whole = saved(noise(), form)
        codec = Codec.fit(Config(), [whole])
        for _ in range(60):
            data = bytearray(whole[: random.integers(0, len(whole) + 1)])
            if data:
                data[random.integers(len(data))] ^= 1 << random.integers(8)
            try:
                parsed = Codec.parse(bytes(data))
            except ValueError:
                continue
            assert np.asarray(codec.encode([parsed])[0]["pixels"]).shape == (1, 8, 6, 3)


def test_D8_a_bomb_is_refused_before_it_takes_memory() -> None:
    code = (
        "import resource\n"
        "from tests.fields.test_image import png, Codec, BOMB\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for data in (png(50_000, 50_000, BOMB), png(1 << 30, 1, BOMB)):\n"
        "    try:\n        Codec.parse(data)\n    except ValueError:\n        continue\n"
        "    raise SystemExit('was read')\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "raise SystemExit(0 if grown < 20_000 else f'grew by {grown} kB')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("value", ["none.png", "x" * 5000, "a\0b.png", "/", "/dev/zero"])
def test_a_file_that_is_none_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="no such image file"):
        Codec.parse(value)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_D8_every_mode_of_a_png_becomes_grey_or_colour(mode: str) -> None:
    data = Codec.parse(saved(Image.fromarray(noise()).convert(mode)))
    codec = Codec.fit(Config(), [data])
    assert codec.channels == (1 if mode in ("L", "1") else 3)
    pixels = np.asarray(codec.encode([data])[0]["pixels"])
    assert pixels.shape == (1, 8, 6, codec.channels)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_as_on_a_page(mode: str) -> None:
    picture = Image.new("RGBA", (6, 8), (10, 20, 30, 0))
    picture.paste((200, 0, 0, 255), (0, 0, 3, 8))
    if mode == "P":
        picture = picture.quantize()
    data = Codec.parse(saved(picture.convert(mode)))
    pixels = np.asarray(Codec.fit(Config(channels=3), [data]).encode([data])[0]["pixels"])[0]
    assert (pixels[:, 3:] == 255).all()
    assert (pixels[:, :3] < 255).any(2).all()


def test_D8_cmyk_becomes_colour() -> None:
    red = Image.new("CMYK", (6, 8), (0, 255, 255, 0))
    data = Codec.parse(saved(red, "JPEG"))
    pixels = np.asarray(Codec.fit(Config(), [data]).encode([data])[0]["pixels"])
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() < 10


def test_deep_grey_of_several_pictures_keeps_one_scale() -> None:
    dark, light = np.full((4, 4), 1000, dtype=np.uint16), np.full((4, 4), 4000, dtype=np.uint16)
    codec = Codec.fit(Config(), [saved(dark), saved(light)])
    again = Codec.from_json(Config(), codec.to_json())
    pixels = again.encode([saved(dark), saved(light)])[0]["pixels"]
    assert pixels.shape == (2, 4, 4, 1)
    assert [int(each.max()) for each in pixels] == [63, 255]


def test_a_photo_that_says_how_to_turn_it_is_turned() -> None:
    pixels = noise(8, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor lay on its side
    turned = saved(Image.fromarray(pixels), "PNG", exif=exif)
    codec = Codec.fit(Config(), [turned])
    assert codec.size == (6, 8)
    np.testing.assert_array_equal(codec.form.pixels(turned), np.rot90(pixels, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_photo_with_damaged_exif_is_taken_as_it_lies() -> None:
    pixels = noise(8, 6)
    damaged = saved(Image.fromarray(pixels), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    np.testing.assert_array_equal(Codec.fit(Config(), [damaged]).form.pixels(damaged), pixels)


def test_large_photos_are_not_trained_on_at_their_full_size_unless_told() -> None:
    photo = saved(np.zeros((600, 800, 3), dtype=np.uint8))
    assert Codec.fit(Config(), [photo]).size == (168, 224)
    assert Codec.fit(Config(size=(600, 800)), [photo]).size == (600, 800)


def test_D8_sixteen_bits_of_grey_are_scaled_not_clipped_to_white() -> None:
    ramp = np.linspace(0, 65535, 48).astype(np.uint16).reshape(8, 6)
    data = Codec.parse(saved(ramp))
    codec = Codec.fit(Config(), [data])
    pixels = np.asarray(codec.encode([data])[0]["pixels"])[0, :, :, 0].ravel()
    assert codec.channels == 1
    assert (np.diff(pixels.astype(int)) > 0).all()
    assert (pixels[0], pixels[-1]) == (0, 255)


@pytest.mark.parametrize("kind", [(1, 1), (1, 50), (50, 1)])
def test_D8_a_picture_of_one_pixel_or_one_row_goes_through(kind: tuple[int, int]) -> None:
    data = Codec.parse(saved(noise(*kind)))
    for config in (Config(), Config(size=(4, 4))):
        codec = Codec.fit(config, [data])
        assert np.asarray(codec.encode([data, None])[0]["pixels"]).shape == (2, *(config.size or kind), 3)
        assert np.isfinite([*codec.form.mean, *codec.form.std]).all()
        assert min(codec.form.std) > 0


def test_a_size_that_no_batch_has_room_for_is_refused() -> None:
    assert read(Config, {"size": [4096, 1]})[1] == []
    for size in ([4097, 1], [1, 4097], [0, 1]):
        assert "at most 4,096" in read(Config, {"size": size})[1][0].expected


def test_size_and_channels_are_those_of_most_training_rows_unless_said() -> None:
    values = [saved(noise(4, 5)), saved(noise(8, 6)), saved(noise(8, 6))]
    assert Codec.fit(Config(), values).size == (8, 6)
    chosen = Codec.fit(Config(size=(3, 2), channels=1), values)
    assert np.asarray(chosen.encode(values)[0]["pixels"]).shape == (3, 3, 2, 1)


def test_a_column_without_any_picture_is_refused_by_name() -> None:
    with clear_error("'photo'", error=DataError):
        Codec.fit(Config(column="photo"), [None, None])


# ------------------------------------------------------------------------------------------------------------- augment

EVERYTHING = Augment(flip=True, crop=2, zoom=0.4, policy=Policy(), jitter=0.3, erase=0.5, mixup=0.4, cutmix=0.4)


def field_of(setting: Augment) -> Field:
    config = Config(augment=setting)
    return Field("x", config, Codec.fit(config, [saved(noise(seed=seed)) for seed in range(4)]))


def batch_of(rows: int = 6) -> dict[str, torch.Tensor]:
    pixels = np.stack([noise(seed=seed) for seed in range(rows)])
    return {"x.pixels": torch.from_numpy(pixels), "y.index": torch.arange(rows) % 3, "row": torch.arange(rows)}


def changed(setting: Augment, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return augment(field_of(setting), batch_of())


@pytest.mark.parametrize(
    "setting",
    [
        Augment(flip=True),
        Augment(crop=3),
        Augment(jitter=0.5),
        Augment(erase=0.9),
        Augment(mixup=1.0),
        Augment(zoom=0.5),
        Augment(policy=Policy()),
        Augment(cutmix=1.0),
        EVERYTHING,
    ],
)
def test_augmentations_keep_shape_and_type_and_repeat_under_a_seed(setting: Augment) -> None:
    first, again, other = changed(setting), changed(setting), changed(setting, seed=1)
    assert first["x.pixels"].shape == (6, 8, 6, 3)
    assert first["x.pixels"].dtype == torch.uint8
    assert torch.equal(first["x.pixels"], again["x.pixels"])
    assert not torch.equal(first["x.pixels"], other["x.pixels"])
    assert not torch.equal(first["x.pixels"], batch_of()["x.pixels"])
    assert torch.equal(first["y.index"], batch_of()["y.index"])


def test_nothing_changes_by_default_and_no_random_number_is_drawn() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    batch = batch_of()
    assert augment(field_of(Augment()), batch) is batch
    assert torch.equal(torch.get_rng_state(), state)


def test_the_batch_that_came_in_is_not_changed() -> None:
    batch = batch_of()
    augment(field_of(EVERYTHING), batch)
    assert torch.equal(batch["x.pixels"], batch_of()["x.pixels"])


def test_flip_turns_about_half_and_crop_only_shifts() -> None:
    pixels = torch.arange(6, dtype=torch.uint8).expand(200, 1, 6)[..., None]
    torch.manual_seed(0)
    turned = augment(field_of(Augment(flip=True)), {"x.pixels": pixels})["x.pixels"]
    assert 60 < int((turned[:, 0, 0, 0] == 5).sum()) < 140
    shifted = augment(field_of(Augment(crop=2)), {"x.pixels": pixels})["x.pixels"][:, 0, :, 0].int()
    steps = shifted.diff(dim=1)
    assert ((steps == 1) | (steps == 0)).all()
    assert {int(row[2]) for row in shifted} == {0, 1, 2, 3, 4}


def test_erase_wipes_a_rectangle_in_a_share_of_the_pictures() -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(400, 20, 20, 1, dtype=torch.uint8)
    share = (augment(field_of(Augment(erase=0.25)), {"x.pixels": pixels})["x.pixels"] == 127).float().mean((1, 2, 3))
    assert 0.15 < float((share > 0).float().mean()) < 0.35
    assert share.max() < 0.45


@pytest.mark.parametrize(
    "setting", [Augment(crop=4), Augment(flip=True), Augment(zoom=0.4), Augment(crop=3, flip=True, zoom=0.3)]
)
def test_what_was_done_to_the_geometry_stands_beside_the_picture(setting: Augment) -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(32, 40, 60, 1, dtype=torch.uint8)
    pixels[:, 16:20, 24:28] = 255  # its middle is at (26 / 60, 18 / 40)
    batch = augment(field_of(setting), {"x.pixels": pixels})
    light = batch["x.pixels"].float()[..., 0]
    x = (light * (torch.arange(60) + 0.5)).sum((1, 2)) / light.sum((1, 2)) / 60
    y = (light * (torch.arange(40)[:, None] + 0.5)).sum((1, 2)) / light.sum((1, 2)) / 40
    told = batch["x.affine"] @ torch.tensor([26 / 60, 18 / 40, 1.0])  # (B, 2)
    assert len(told.unique(dim=0)) > 1
    assert (told - torch.stack([x, y], dim=1)).abs().max() < 0.004


def test_the_size_that_a_picture_had_is_kept_where_it_is_asked_for() -> None:
    config = Config(size=(8, 6), sizes=True)
    turned = saved(Image.fromarray(noise(5, 9)), "JPEG", exif=exif_turned())
    columns, _ = Codec.fit(config, [saved(noise())]).encode([saved(noise(30, 20)), turned, None])
    assert columns["size"].tolist() == [[30, 20], [9, 5], [8, 6]]
    assert "size" not in Codec.fit(Config(size=(8, 6)), [saved(noise())]).encode([None])[0]


def exif_turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return exif


@pytest.mark.parametrize("wrong", [{"crop": -1}, {"jitter": -0.1}, {"erase": 1.5}, {"mixup": -1}])
def test_wrong_augmentations_are_refused(wrong: dict[str, Any]) -> None:
    assert len(read(Augment, wrong, "inputs.x.augment")[1]) == 1


def test_mixup_loss_is_the_blend_of_the_losses_against_both_targets() -> None:
    codec = category.Codec.fit(category.Config(), ["a", "b", "c"])
    target = Field("y", category.Config(), codec)
    backbone, _ = read(models.backbones.load("mlp").Config, {"kind": "mlp", "width": 8, "layers": 1})
    built = models.build(
        [field_of(Augment(mixup=0.5))], [target], backbone, encoders={}, loss=Loss(), seed=0, device=torch.device("cpu")
    ).eval()
    nn.init.normal_(built.head(target).readout.linear.weight)
    torch.manual_seed(0)
    batch = built.augment(batch_of())
    share, partner = float(batch["mix.share"]), batch["mix.partner"]
    assert 0 < share < 1
    before = batch_of()["x.pixels"].float()
    assert torch.equal(batch["x.pixels"], (share * before + (1 - share) * before[partner]).to(torch.uint8))
    plain = {key: value for key, value in batch.items() if not key.startswith("mix.")}
    own = built.losses(plain)["y"]
    other = built.losses(plain | {"y.index": plain["y.index"][partner]})["y"]
    assert torch.allclose(built.losses(batch)["y"], share * own + (1 - share) * other)
    assert not torch.allclose(own, other)


# ------------------------------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize(("patch", "grid"), [(1, (8, 6)), (2, (4, 3)), (4, (2, 2)), (5, (2, 2)), (16, (1, 1))])
def test_a_picture_becomes_a_grid_of_patches_also_where_it_does_not_divide(patch: int, grid: tuple[int, int]) -> None:
    field = field_of(Augment())
    encoder = Encoder(field.config, field.codec, 8, patch)
    models.initialize(encoder, 0)
    features = encoder(batch_of(), "x")
    assert features.grid == grid
    assert features.values.shape == (6, grid[0] * grid[1], 8)
    assert encoder.positions == grid[0] * grid[1]


def test_pixels_are_normalized_by_the_training_rows() -> None:
    field = field_of(Augment())
    values = [saved(noise(seed=seed)) for seed in range(4)]
    pixels = np.asarray(field.codec.encode(values)[0]["pixels"]) / 255
    normal = (pixels - field.codec.form.mean) / field.codec.form.std
    assert np.allclose(normal.mean((0, 1, 2)), 0, atol=1e-9)
    assert np.allclose(normal.std((0, 1, 2)), 1)


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with clear_error("pillow", "pip install 'dougong[data]'"):
        pictures.opened(b"")
