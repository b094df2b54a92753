"""Numbers: whatever the column holds, what a model sees is finite, and predictions come back in the data's unit."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.core.config import read
from dougong.core.errors import DataError
from dougong.fields import number
from dougong.fields.number import Codec, Config, Encoder, Head
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from tests.clear_error import clear_error

HUGE = float(np.finfo(np.float32).max)  # the largest that cleaning lets through
KINDS = ("standard", "quantile", "log", "none")
Normalize = Literal["standard", "quantile", "log", "none"]


def encoded(codec: Codec, values: list[float | None]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(codec.encode(values)[0]["normalized"]))


def features_of(codec: Codec, values: list[float | None]) -> torch.Tensor:
    encoder = Encoder(codec.config, codec, 8, 4)
    encoder.reset_parameters()
    return encoder({"x.normalized": encoded(codec, values)}, "x").values


@pytest.mark.parametrize("normalize", KINDS)
def test_restore_undoes_normalize(normalize: Normalize) -> None:
    values = np.concatenate([np.random.default_rng(0).lognormal(3, 2, 2000), [-50.0, 0.0, 7.25]])
    codec = Codec.fit(Config(normalize=normalize), values.tolist())
    back = codec.restore(codec.normalize(values))
    assert np.allclose(back, values, rtol=1e-9, atol=1e-9)
    single = codec.restore(codec.normalize(values).astype(np.float32))
    assert np.abs(single - values).max() <= 2e-5 * np.abs(values).max()


def test_standard_has_mean_0_and_deviation_1_also_far_from_zero() -> None:
    values = 1e9 + np.random.default_rng(0).normal(0, 3, 5000)
    normal = np.asarray(Codec.fit(Config(), values.tolist()).encode(values.tolist())[0]["normalized"])
    assert normal.dtype == np.float32
    assert abs(normal.mean()) < 1e-3
    assert normal.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1e-30, 1e-100])
def test_a_column_of_tiny_numbers_is_not_taken_for_a_constant(scale: float) -> None:
    values = (np.random.default_rng(0).random(1000) * scale).tolist()
    for column in (values, [value - scale / 2 for value in values], [scale, -scale] * 500):
        normal = np.asarray(Codec.fit(Config(), column).encode(column)[0]["normalized"])
        assert abs(normal.mean()) < 1e-3
        assert normal.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, -7e-300, 1e9 + 0.1, 1e300])
def test_a_constant_column_is_normalized_to_zero(value: float) -> None:
    codec = Codec.fit(Config(), [value] * 1001)
    assert np.abs(np.asarray(codec.encode([value])[0]["normalized"])).max() < 1e-3
    assert codec.std == 1.0


def test_quantile_spreads_any_scale_evenly_over_minus_1_to_1() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 4, 5000)).tolist()
    normal = np.asarray(Codec.fit(Config(normalize="quantile"), values).encode([*values, 1e30, -1e30])[0]["normalized"])
    assert np.histogram(normal[:-2], bins=4, range=(-1, 1))[0] == pytest.approx([1250] * 4, rel=0.05)
    assert normal[-2:].tolist() == [1, -1]


@pytest.mark.parametrize("normalize", KINDS)
@pytest.mark.parametrize("value", [0.0, 5.0, -1e30, HUGE, 1e-30])
def test_D7_a_constant_column_is_finite_and_comes_back(normalize: Normalize, value: float) -> None:
    codec = Codec.fit(Config(normalize=normalize), [value] * 20)
    assert encoded(codec, [value, None, value + 1, HUGE, -HUGE])[[0, 2, 3, 4]].isfinite().all()
    assert features_of(codec, [value, None, value + 1, HUGE, -HUGE]).isfinite().all()
    back = codec.restore(np.asarray(codec.encode([value])[0]["normalized"]))[0]
    assert back == pytest.approx(value, rel=1e-5, abs=1e-25)


@given(
    values=st.lists(st.floats(-HUGE, HUGE) | st.none(), min_size=1, max_size=30).filter(
        lambda v: any(x is not None for x in v)
    ),
    later=st.lists(st.floats(-HUGE, HUGE) | st.none(), max_size=5),
    normalize=st.sampled_from(KINDS),
    bins=st.sampled_from([0, 1, 4, 16, 256]),
)
@settings(max_examples=300)
def test_D7_what_a_model_sees_is_always_finite(
    values: list[float | None], later: list[float | None], normalize: Normalize, bins: int
) -> None:
    codec = Codec.fit(Config(normalize=normalize, bins=bins), values)
    seen = encoded(codec, [*values, *later])
    assert (seen.isnan() == torch.tensor([value is None for value in [*values, *later]])).all()
    assert not seen.isinf().any()
    assert features_of(codec, [*values, *later]).isfinite().all()
    assert np.isfinite(codec.restore(seen[~seen.isnan()].numpy())).all()
    assert Codec.from_json(codec.config, codec.to_json()).edges(bins) == codec.edges(bins)


def test_D7_an_outlier_that_squeezes_the_rest_into_one_float32_leaves_no_bin_without_width() -> None:
    values = [*np.linspace(1, 1000, 300).tolist(), 1e10]
    codec = Codec.fit(Config(), values)
    edges = np.asarray(codec.edges(16), dtype=np.float32)
    assert (np.diff(edges) > 0).all()
    assert features_of(codec, values).isfinite().all()


@pytest.mark.parametrize("value", [30.0, 1e4, -1e4, HUGE])
def test_D7_a_prediction_far_out_is_finite_for_every_normalization(value: float) -> None:
    for normalize in KINDS:
        codec = Codec.fit(Config(normalize=normalize), [1.0, 2.0, 1e6])
        assert np.isfinite(codec.restore(np.array([value, -value], dtype=np.float32))).all()


def test_missing_and_outside_values_are_counted() -> None:
    codec = Codec.fit(Config(), [1.0, None, 3.0])
    _, counts = codec.encode([None, 2.0, 4.0, 0.0, None])
    assert counts == {"missing": 2, "outside the training range": 2}
    assert codec.decode(codec.encode([None, 0.1])[0]) == [None, 0.1]


def test_a_missing_number_is_marked_and_is_not_the_mean() -> None:
    codec = Codec.fit(Config(), [1.0, 2.0, 3.0])
    missing, mean = features_of(codec, [None, 2.0])
    assert not torch.allclose(missing, mean)


def test_D7_a_column_without_any_number_is_refused_by_name() -> None:
    with clear_error("'age'", error=DataError):
        Codec.fit(Config(column="age"), [None, None])


def test_quantiles_come_from_a_sample_of_bounded_size_spread_over_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number, "SAMPLE", 500)
    codec = Codec.fit(Config(), (float(value) for value in range(100_000)))
    assert codec.mean == pytest.approx(49_999.5)
    assert codec.quantiles[128] == pytest.approx(50_000, rel=0.1)
    assert (codec.quantiles[0], codec.quantiles[-1]) == (0, 99_999)  # exact, whatever the sample holds
    assert codec.quantiles[-1] > 99_000


def test_bins_tell_where_a_number_stands() -> None:
    codec = Codec.fit(Config(bins=4), np.linspace(0, 1, 1001).tolist())
    assert len(codec.edges(4)) == 5
    encoder = Encoder(codec.config, codec, 8, 4)
    assert encoder.linear.in_features == 2 + 4
    assert read(Config, {"bins": -1})[1][0].key == "bins"


@pytest.mark.parametrize("value", ["3", [3], None, math.nan])
def test_parse_takes_what_cleaning_gives(value: object) -> None:
    if isinstance(value, str | list):
        with pytest.raises(ValueError, match="expected a number"):
            Codec.parse(value)
    else:
        assert Codec.parse(value) is value
    assert Codec.parse(True) == 1.0


@pytest.mark.parametrize("kind", ["auto", "mse", "mae", "huber"])
def test_a_missing_target_costs_nothing(kind: str) -> None:
    codec = Codec.fit(Config(), [1.0, 2.0, 3.0])
    setting, _ = read(Loss, {"kind": kind})
    head = Head(Config(), codec, 4, setting)
    torch.nn.init.normal_(head.readout.linear.weight)
    values = torch.randn(3, 1, 4)
    target = encoded(codec, [1.0, None, 3.0])
    all_rows = head.loss(Features(values, torch.ones(3, 1, dtype=torch.bool)), {"y.normalized": target}, "y")
    real = head.loss(
        Features(values[[0, 2]], torch.ones(2, 1, dtype=torch.bool)), {"y.normalized": target[[0, 2]]}, "y"
    )
    assert torch.allclose(all_rows, real)
    assert head.count({"y.normalized": target}, "y") == 2


def test_the_first_prediction_is_the_mean() -> None:
    codec = Codec.fit(Config(), [10.0, 20.0, 60.0])
    head = Head(Config(), codec, 4, Loss())
    head.readout.reset_parameters()
    features = Features(torch.randn(2, 1, 4), torch.ones(2, 1, dtype=torch.bool))
    with torch.no_grad():
        assert head.predict(features, {}, "y")["value"].tolist() == [30.0, 30.0]


LEVELS = (0.1, 0.5, 0.9)


def quantile_head(codec: Codec) -> Head:
    head = Head(codec.config, codec, 4, Loss())
    torch.nn.init.normal_(head.readout.linear.weight, std=3.0)
    torch.nn.init.zeros_(head.readout.linear.bias)
    return head


def test_quantiles_never_cross_and_the_median_is_the_answer() -> None:
    codec = Codec.fit(Config(quantiles=LEVELS, normalize="log"), np.exp(np.arange(9.0)).tolist())
    features = Features(torch.randn(50, 1, 4), torch.ones(50, 1, dtype=torch.bool))
    with torch.no_grad():
        found = quantile_head(codec).predict(features, {}, "y")
    assert (found["quantiles"].diff(dim=1) >= 0).all()
    assert torch.equal(found["value"], found["quantiles"][:, 1])
    [answer, *_] = codec.answers({name: value.numpy() for name, value in found.items()})
    assert list(answer["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert answer["value"] == answer["quantiles"]["0.5"]


def test_quantiles_that_are_learnt_are_those_of_the_data() -> None:
    values = np.random.default_rng(0).exponential(size=2000)
    codec = Codec.fit(Config(quantiles=LEVELS), values.tolist())
    head = Head(codec.config, codec, 2, Loss())
    head.readout.reset_parameters()
    features = Features(torch.ones(2000, 1, 2), torch.ones(2000, 1, dtype=torch.bool))
    batch = {"y.normalized": encoded(codec, values.tolist())}
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        (head.loss(features, batch, "y") / 2000).backward()
        optimizer.step()
    with torch.no_grad():
        found = head.predict(features, batch, "y")["quantiles"][0].numpy()
    assert found == pytest.approx(np.quantile(values, LEVELS), abs=0.05)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"quantiles": [0.9, 0.5]}, "levels that increase"),
        ({"quantiles": [0.1, 0.9]}, "0.5 among them"),
        ({"quantiles": [0.5, 1.5]}, "below 1"),
        ({"quantiles": [0.5], "loss": {"kind": "mae"}}, "none beside quantiles"),
        ({"calibrate": True}, "false without quantiles"),
    ],
)
def test_levels_that_say_nothing_are_refused(keys: dict[str, object], words: str) -> None:
    config, problems = read(Config, keys)
    assert config is None
    assert words in str(problems[0])


def test_quantiles_have_the_pinball_loss_and_no_other() -> None:
    codec = Codec.fit(Config(quantiles=LEVELS), [1.0, 2.0])
    with pytest.raises(ValueError, match="auto beside quantiles"):
        Head(codec.config, codec, 4, Loss(kind="mae"))
    names = [metric.name for metric in number.METRICS(codec.config, codec)]
    assert names[-3:] == ["pinball_loss", "coverage", "coverage_error"]
    assert number.METRICS(Config(quantiles=(0.5,)), codec)[-1].name == "pinball_loss"
