"""Pictures written code by code: choices that follow the scores, the same with a cache as without, guidance, and learning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dougong.backbones import autoregressive
from dougong.backbones.autoregressive import Config, chosen
from dougong.core.errors import DougongError
from dougong.fields import Whole
from dougong.layers.features import Features
from dougong.layers.noise import drawn
from tests.backbones.conftest import filled
from tests.backbones.test_makers import asked, built, seeds

SMALL = Config(width=16, layers=2, heads=2, channels=16, levels=(4, 3))


def written(model: Any, condition: Features, noise: Tensor, config: Config | None = None) -> Tensor:
    """The codes that are chosen while pictures are made, (B, T)."""
    found: list[Tensor] = []
    draw = model.codes.pictures
    model.codes.pictures = lambda codes: found.append(codes) or draw(codes)
    with torch.no_grad():
        model.make(condition, noise, config)
    model.codes.pictures = draw
    return found[0]


def scores(model: Any, condition: Features, codes: Tensor) -> Tensor:
    """(B, T, V): of each code, all before it read at once."""
    start = codes.new_full((len(codes), 1), model.count)
    x = model.after(condition, model.written(torch.cat([start, codes[:, :-1]], dim=1)))
    with torch.no_grad():
        return model.scores(model.sequence(x, causal=True).values[:, -codes.shape[1] :])


def test_codes_are_chosen_as_often_as_their_shares_say() -> None:
    shares = torch.tensor([0.5, 0.2, 0.0, 0.3])
    chances = (torch.arange(1000) + 0.5) / 1000
    found = chosen(shares.log().expand(1000, 4), None, chances)
    assert torch.bincount(found[:, 0], minlength=4).tolist() == [500, 200, 0, 300]
    two = chosen(shares.log().expand(1000, 4), 2, chances)
    assert torch.bincount(two[:, 0], minlength=4).tolist() == [625, 0, 0, 375]
    ends = chosen(torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, 3), None, torch.tensor([0.0, 1.0]))
    assert ends.flatten().tolist() == [1, 1]


@pytest.mark.parametrize("positions", [0, 1, None])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_codes_are_those_that_reading_all_before_them_at_once_would_choose(
    positions: int | None, guidance: float
) -> None:
    model, condition = built(replace(SMALL, top_k=5, temperature=0.7), positions), asked(positions)
    noise = seeds(model).noise
    codes = written(model, condition, noise, replace(model.config, guidance=guidance))
    told = scores(model, condition, codes)
    if positions != 0:
        untold = scores(model, replace(condition, mask=condition.mask & False), codes)
        told = untold + guidance * (told - untold)
    for place in range(codes.shape[1]):
        expected = chosen(told[:, place] / 0.7, 5, torch.special.ndtr(noise[:, place]))
        assert torch.equal(codes[:, place : place + 1], expected), place


def test_a_code_costs_one_at_first_and_rows_that_are_not_told_cost_what_they_cost_without_inputs() -> None:
    model, condition = built(SMALL, 1, stirred=False), asked(1)
    values, draws = torch.rand(4, 3, 7, 10) * 2 - 1, seeds(model)
    pictures, _ = model.codes(values)
    error = (pictures - values).square().flatten(1).mean(1)
    torch.testing.assert_close(model.losses(values, condition, draws) - error, torch.ones(4))
    model = built(SMALL, 1)
    untold = model.losses(values, condition, replace(draws, told=torch.zeros(4)))
    nothing = replace(condition, mask=condition.mask & False)
    torch.testing.assert_close(untold, model.losses(values, nothing, replace(draws, told=torch.ones(4))))


def test_a_tiny_one_learns_two_kinds_of_picture_and_makes_the_one_that_is_asked_for() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        model: Any = autoregressive.Backbone(replace(SMALL, patch=2), positions=1, shape=(1, 4, 4))
    filled(model)
    kind = torch.arange(64) % 2
    condition = Features(torch.eye(2, 16)[kind][:, None] * 4, torch.ones(64, 1, dtype=torch.bool))
    stripes = torch.tensor([-0.6, 0.6]).repeat(2).expand(64, 1, 4, 4)
    values = torch.where((kind == 0)[:, None, None, None], stripes, stripes.transpose(2, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        model.losses(values, condition, drawn(64, model.noise_shape, torch.device("cpu"))).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        made = model.eval().make(condition, torch.randn(64, *model.noise_shape))
    assert ((made - values).abs().flatten(1).mean(1) < 0.2).float().mean() > 0.95


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 30, "heads": 4}, r"model\.width = 30: expected a multiple of heads \(4\)"),
        ({"levels": ()}, r"model\.levels = \[\]: expected numbers whose product"),
        ({"levels": (256, 256, 2)}, r"model\.levels = \[256, 256, 2\]: .*at most 65,536.*use levels: \[8, 8, 8\]"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DougongError, match=said):
        Config(**settings)


def test_guidance_where_no_input_is_told_is_refused() -> None:
    found = list(autoregressive.check("model", Config(guidance=2.0), Whole({}, {}, {}, None, None)))
    assert [problem.key for problem in found] == ["model.guidance"]
