from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from dougong.inference import beams
from dougong.inference.generate import Config, write
from dougong.model import Model
from tests.small_runs import run

ANSWERING = [
    "replies", "replies-recurrent", "replies-encoder-decoder", "replies-recurrent-encoder-decoder", "replies-copied",
    "replies-copied-decoder",
]  # fmt: skip


def rows_of(name: str, count: int) -> tuple[Model, Any]:
    trained = run(name)
    parsed = [
        trained.read(row, 0) for row in ["even number 4", "odd", "even third number 12", "third number 9", ""][:count]
    ]
    return trained.model, trained.encode(parsed)


def cost(model: Model, row: Any, tokens: list[int]) -> float:
    """Nats of a text and its end, from a full pass without a cache."""
    assert model.written is not None
    name, end = model.written.name, model.written.codec.end
    told = {f"{name}.tokens": torch.tensor([[*tokens, end]]), f"{name}.tokens.length": torch.tensor([len(tokens) + 1])}
    with torch.inference_mode():
        return float(model.predict(row | told)[name]["nats"].sum())


@pytest.mark.parametrize("name", ANSWERING)
def test_rows_side_by_side_are_written_as_each_alone(name: str) -> None:
    model, batch = rows_of(name, 5)
    for config in (Config(max_tokens=12, temperature=0.0), Config(max_tokens=12, temperature=0.0, beams=3)):
        with torch.inference_mode():
            together = write(model, batch, [[model.written.codec.end]] * 5, config)
            alone = [
                write(
                    model, {key: value[i : i + 1] for key, value in batch.items()}, [[model.written.codec.end]], config
                )[0]
                for i in range(5)
            ]
        assert together == alone


@pytest.mark.parametrize("name", ANSWERING)
def test_many_beams_find_the_best_of_all_short_texts(name: str) -> None:
    model, batch = rows_of(name, 1)
    size, most = model.written.codec.vocab_size, 2
    with torch.inference_mode():
        (found,) = write(
            model,
            batch,
            [[model.written.codec.end]],
            Config(max_tokens=most, temperature=0.0, beams=64, length_penalty=0.0),
        )
    words = [token for token in range(size) if token != model.written.codec.end]
    short = [[], *([word] for word in words)]
    best = min(short, key=lambda tokens: cost(model, batch, tokens))
    assert cost(model, batch, found) <= cost(model, batch, best) + 1e-4 or len(found) == most


def test_one_beam_is_greedy_and_more_beams_never_cost_more() -> None:
    model, batch = rows_of("replies-encoder-decoder", 3)
    end = model.written.codec.end
    with torch.inference_mode():
        greedy = write(model, batch, [[end]] * 3, Config(max_tokens=12, temperature=0.0))
        wide = write(model, batch, [[end]] * 3, Config(max_tokens=12, temperature=0.0, beams=8, length_penalty=0.0))
    for index, (first, second) in enumerate(itertools.zip_longest(greedy, wide)):
        row = {key: value[index : index + 1] for key, value in batch.items()}
        assert cost(model, row, second) <= cost(model, row, first) + 1e-4


def test_a_search_keeps_only_the_best_that_ended() -> None:
    one = beams.Search([(0.0, [])])
    for score in (-3.0, -1.0, -2.0):
        one.end(score, [int(-score)], 2)
    assert one.ended == [(-1.0, [1]), (-2.0, [2])]
