"""Video: clips of any length become so many frames; what training changes is the same for all frames of a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dougong import model as models
from dougong import recipe as recipes
from dougong.core.config import read
from dougong.core.errors import DataError, RecipeError
from dougong.fields import Field, category, video
from dougong.fields.video import Codec, Config, Encoder, augment
from dougong.layers.losses import Loss
from dougong.layers.pictures import Augment, Policy
from tests.clear_error import check_clear, clear_error
from tests.data.test_clips import png


def clip(frames: int = 6, height: int = 6, width: int = 8) -> list[bytes]:
    return [png(20 * index, height, width) for index in range(frames)]


def field_of(**settings: Any) -> Field:
    config = Config(**settings)
    return Field("x", config, Codec.fit(config, [clip(), clip(3)]))


def noise(rows: int, field: Field, frames: int | None = None) -> dict[str, torch.Tensor]:
    shape = (rows, frames or field.config.kept, *field.codec.size, field.codec.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return {"x.pixels": torch.from_numpy(pixels), "y.index": torch.arange(rows) % 2, "row": torch.arange(rows)}


def levels(pixels: Any) -> list[int]:  # (F, H, W, C)
    return [int(frame.mean()) for frame in pixels]


# --------------------------------------------------------------------------------------------------------------- codec


def test_clips_of_any_length_have_as_many_frames_and_a_missing_one_is_black() -> None:
    codec = field_of(frames=4).codec
    columns, counts = codec.encode([codec.parse(clip(8), codec.config), clip(4), clip(2), clip(1), None])
    pixels = np.asarray(columns["pixels"])
    assert pixels.shape == (5, 4, 6, 8, 3)
    told = [[20, 60, 100, 140], [0, 20, 40, 60], [0, 0, 20, 20], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert [levels(row) for row in pixels] == told
    assert counts == {"missing": 1}


def test_of_several_candidates_the_middle_one_is_measured_and_any_is_trained_on() -> None:
    field = field_of(frames=2, candidates=3)
    columns, _ = field.codec.encode([clip(6)] * 100)
    assert levels(np.asarray(columns["pixels"])[0]) == [0, 20, 40, 60, 80, 100]
    assert levels(field.codec.decode(columns)[0]) == [20, 80]
    batch = {"x.pixels": torch.from_numpy(np.asarray(columns["pixels"]))}
    torch.manual_seed(0)
    drawn = augment(field, batch)["x.pixels"].float().mean((2, 3, 4))  # (100, 2)
    assert {int(value) for value in drawn[:, 0]} == {0, 20, 40}
    assert {int(value) for value in drawn[:, 1]} == {60, 80, 100}
    encoder = models.initialize
    built = Encoder(field.config, field.codec, 8, 4)
    encoder(built, 0)
    middle = {"x.pixels": batch["x.pixels"][:, [1, 4]]}
    torch.testing.assert_close(built(batch, "x").values, built(middle, "x").values)


def test_size_and_channels_are_those_of_most_frames_none_larger_than_112() -> None:
    assert field_of().codec.size == (6, 8)
    large = Codec.fit(Config(), [clip(2, 448, 336)])
    assert (large.size, large.channels) == ((112, 84), 3)
    assert Codec.fit(Config(size=(5, 5), channels=1), [clip()]).form.blank.shape == (5, 5, 1)


def test_a_clip_takes_about_as_many_bytes_as_are_told_before_it_is_read() -> None:
    value, config = clip(3), Config(frames=4)
    files = sum(map(len, value))
    assert Codec.footprint(value, config) == files + 4 * 6 * 8 * 3
    assert Codec.footprint(value, Config(frames=2, size=(10, 10), channels=1)) == files + 2 * 100
    for unknown in ("walk", b"GIF", None, [], ["x"]):
        assert Codec.footprint(unknown, config) == 4 * 112 * 112 * 3


def test_a_column_without_any_clip_is_refused_by_name() -> None:
    with clear_error("'walk'", error=DataError):
        Codec.fit(Config(column="walk"), [None, None])


def test_more_frames_than_anybody_needs_are_refused() -> None:
    for key, most in (("frames", 256), ("candidates", 16)):
        assert read(Config, {key: most})[1] == []
        assert f"at most {most}" in read(Config, {key: most + 1})[1][0].expected


# ------------------------------------------------------------------------------------------------------------- augment


@pytest.mark.parametrize("setting", [
    Augment(flip=True), Augment(crop=2), Augment(zoom=0.3), Augment(jitter=0.5), Augment(erase=0.9),
    Augment(policy=Policy(operations=3, magnitude=0.8)), Augment(mixup=1.0), Augment(cutmix=1.0),
])  # fmt: skip
def test_all_frames_of_a_clip_are_changed_alike(setting: Augment) -> None:
    """Frames that are equal stay equal; clips are changed each in its own way, and repeatably."""
    field = field_of(frames=4, augment=setting)
    still = {key: value.clone() for key, value in noise(16, field).items()}
    still["x.pixels"] = still["x.pixels"][:, :1].repeat(1, 4, 1, 1, 1)
    torch.manual_seed(1)
    changed = augment(field, still)
    assert changed["x.pixels"].shape == still["x.pixels"].shape
    assert changed["x.pixels"].dtype == torch.uint8
    assert not torch.equal(changed["x.pixels"], still["x.pixels"])
    inside = changed["x.pixels"][:, :, 1:-1] if setting.policy else changed["x.pixels"]  # sharpness looks over the rim
    assert all(torch.equal(inside[:, :1], inside[:, [frame]]) for frame in range(4))
    assert ("mix.partner" in changed) == (setting.blends is not None)
    torch.manual_seed(1)
    assert torch.equal(augment(field, still)["x.pixels"], changed["x.pixels"])


def test_colours_are_changed_by_all_frames_together_not_one_by_one() -> None:
    """What is dark at first and light later stays so: contrast is not stretched frame by frame."""
    field = field_of(frames=2, augment=Augment(policy=Policy(operations=4, magnitude=1.0)))
    batch = noise(64, field)
    batch["x.pixels"] = torch.stack([batch["x.pixels"][:, 0] // 4, 128 + batch["x.pixels"][:, 1] // 4], dim=1)
    torch.manual_seed(0)
    means = augment(field, batch)["x.pixels"].float().mean((2, 3, 4))
    assert (means[:, 0] - means[:, 1]).abs().median() > 30


def test_nothing_changes_by_default_and_no_random_number_is_drawn() -> None:
    field = field_of(frames=4)
    torch.manual_seed(3)
    state, batch = torch.get_rng_state(), noise(2, field)
    assert augment(field, batch) is batch
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize(("settings", "grid"), [
    ({"frames": 4, "patch": 2}, (4, 3, 4)), ({"frames": 4, "patch": 1, "tubelet": 2}, (2, 6, 8)),
    ({"frames": 5, "patch": 4, "tubelet": 2}, (3, 2, 2)), ({"frames": 1, "patch": 16, "tubelet": 3}, (1, 1, 1)),
])  # fmt: skip
def test_a_clip_becomes_a_grid_of_blocks_also_where_it_does_not_divide(
    settings: dict[str, Any], grid: tuple[int, ...]
) -> None:
    field = field_of(**settings)
    encoder = Encoder(field.config, field.codec, 8, 4)
    models.initialize(encoder, 0)
    features = encoder(noise(3, field), "x")
    assert (features.grid, encoder.axes) == (grid, 3)
    assert features.values.shape == (3, encoder.positions, 8)


def test_frame_by_frame_the_features_are_those_of_the_grid_below_each_other() -> None:
    whole, apart = field_of(frames=4, patch=2), field_of(frames=4, patch=2, per_frame=True)
    encoders = [Encoder(field.config, field.codec, 8, 4) for field in (whole, apart)]
    for encoder in encoders:
        models.initialize(encoder, 0)
    together, each = (encoder(noise(3, whole), "x") for encoder in encoders)
    assert (each.grid, encoders[1].axes, encoders[1].positions, encoders[1].parts) == ((3, 4), 2, 12, 4)
    torch.testing.assert_close(each.values.reshape(3, 48, 8), together.values)


@pytest.mark.parametrize("kind", ["convnet", "transformer"])
@pytest.mark.parametrize("over_time", ["recurrent", "transformer", "mlp", "convnet"])
def test_a_backbone_of_its_own_reads_each_frame_and_another_one_the_frames(kind: str, over_time: str) -> None:
    """A clip backwards is another clip, but its frames are read alike wherever they stand."""
    field, target = (
        field_of(frames=4, per_frame=True),
        Field("y", category.Config(), category.Codec.fit(category.Config(), ["a", "b"])),
    )
    own, config = (models.backbones.load(name).PRESETS["tiny"] for name in (kind, over_time))
    built = models.build(
        [field], [target], config, encoders={"x": own}, loss=Loss(), seed=0, device=torch.device("cpu")
    ).eval()
    batch = noise(3, field)
    arrived = built.arrival(field)(batch)
    assert arrived.values.shape == (3, 4, config.width)
    assert arrived.mask.all()
    assert built.arrival(field).positions == 4
    backwards = built.arrival(field)({**batch, "x.pixels": batch["x.pixels"].flip(1)})
    torch.testing.assert_close(backwards.values.flip(1), arrived.values)
    assert built(batch).values.isfinite().all()


RECIPE = {
    "name": "x",
    "data": {"train": "x.csv"},
    "outputs": {"y": "category"},
    "train": {"steps": 1},
}


def test_frames_read_one_by_one_need_an_encoder_that_reads_them() -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load({**RECIPE, "inputs": {"x": {"type": "video", "per_frame": True}}})
    check_clear(str(caught.value), "inputs.x.per_frame", "an encoder that reads each frame")
    recipes.load({**RECIPE, "inputs": {"x": {"type": "video", "per_frame": True, "encoder": "convnet"}}})


def test_attention_is_divided_only_over_a_clip_that_is_read_by_itself() -> None:
    divided = {"kind": "transformer", "divided": True}
    frames = {"type": "video", "per_frame": True, "encoder": divided}
    for inputs, model, key in (
        ({"x": "video", "z": "number"}, divided, "model"),
        ({"x": "image"}, divided, "model"),
        ({"x": frames}, "recurrent", "inputs.x.encoder"),
    ):
        with pytest.raises(RecipeError) as caught:
            recipes.load({**RECIPE, "inputs": inputs, "model": model})
        check_clear(str(caught.value), f"{key}.divided", "false where no clip is read by itself")
    recipes.load({**RECIPE, "inputs": {"x": "video"}, "model": divided})
    recipes.load({**RECIPE, "inputs": {"x": {"type": "video", "encoder": divided}, "z": "number"}, "model": "mlp"})


def test_without_a_word_a_clip_is_read_by_a_convnet() -> None:
    assert recipes.load({**RECIPE, "inputs": {"x": "video"}}).model.kind == "convnet"
    assert recipes.load({**RECIPE, "inputs": {"x": "video", "z": "number"}}).model.kind == "transformer"
    with pytest.raises(RecipeError) as caught:
        recipes.load({**RECIPE, "inputs": {"x": "video", "z": "number"}, "model": "convnet"})
    check_clear(str(caught.value), "model.kind", "the video 'x' beside other inputs")


def test_a_missing_value_is_none_and_a_wrong_one_is_told() -> None:
    assert video.Codec.parse("") is video.Codec.parse(None) is None
    with pytest.raises(ValueError, match="expected a clip or a list of pictures, found int"):
        video.Codec.parse(3)
