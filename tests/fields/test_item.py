"""The next item: what each place of a history teaches, what draws cost, and where the right one is ranked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dougong import lifecycle
from dougong import recipe as recipes
from dougong.core.errors import FieldError, RecipeError
from dougong.fields import item as items_out
from dougong.fields.item import LOWEST, Codec, Config, Drawn, Head
from dougong.layers.features import Features
from dougong.layers.losses import SAMPLED, Loss, bpr_sum, gbce_sum, sampled_softmax_sum
from dougong.metrics.recommendation import NEVER
from dougong.model import Model, initialize
from dougong.run import Run
from tests.clear_error import clear_error

ITEMS = 12
Batch = dict[str, Tensor]


def plain(file: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "next",
        "data": {"train": str(file), "split": {"test": 0.2}, "cache": str(file.parent / "cache")},
        "inputs": {"history": "items", "user": "category"},
        "outputs": {"item": "item"},
        "model": {"kind": "transformer", "preset": "tiny"},
        "train": {"steps": 3, "batch_size": 16, "device": "cpu"},
    } | changes


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Histories that count upwards, each from another item on."""
    path = tmp_path_factory.mktemp("next") / "rows.jsonl"
    rows = [
        {
            "user": f"u{row % 6}",
            "history": [f"i{(row + step) % ITEMS}" for step in range(row % 7)],
            "item": f"i{(row + row % 7) % ITEMS}",
        }
        for row in range(80)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trained(file: Path, folder: Path, **changes: Any) -> Run:
    return lifecycle._train(recipes.load(plain(file, **changes)), folder, True, lambda _: None)


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(file, tmp_path_factory.mktemp("run") / "run")


def batch_of(run: Run, rows: list[dict[str, Any]]) -> Batch:
    """Rows with their answers, as a loader gives them."""
    fields = [*run.inputs, *run.outputs]
    parsed = [{each.name: each.codec.parse(row[each.name], each.config) for each in fields} for row in rows]
    return run.encode(parsed, None, fields)


ROWS = [
    {"user": "u1", "history": ["i1", "i2", "i3"], "item": "i4"},
    {"user": "u2", "history": [], "item": "i5"},
    {"user": "u3", "history": ["i7", "never seen", "i9", "i9"], "item": "i0"},
    {"user": "u4", "history": ["i7"], "item": "never seen"},
]


# ------------------------------------------------------------------------------------------------------------- learning


def test_every_place_of_a_history_tells_the_next_item_and_the_loss_is_that_of_each_prefix(run: Run) -> None:
    """Against brute force: each beginning of each history asked by itself, and measured on the item that follows."""
    model, row_by_row = run.model, 0.0
    told = 0
    for row in ROWS:
        whole = [*row["history"], row["item"]]
        for length, item in enumerate(whole):
            one = batch_of(run, [{**row, "history": whole[:length], "item": item}])
            row_by_row += float(model.eval().losses(one)["item"])
            told += int(model.counts(one)["item"])
    batch = batch_of(run, ROWS)
    model.train()
    try:
        assert int(model.counts(batch)["item"]) == told == 4 + 1 + 4 + 1
        assert float(model.losses(batch)["item"]) == pytest.approx(row_by_row, rel=1e-4)
    finally:
        model.eval()


@pytest.mark.parametrize("backbone", ["transformer", "recurrent", "convnet"])
def test_a_later_item_never_changes_what_an_earlier_place_tells(file: Path, tmp_path: Path, backbone: str) -> None:
    run = trained(
        file, tmp_path / "run", model={"kind": backbone, "preset": "tiny"}, train={"steps": 1, "device": "cpu"}
    )
    model = run.model
    before, after = (
        model(batch_of(run, [{"user": "u1", "history": ["i1", "i2", *rest], "item": "i0"}])).values
        for rest in (["i3", "i4"], ["i8", "i11"])
    )
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-3)


def test_a_history_and_what_goes_on_with_it_have_the_same_vectors(run: Run) -> None:
    reader, head = run.model.arrival(run.inputs[0]).encoder, run.model.head(run.outputs[0])
    assert head.items is reader.items
    names = [name for name in run.model.weights() if "items.embedding" in name]
    assert names == ["in_history.encoder.items.embedding.weight"]


def test_matrix_factorization_learns_the_set_and_does_not_read_the_history(file: Path, tmp_path: Path) -> None:
    run = trained(file, tmp_path / "run", model="identity", outputs={"item": {"type": "item", "learn": "set"}})
    model = run.model
    assert run.recipe.inputs["history"].unread
    batch = batch_of(run, ROWS[:3])
    model.train()
    user = model.arrival(next(field for field in run.inputs if field.name == "user")).encoder.embedding.weight
    head = model.head(run.outputs[0])
    number = run.outputs[0].codec.number
    by_hand = 0.0
    for row in ROWS[:3]:
        index = next(field for field in run.inputs if field.name == "user").codec.index[row["user"]]
        role = model.roles.marks.weight[1]  # of its inputs by name
        scores = (user[index] + role) @ head.items.table().T + head.bias.weight[:, 0]
        told = [number[each] for each in [*row["history"], row["item"]] if each in number]
        by_hand -= float(scores.log_softmax(0)[told].sum())
    assert float(model.losses(batch)["item"]) == pytest.approx(by_hand, rel=1e-4)
    assert int(model.counts(batch)["item"]) == 4 + 1 + 4
    model.eval()
    assert int(model.counts(batch)["item"]) == 3


def test_two_towers_learn_the_last_item_alone_by_any_backbone(file: Path, tmp_path: Path) -> None:
    run = trained(file, tmp_path / "run", model="mlp", outputs={"item": {"type": "item", "learn": "last"}})
    run.model.train()
    assert int(run.model.counts(batch_of(run, ROWS))["item"]) == 3


@pytest.mark.parametrize("kind", SAMPLED)
def test_each_loss_learns_to_count(kind: str, file: Path, tmp_path: Path) -> None:
    loss = {"kind": kind, "negatives": 8}
    run = trained(
        file,
        tmp_path / "run",
        train={
            "steps": 100,
            "batch_size": 32,
            "device": "cpu",
            "loss": loss,
            "optimizer": {"kind": "adamw", "lr": 0.01},
        },
    )
    answers = run.predict([{"user": "u1", "history": [f"i{n}", f"i{n + 1}"]} for n in range(6)])
    right = sum(answer["item"]["value"] == f"i{n + 2}" for n, answer in enumerate(answers))
    assert right >= 4


# ----------------------------------------------------------------------------------------------------------- what is drawn


def test_sampled_softmax_estimates_the_sum_over_all_items_without_bias() -> None:
    torch.manual_seed(0)
    counts = np.array([50, 20, 10, 5, 1, 0])
    drawn = Drawn(counts)
    initialize(drawn, 0)
    scores, right = torch.randn(6), 1
    whole = float(scores.exp().sum() - scores[right].exp())
    sums = []
    for _ in range(4_000):
        some = drawn.draw(4, even=False)
        log_often = drawn.log_share(some) + math.log(4)
        nats = sampled_softmax_sum(scores[[right]], scores[some][None], log_often, (some == right)[None])
        sums.append(float((nats + scores[right]).exp() - scores[right].exp()))  # what stands under the logarithm
    assert np.mean(sums) == pytest.approx(whole, abs=4 * np.std(sums) / len(sums) ** 0.5)


def test_with_many_draws_the_gradient_is_that_of_the_full_softmax() -> None:
    torch.manual_seed(0)
    drawn = Drawn(np.array([50, 20, 10, 5, 1]))
    initialize(drawn, 0)
    scores = torch.randn(5, requires_grad=True)
    [full] = torch.autograd.grad(-scores.log_softmax(0)[2], scores)
    some = drawn.draw(200_000, even=False)
    log_often = drawn.log_share(some) + math.log(len(some))
    nats = sampled_softmax_sum(scores[[2]], scores[some][None], log_often, (some == 2)[None])
    [sampled] = torch.autograd.grad(nats, scores)
    assert torch.allclose(full, sampled, atol=0.02)


def test_bpr_is_the_mean_over_what_is_wrong() -> None:
    right, others = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    hit = torch.tensor([[False, False, True], [True, True, True]])
    nats = [math.log1p(math.exp(score - 1.0)) for score in (0.0, 2.0)]
    assert float(bpr_sum(right, others, hit)) == pytest.approx(sum(nats) / 2)


def test_gbce_without_calibration_is_binary_cross_entropy_and_with_it_the_yes_counts_less() -> None:
    right, others, hit = torch.tensor([0.7]), torch.tensor([[0.1, -0.4]]), torch.zeros(1, 2, dtype=torch.bool)
    no = sum(math.log1p(math.exp(score)) for score in (0.1, -0.4))
    yes = math.log1p(math.exp(-0.7))
    assert float(gbce_sum(right, others, hit, 0.25, 0.0)) == pytest.approx(yes + no)
    assert float(gbce_sum(right, others, hit, 0.25, 1.0)) == pytest.approx(0.25 * yes + no)


def test_what_a_row_has_chosen_is_not_drawn_against_it(run: Run) -> None:
    batch = batch_of(run, ROWS[:2])
    number = run.outputs[0].codec.number
    drawn = torch.tensor([number["i2"], number["i8"], number["i2"]])
    assert items_out._among(batch, "history", drawn).tolist() == [[True, False, True], [False, False, False]]


# --------------------------------------------------------------------------------------------------------------- ranking


def alone(scores: Tensor, of: str | None = None, **more: Any) -> Head:
    """A head whose scores are given: features are rows of the identity."""
    size = scores.shape[1]
    codec = Codec(Config(), [f"i{n}" for n in range(size)], [1] * size)
    head = Head(Config(of=of, bias=False, **more), codec, scores.shape[0], Loss())
    head.items.embedding.weight.data = scores.T.contiguous()
    return head.eval()


def ask(head: Head, batch: Batch) -> Batch:
    rows = len(batch["row"])
    features = Features(torch.eye(rows)[:, None], torch.ones(rows, 1, dtype=torch.bool))
    with torch.no_grad():
        return head.predict(features, batch, "y")


def test_ranks_are_those_of_a_plain_sort_without_what_the_history_holds() -> None:
    torch.manual_seed(1)
    size, rows = 300, 40
    scores = torch.randn(rows, size)
    histories = [torch.randperm(size)[: row % 9].tolist() for row in range(rows)]
    right = [next(n for n in torch.randperm(size).tolist() if n not in histories[row]) for row in range(rows)]
    longest = max(map(len, histories))
    batch = {
        "row": torch.arange(rows),
        "y.index": torch.tensor(right),
        "x.items": torch.tensor([each + [0] * (longest - len(each)) for each in histories]),
        "x.items.length": torch.tensor(list(map(len, histories))),
    }
    found = ask(alone(scores, of="x"), batch)
    open_to = scores.clone()
    for row, history in enumerate(histories):
        open_to[row, history] = LOWEST
    drawn = alone(scores, of="x").others(open_to, batch["row"], batch["y.index"]).tolist()
    for row in range(rows):
        order = [n for n in scores[row].argsort(descending=True).tolist() if n not in histories[row]]
        assert int(found["rank"][row]) == 1 + order.index(right[row])
        assert found["top"][row].tolist()[:10] == order[:10]
        others = drawn[row]
        assert len(set(others)) == 100
        assert not {*others} & {*histories[row], right[row]}
        better = sum(float(scores[row, n]) >= float(scores[row, right[row]]) for n in others)
        assert int(found["rank_of_100"][row]) == 1 + better


def test_the_hundred_are_drawn_evenly_and_follow_from_the_row_alone() -> None:
    rows, size = 400, 400
    head, scores, right = alone(torch.zeros(2, size)), torch.zeros(rows, size), torch.zeros(rows, dtype=torch.int64)
    drawn = head.others(scores, torch.arange(rows), right)
    counts = np.bincount(drawn.numpy().ravel(), minlength=size)[1:]
    assert abs(counts.mean() - 100) < 1
    assert counts.std() < 1.5 * (100 * 0.75) ** 0.5  # that of a binomial
    again = head.others(scores[:10], torch.arange(100, 110), right[:10])
    assert torch.equal(again, drawn[100:110])


def test_who_gives_all_the_same_score_has_found_nothing_and_an_unknown_item_is_never_found() -> None:
    batch = {"row": torch.arange(2), "y.index": torch.tensor([3, -1])}
    found = ask(alone(torch.zeros(2, 50)), batch)
    assert found["rank"].tolist() == [50, NEVER]
    assert found["rank_of_100"].tolist() == [50, NEVER]  # there are but 49 others
    broken = ask(alone(torch.full((2, 50), torch.nan)), batch)
    assert broken["rank"].tolist() == [NEVER, NEVER]


def test_an_item_that_is_chosen_again_can_be_found_though_the_history_holds_it() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    batch = {
        "row": torch.arange(1),
        "y.index": torch.tensor([1]),
        "x.items": torch.tensor([[0, 1]]),
        "x.items.length": torch.tensor([2]),
    }
    found = ask(alone(scores, of="x"), batch)
    assert found["rank"].tolist() == [1]
    asked = ask(alone(scores, of="x"), {key: value for key, value in batch.items() if key != "y.index"})
    assert asked["top"][0, 0] == 2
    assert asked["scores"][0, 1:].tolist() == [LOWEST] * 2
    assert alone(scores).items.embedding.weight.shape == (3, 1)


def test_suggestions_are_as_many_as_asked_for_and_none_of_the_history(run: Run, file: Path) -> None:
    row = {"user": "u1", "history": ["i1", "i2"]}
    assert len(run.predict([row])[0]["item"]["top"]) == 10
    found = lifecycle.predict(run, [row], top=3)[0]["item"]
    assert found["value"] == found["top"][0]["item"]
    assert len(found["top"]) == 3
    every = run.predict([row], top=100)[0]["item"]["top"]
    assert {each["item"] for each in every} == {f"i{n}" for n in range(ITEMS)} - {"i1", "i2"}
    with pytest.raises(FieldError, match="top = 101: expected 1 to 100"):
        lifecycle.predict(run, [row], top=101)


# ------------------------------------------------------------------------------------------------------------ the recipe


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"kind": "mlp"}}, ("model.kind", "'mlp'", "look back only", "learn: last")),
        ({"model": {"kind": "recurrent", "bidirectional": True}}, ("model.bidirectional", "goes on with a history")),
        ({"inputs": {"history": "items"}, "outputs": {"item": {"type": "item", "learn": "set"}}},
         ("outputs.item.learn", "'set'", "add inputs: {user: category}")),
        ({"inputs": {"user": "category"}, "outputs": {"item": {"type": "item", "learn": "last"}}},
         ("outputs.item.learn", "no history goes in")),
        ({"inputs": {"user": "category"}, "outputs": {"item": {"type": "item", "of": "user"}}},
         ("outputs.item.of", "an input of type items")),
        ({"inputs": {"a": "items", "b": "items"}}, ("outputs.item.of", "a, b")),
        ({"outputs": {"item": {"type": "item", "min_count": 2}}}, ("outputs.item.min_count", "inputs.history")),
        ({"inputs": {"history": {"type": "items", "unread": True}}}, ("inputs.history.unread", "remove it")),
        ({"inputs": {"history": {"type": "items", "encoder": {"kind": "recurrent"}}}}, ("inputs.history.encoder", "none")),
        ({"outputs": {"item": {"type": "item", "top": 101}}}, ("outputs.item.top", "at most 100")),
        ({"outputs": {"item": "item", "again": {"type": "item", "learn": "set"}}}, ("outputs.item.learn", "does not read it")),
        ({"train": {"steps": 1, "loss": {"kind": "mae"}}}, ("train.loss.kind", "sampled_softmax")),
        ({"train": {"steps": 1, "loss": {"kind": "cross_entropy", "negatives": 5}}}, ("train.loss.negatives", "none beside")),
        ({"train": {"steps": 1, "loss": {"kind": "bpr", "calibration": 0.5}}}, ("train.loss.calibration", "none beside")),
        ({"model": {"kind": "transformer", "positions": "learned", "max_length": 100}}, ("model.max_length", "201")),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_learnt_is_refused(changes: dict[str, Any], words: tuple[str, ...], file: Path) -> None:
    with clear_error(*words, error=RecipeError):
        recipes.load(plain(file, **changes))


@pytest.mark.parametrize("model", [{"kind": "recurrent", "preset": "tiny", "hidden": 8}])
def test_what_the_backbone_gives_is_brought_to_the_width_of_the_vectors(
    model: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    run = trained(file, tmp_path / "run", model=model)
    assert run.model.head(run.outputs[0]).project.weight.shape == (16, 8)
    assert run.model.head(run.outputs[0]).items is run.model.arrival(run.inputs[0]).encoder.items


def test_its_model_is_one_that_a_history_needs(file: Path) -> None:
    recipe = plain(file)
    del recipe["model"]
    assert recipes.load(recipe).model.kind == "transformer"
    assert recipes.load({**recipe, "inputs": {"user": "category"}}).model.kind == "mlp"
    assert issubclass(Model, torch.nn.Module)
