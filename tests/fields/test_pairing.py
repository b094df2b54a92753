"""Pairing: two inputs of a row that find each other among the other rows."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dougong
from dougong import assembly
from dougong import recipe as recipes
from dougong.core.errors import Diverged, RecipeError
from dougong.data.duplicates import value_hashes
from dougong.evaluation.summary import headline
from dougong.fields import pairing
from dougong.fields.pairing import Config, Head
from dougong.inference import neighbours
from dougong.inference.predict import predictions
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.model import initialize
from tests.clear_error import check_clear
from tests.small_runs import BYTES, STEPS, TINY, home, run


def plain(data: Path | str, **more: Any) -> dict[str, Any]:
    return {
        "name": "pair",
        "data": {"train": str(data), "cache": str(home() / ".dougong")},
        "inputs": {"a": BYTES, "b": BYTES},
        "outputs": {"match": {"type": "pairing", "dim": 8}},
        "model": TINY,
        "train": STEPS,
    } | more


def mistakes(**more: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.load(plain("pairs.jsonl", **more))
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ the recipe


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"inputs": {"a": BYTES}}, ("inputs", "'a'", "two inputs for a pairing", "query: text, passage: text")),
        ({"inputs": {"a": "text", "b": "text", "c": "text"}}, ("inputs", "a, b, c", "two inputs")),
        ({"outputs": {"match": "pairing", "c": "number"}}, ("outputs.match", "only output", "two models")),
        ({"outputs": {"match": {"type": "pairing", "column": "x"}}}, ("outputs.match.column", "'x'", "no column")),
        ({"outputs": {"match": {"type": "pairing", "asks": "aa"}}}, ("outputs.match.asks", "'aa'", "one of a, b", "asks: a")),
        (
            {"outputs": {"match": {"type": "pairing", "interaction": "late"}}},
            ("outputs.match.asks", "null", "one of a, b beside interaction: late", "write asks: a"),
        ),
        (
            {"outputs": {"match": {"type": "pairing", "interaction": "late", "asks": "a", "pool": "max"}}},
            ("outputs.match", "pool", "'max'", "none beside interaction: late", "remove it"),
        ),
        (
            {"outputs": {"match": {"type": "pairing", "length_discount": 0.1}}},
            ("outputs.match", "length_discount", "0.1", "0 beside interaction: pooled", "use interaction: late"),
        ),
        ({"outputs": {"match": {"type": "pairing", "temperature": 3}}}, ("outputs.match.temperature", "3")),
        ({"inputs": {"a": BYTES, "b": "match", "match": "pairing"}}, ("inputs.match.type", "pairing only comes out")),
        (
            {"inputs": {"a": BYTES, "b": "text"}, "outputs": {"match": {"type": "pairing", "shared": True}}},
            ("outputs.match.shared", "true", "a and b differ", "make them alike"),
        ),
        ({"train": STEPS | {"accumulate": 2}}, ("train.accumulate", "2", "the whole batch at once", "lower batch_size")),
        ({"train": STEPS | {"micro_batch": 8}}, ("train.micro_batch", "8", "the whole batch at once", "lower batch_size")),
        ({"train": {"steps": 3, "micro_batch": 8}}, ("train.micro_batch", "8", "the whole batch at once")),
        ({"train": STEPS | {"loss": {"label_smoothing": 0.1}}}, ("train.loss.label_smoothing", "none", "pairing")),
        ({"train": STEPS | {"loss": "mse"}}, ("train.loss.kind", "'mse'", "one of auto", "pairing")),
        (
            {"inputs": {"a": "image", "b": "text"}, "model": {"kind": "convnet"}},
            ("model.kind", "convnet", "encoder of its own"),
        ),
    ],
)  # fmt: skip
def test_what_makes_no_pairing_is_refused(more: dict[str, Any], said: tuple[str, ...]) -> None:
    check_clear(mistakes(**more), *said)


def test_a_micro_batch_of_the_whole_batch_is_none() -> None:
    assert recipes.load(plain("x.csv", train=STEPS | {"micro_batch": 16})).train.micro_batch == 16


def test_each_input_alone_must_fit_a_backbone_with_a_longest_sequence() -> None:
    model = {**TINY, "positions": "learned", "max_length": 48}  # both joined would have 96
    assert recipes.load(plain("x.csv", model=model)).model.max_length == 48
    check_clear(mistakes(model=model | {"max_length": 47}), "model.max_length", "47", "at least the 48 tokens")


# ------------------------------------------------------------------------------------------------------- one encoder


def test_alike_inputs_share_one_encoder_and_one_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [{"a": f"left {'αβγ'[index % 3]} {index}", "b": f"right {'δεζ'[index % 3]} {index}"} for index in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chars = {"type": "text", "tokenizer": "char", "max_length": 32}
    built = {}
    for shared in ("auto", False):
        output = {"type": "pairing", "dim": 8, "shared": shared}
        recipe = recipes.load(plain(path, inputs={"a": chars, "b": chars}, outputs={"match": output}))
        prepared = assembly.prepared_data(recipe)
        inputs, outputs = assembly.fitted(recipe, prepared)
        built[shared] = recipe, prepared, inputs, assembly.build(recipe, inputs, outputs)
    _, _, (a, b), together = built["auto"]
    assert a.codec.to_json() == b.codec.to_json()
    assert together.arrival(a) is together.arrival(b)
    assert not hasattr(together, "roles")
    assert a.codec.decode(a.codec.encode(["left α right δ"])[0]) == ["left α right δ"]  # letters of either column
    _, _, (a, b), apart = built[False]
    assert a.codec.to_json() != b.codec.to_json()
    assert apart.arrival(a) is not apart.arrival(b)
    assert apart.roles.marks.weight.shape[0] == 2
    for shared, said in (("auto", "a and b: one encoder for both"), (False, "a and b: each its own encoder")):
        recipe, prepared, inputs, model = built[shared]
        loader = assembly.loader_of(recipe, prepared.split("train"), inputs, model.outputs)
        assert headline(recipe, model, prepared, loader).splitlines()[-1] == said


def test_unlike_inputs_have_their_own_encoders() -> None:
    for inputs, encoders in (
        ({"a": BYTES, "b": "number"}, {}),
        ({"a": BYTES, "b": {**BYTES, "lowercase": True}}, {}),
        ({"a": {**BYTES, "encoder": "mlp"}, "b": BYTES}, {"a"}),
    ):
        recipe = recipes.load(plain("x.csv", inputs=inputs))
        assert recipe.encoders.keys() == set(encoders)
        assert not recipe.shares_encoder
    both = {**BYTES, "encoder": "mlp"}
    assert recipes.load(plain("x.csv", inputs={"a": both, "b": {**both, "column": "c"}})).shares_encoder


# ---------------------------------------------------------------------------------------------------------- the data


def test_the_hashes_are_those_of_the_inputs_and_half_a_pair_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines: list[dict[str, Any]] = [{"n": index, "size": index % 5} for index in range(40)]
    lines[3]["n"] = lines[7]["size"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = recipes.load(
        plain(path, inputs={"x": {"type": "number", "column": "n"}, "y": {"type": "number", "column": "size"}})
        | {"data": {"train": str(path), "split": {"validation": 0.2}, "cache": str(tmp_path / "cache")}}
    )
    prepared = assembly.prepared_data(recipe)
    assert prepared.report.dropped == {"missing n": 1, "missing size": 1}
    for split in ("train", "validation"):
        columns = prepared.split(split).take(np.arange(prepared.split(split).rows))
        for side, name in enumerate("xy"):
            expected = value_hashes(np.asarray(columns[f"{name}.value"]).tolist()).view(np.int64)
            assert (np.asarray(columns["match.hashes"])[:, side] == expected).all()


# ---------------------------------------------------------------------------------------------------------- the head


def head_of(**settings: Any) -> Head:
    config = Config(dim=4, **settings)
    head = Head(config, pairing.Codec(config), 6, Loss())
    initialize(head, 0)
    return head


def test_the_temperature_is_learnt_within_its_bounds_or_stays() -> None:
    head = head_of(temperature=0.05).train()
    assert float(head.log_temperature.exp()) == pytest.approx(0.05)
    features = Features(torch.randn(8, 3, 6), torch.ones(8, 3, dtype=torch.bool))
    batch = {"m.hashes": torch.arange(8).reshape(4, 2)}
    for wild, kept in ((-9.0, 0.01), (3.0, 1.0)):
        with torch.no_grad():
            head.log_temperature.fill_(wild)
        head.loss(features, batch, "m").backward()
        assert float(head.log_temperature.exp()) == pytest.approx(kept)
        assert head.log_temperature.grad is not None
        assert head.log_temperature.grad.abs() > 0  # so that it can come back
    fixed = head_of(learn_temperature=False).train()
    fixed.loss(features, batch, "m").backward()
    assert fixed.log_temperature.grad is None


def test_embeddings_have_length_one_and_the_answer_is_their_cosine() -> None:
    head = head_of()
    features = Features(torch.randn(10, 3, 6), torch.ones(10, 3, dtype=torch.bool))
    with torch.no_grad():
        found = {key: value.numpy() for key, value in head.predict(features, {}, "m").items()}
    assert found["first"].shape == found["second"].shape == (5, 4)
    assert np.allclose(np.linalg.norm(found["first"], axis=1), 1, atol=1e-6)
    expected = torch.cosine_similarity(*map(torch.from_numpy, (found["first"], found["second"])))
    answers = pairing.Codec(Config()).answers(found)
    assert [answer["value"] for answer in answers] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 1 << 23])
@pytest.mark.parametrize("names", [["a", "b"], ["b", "a"]])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_a_late_interaction_is_the_mean_of_the_best_matches(
    penalty: float, names: list[str], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing, "SIMILARITIES", at_once)
    head = head_of(interaction="late", asks="a", length_discount=penalty)
    head.between(names)
    mask = torch.rand(10, 7) < 0.6  # (2B, T): padding stands anywhere
    mask[[0, 6]] = False  # a row that says nothing
    values = torch.randn(10, 7, 6)
    scores, (first, second) = torch.zeros(5, 5), ((values[:5], mask[:5]), (values[5:], mask[5:]))
    asking, found = (first, second) if names[0] == "a" else (second, first)
    for row, column in np.ndindex(5, 5):
        counts = 0.0
        for asked in head.linear(asking[0][row][asking[1][row]]):
            matches = [
                float(torch.cosine_similarity(asked, each, dim=0))
                for each in head.linear(found[0][column][found[1][column]])
            ]
            scores[row, column] += float(asked.norm()) * max([0.0, *matches])
            counts += float(asked.norm())
        scores[row, column] /= max(counts, 1e-12) * max(int(found[1][column].sum()), 1) ** penalty
    features = Features(values, mask)
    said = head.predict(features, {}, "m")
    torch.testing.assert_close(said["near"], scores.diagonal())
    sides = [said["first"], said["second"]] if names[0] == "a" else [said["second"], said["first"]]
    torch.testing.assert_close(pairing.late_scores(*sides, penalty), scores)
    numpy = [neighbours.together([side.detach().numpy()], penalty) for side in sides]
    ((_, at_search),) = neighbours._scores(*numpy)
    torch.testing.assert_close(torch.from_numpy(at_search), scores)
    loss = head.loss(features, {"m.hashes": torch.arange(10).reshape(5, 2)}, "m")
    loss.backward()
    assert head.linear.weight.grad is not None
    assert head.linear.weight.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------------------- measured


@pytest.mark.parametrize("name", ["pairs", "pairs-late"])
def test_the_ranks_of_a_split_are_those_of_brute_force_whatever_the_batches(name: str) -> None:
    trained = run(name)
    split = trained.prepared.split("train")
    found: dict[int, int] = {}
    for size in (7, 64):
        recipe = dataclasses.replace(trained.recipe, train=dataclasses.replace(trained.recipe.train, batch_size=size))
        plan = assembly.plan_of(recipe, split, trained.inputs, trained.outputs)
        ranks = {
            int(row): int(rank)
            for each in predictions(trained.model, plan, trained.autocast)
            for row, (rank,) in zip(each.rows, np.asarray(each.predictions["match"]["rank"]), strict=True)
        }
        assert found in ({}, ranks)
        found = ranks
    columns = split.take(np.arange(split.rows))
    texts = {
        field.name: field.codec.decode(
            {"tokens": columns[f"{field.name}.tokens"], "bytes": columns[f"{field.name}.bytes"]}
        )
        for field in trained.inputs
    }
    scores = np.array(
        [
            [answer["match"]["value"] for answer in trained.predict([{"text": text, "reply": reply} for reply in texts["reply"]])]
            for text in texts["text"][:12]
        ]
    )  # fmt: skip
    replies, rivals = np.array(texts["reply"]), scores.copy()
    for index, row in enumerate(rivals):
        row[replies == replies[index]] = -1  # a copy of what is right is no rival; what is as near as it goes before it
    expected = [1 + len(set(replies[row >= scores[index, index] - 1e-6])) for index, row in enumerate(rivals)]
    assert [found[row] for row in range(12)] == expected


def test_two_runs_are_compared_by_the_ranks_of_the_same_rows() -> None:
    (found,) = dougong.compare(run("pairs"), run("pairs-mlp"), metric="match.mrr")
    for name, estimate in found.estimates.items():
        assert estimate.value == run(name).metrics()["test"]["match.mrr"]["value"]
    assert found.pairs[0].difference == pytest.approx(
        found.estimates["pairs-mlp"].value - found.estimates["pairs"].value
    )


def test_training_teaches_the_pairs() -> None:
    metrics = run("pairs").metrics()["test"]
    assert list(metrics) == ["match.mrr", "match.recall_1", "match.recall_10"]
    assert metrics["match.recall_1"]["value"] > 2 / metrics["match.recall_1"]["rows"]  # chance would be one of them
    assert metrics["match.recall_1"]["low"] <= metrics["match.recall_1"]["value"]


def test_without_asks_each_side_searches_for_the_other() -> None:
    trained = run("pairs")
    (field,) = trained.outputs
    plan = assembly.plan_of(trained.recipe, trained.prepared.split("test"), trained.inputs, trained.outputs)

    def ranks(asks: str | None) -> np.ndarray:
        paired = dataclasses.replace(field, config=dataclasses.replace(field.config, asks=asks))
        model = trained.model
        model.paired, kept = paired, model.paired
        try:
            parts = [
                np.asarray(each.predictions["match"]["rank"]) for each in predictions(model, plan, trained.autocast)
            ]
        finally:
            model.paired = kept
        return np.concatenate(parts)

    both = ranks(None)
    assert both.shape[1] == 2
    assert (both == np.concatenate([ranks("reply"), ranks("text")], axis=1)).all()  # the first by name is reply


def test_vectors_that_are_not_finite_have_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = run("pairs")
    plan = assembly.plan_of(trained.recipe, trained.prepared.split("test"), trained.inputs, trained.outputs)
    monkeypatch.setattr(Head, "embed", lambda self, features, asks: torch.full((len(features.mask), 4), math.nan))
    with pytest.raises(Diverged) as caught:
        list(predictions(trained.model, plan, trained.autocast))
    check_clear(str(caught.value), "outputs.match", "not finite")
