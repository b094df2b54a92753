"""From a recipe to its parts: how a step is cut."""

from __future__ import annotations

from typing import Any

import pytest

from dougong import assembly, recipe
from dougong.data.loader import Loader
from tests.small_runs import recipe_of


def loader_of(name: str, **train: Any) -> Loader:
    loaded = recipe.load(recipe_of(name) | {"train": {"steps": 1} | train})
    prepared = assembly.prepared_data(loaded)
    inputs, outputs = assembly.fitted(loaded, prepared)
    return assembly.loader_of(loaded, prepared.split("train"), inputs, outputs)


@pytest.mark.parametrize("shares", [True, False])
def test_fields_of_one_vocabulary_are_fitted_on_the_texts_of_both(shares: bool) -> None:
    bpe = {"type": "text", "tokenizer": {"kind": "bpe", "vocab_size": 270}, "max_length": 48}
    plain = recipe_of("replies") | {
        "inputs": {"text": bpe},
        "outputs": {"reply": bpe | {"shares": "text"} if shares else bpe},
    }
    loaded = recipe.load(plain)
    [text], [reply] = assembly.fitted(loaded, assembly.prepared_data(loaded))
    assert (text.codec.to_json() == reply.codec.to_json()) is shares


@pytest.mark.parametrize(
    ("train", "micro"),
    [
        ({"batch_size": 8}, 8),  # of 48 tokens each
        ({"batch_size": 85}, 85),
        ({"batch_size": 86}, 43),  # 4,128 tokens
        ({"batch_size": 87}, 44),
        ({"batch_size": 600}, 75),
        ({"batch_tokens": 8192}, 85),
        ({"batch_size": 600, "micro_batch": 400}, 400),
        ({"batch_size": 600, "accumulate": 2}, 0),
    ],
)
def test_a_step_of_a_language_model_on_a_cpu_is_cut_into_equal_pieces(
    train: dict[str, Any], micro: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "MICRO_NUMBERS", 4_096 * recipe.load(recipe_of("poems")).model.width)
    assert loader_of("poems", device="cpu", **train).micro_batch == micro


def test_rows_that_may_have_a_norm_of_the_batch_are_not_cut() -> None:
    loader = loader_of("reviews", device="cpu", batch_size=200)
    assert loader.micro_batch == 0
    assert len(loader.pieces(0, 0)) == 1
