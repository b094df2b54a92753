from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dougong
from dougong import assembly
from dougong import run as runs
from dougong.core.errors import DataError, FieldError
from dougong.inference.predict import losses, predictions
from tests.clear_error import check_clear
from tests.small_runs import home, run

TEXTS = ["a good fine thing", "bad", "", "a " + "awful " * 30, "全部都好", "a great thing\nand more", "x"]
ROWS: dict[str, list[Any]] = {
    "reviews": TEXTS,
    "reviews-mlp": TEXTS,
    "tags": TEXTS,
    "prices": [{"stars": 3, "colour": "red"}, {"stars": None, "colour": "blue"}, {"stars": "7.5", "colour": "unseen"}],
    "spans": [
        {"question": question, "passage": passage}
        for question in ("size", "colour")
        for passage in ("size: 15; colour: red; shape: flat 扁; size: 30; colour: dark blue", "", None, "size: 4")
    ],
    "replies": ["even number 4", "third", "", "number 17"],
    "replies-recurrent": ["even number 4", "third", "", "number 17"],
}


def close(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    if isinstance(first, float):
        return abs(first - second) <= 1e-5 * max(1.0, abs(first))
    return first == second


@pytest.mark.parametrize("name", ROWS)
def test_each_row_alone_is_answered_as_all_together(name: str):
    trained, rows = run(name), ROWS[name]
    together = trained.predict(rows)
    assert len(together) == len(rows)
    for row, answer in zip(rows, together, strict=True):
        assert close(answer, trained.predict([row])[0])
    for turned, answer in zip(trained.predict(rows[::-1])[::-1], together, strict=True):
        assert close(turned, answer)


@pytest.mark.parametrize("name", ROWS)
def test_no_row_has_no_answer(name: str):
    assert run(name).predict([]) == []


def test_more_rows_than_a_batch_are_answered_in_order():
    trained = run("reviews")
    rows = [f"{'good' if index % 3 else 'bad'} thing {index}" for index in range(runs.PREDICT_ROWS * 2 + 5)]
    answers = trained.predict(rows)
    assert len(answers) == len(rows)
    assert close(answers[-1], trained.predict(rows[-1:])[0])


def test_an_answer_has_the_form_of_its_type():
    (said,) = run("reviews").predict(["good"])
    assert set(said["label"]) == {"value", "probability", "top"}
    assert said["label"]["value"] in ("good", "bad")
    assert sum(said["label"]["top"].values()) == pytest.approx(1)
    (said,) = run("tags").predict(["even third"])
    assert set(said["tags"]["probabilities"]) == {"even", "third"}
    assert said["tags"]["value"] == [name for name, p in said["tags"]["probabilities"].items() if p >= 0.3]
    (said,) = run("prices").predict([{"stars": 3, "colour": "red"}])
    assert isinstance(said["price"]["value"], float)
    (said,) = run("replies").predict([{"text": "even number 4"}])
    assert isinstance(said["reply"]["value"], str)
    json.dumps([said], allow_nan=False)


def test_a_bare_value_is_the_row_of_the_one_input():
    trained = run("reviews")
    assert trained.predict(["good"]) == trained.predict([{"review": "good"}])
    assert trained.predict([{"review": "good", "more": [1]}]) == trained.predict(["good"])  # other columns are not read


def test_numbers_may_be_text_missing_or_out_of_range():
    trained = run("prices")
    same = trained.predict([{"stars": 3, "colour": "red"}, {"stars": " 3.0 ", "colour": " red "}])
    assert close(same[0], same[1])
    odd = [{"stars": value, "colour": None} for value in (None, "", "nan", float("nan"), 1e300, -1e300, "1e999")]
    for answer in trained.predict(odd):
        assert np.isfinite(answer["price"]["value"])


def test_a_category_that_training_never_saw_is_answered_like_a_missing_one():
    answers = run("prices").predict([{"stars": 3, "colour": "mauve"}, {"stars": 3, "colour": None}])
    assert close(answers[0], answers[1])


@pytest.mark.parametrize(
    ("name", "row", "parts"),
    [
        ("prices", {"stars": 3}, ["rows[1]", "no column 'colour'", "stars"]),
        ("prices", 3, ["rows[1]", "a dict with the columns colour, stars"]),
        ("prices", {"stars": "many", "colour": "red"}, ["rows[1]", "'stars'", "'many' is not a number"]),
        ("prices", {"stars": [1], "colour": "red"}, ["rows[1]", "'stars'", "is not a number"]),
        ("prices", {"stars": 1, "colour": {"a": 1}}, ["rows[1]", "'colour'"]),
        ("reviews", {"text": "x"}, ["rows[1]", "no column 'review'", "text"]),
        ("reviews", ["x", 1], ["rows[1]", "'review'"]),
        ("reviews", b"x", ["rows[1]", "'review'"]),
    ],
)
def test_a_row_that_cannot_be_read_is_named(name: str, row: Any, parts: list[str]):
    good: Any = {"stars": 1, "colour": "red"} if name == "prices" else "good"
    with pytest.raises((DataError, FieldError)) as caught:
        run(name).predict([good, row])
    check_clear(str(caught.value), *parts)


# ---------------------------------------------------------------------------------------------------------------- files


def test_a_file_is_answered_row_by_row(tmp_path: Path):
    trained = run("reviews")
    answers = dougong.predict(trained, home() / "table.csv", output=tmp_path / "answers.jsonl")
    assert len(answers) == 120
    assert [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == answers


def test_bad_rows_of_a_file_are_answered_by_why_and_the_others_stand(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    lines = ['{"stars": 3, "colour": "red"}', '{"stars": "many", "colour": "red"}', "not json", '{"colour": "red"}']
    path.write_text("\n".join([*lines, '{"stars": 4, "colour": "blue"}']) + "\n")
    said: list[str] = []
    answers = dougong.predict(run("prices"), path, say=said.append)
    assert ["error" in answer for answer in answers] == [False, True, True, True, False]
    assert answers[1]["error"].startswith(f"{path}: row 2: column 'stars': 'many' is not a number")
    assert answers[2]["error"].startswith(f"{path}: row 3: ")
    assert answers[3]["error"].startswith(f"{path}: row 4: no column 'stars'")
    assert all("Fix: " in answer["error"] for answer in answers[1:4])
    assert close(
        [answers[0], answers[4]], run("prices").predict([json.loads(lines[0]), {"stars": 4, "colour": "blue"}])
    )
    assert said == [f"3 of 5 rows could not be read and have no answer. The first: {answers[1]['error']}"]


def test_a_file_of_which_no_row_can_be_answered_is_an_error(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match=r"none of its 2 rows can be answered. The first: .*row 1: no column 'colour'"):
        dougong.predict(run("prices"), path)
    with pytest.raises(DataError):
        dougong.predict(run("prices"), tmp_path / "nothing.csv")


# ---------------------------------------------------------------------------------------------------- whole splits


def plan_of(name: str, split: str = "train", **changes: Any) -> Any:
    trained = run(name)
    plan = assembly.plan_of(trained.recipe, trained.prepared.split(split), trained.inputs, trained.outputs)
    for key, value in changes.items():
        setattr(plan, key, value)
    return plan


@pytest.mark.parametrize("name", ["reviews", "prices", "tags", "poems", "replies", "spans"])
def test_every_row_of_a_split_is_predicted_once(name: str):
    trained, plan = run(name), plan_of(name)
    rows = np.concatenate([each.rows for each in predictions(trained.model, plan, trained.autocast)])
    assert sorted(rows) == list(range(trained.prepared.split("train").rows))


def nats_of(name: str, tokens: np.ndarray, before: int) -> np.ndarray:
    """What each token of a piece of the stream costs, from one pass over it."""
    trained = run(name)
    batch = {"row": torch.zeros(1), "text.tokens": torch.from_numpy(tokens.astype(np.int64))[None]}
    batch |= {"text.tokens.length": torch.tensor([len(tokens)]), "text.before": torch.tensor([before])}
    with torch.inference_mode():
        return trained.model.predict(batch)["text"]["nats"][0].numpy()


def documents_of(name: str, plan: Any) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens of every document, as `predictions` gives them."""
    trained = run(name)
    found = list(predictions(trained.model, plan, trained.autocast))
    order = np.argsort(np.concatenate([each.rows for each in found]))
    nats = np.concatenate([np.asarray(each.predictions["text"]["nats"]) for each in found])[order]
    return nats, np.concatenate([np.asarray(each.targets["text"]["tokens"]) for each in found])[order]


@pytest.mark.parametrize("name", ["poems", "poems-recurrent"])
def test_the_nats_of_documents_that_fit_into_one_window_are_those_of_one_pass(name: str):
    plan = plan_of(name, "validation")
    plan.context = plan.stride = len(plan.stream)
    tokens = plan.split.take(np.arange(plan.split.rows))["text.tokens"]
    each = np.split(nats_of(name, tokens.values, run(name).outputs[0].codec.end), tokens.offsets[1:-1])
    nats, counts = documents_of(name, plan)
    assert list(counts) == list(tokens.lengths)
    assert list(nats) == pytest.approx([part.sum() for part in each], rel=1e-5)


def test_documents_that_are_kept_apart_cost_what_each_costs_alone():
    plan = plan_of("poems-boundaries", "validation")
    plan.context = plan.stride = len(plan.stream)
    tokens = plan.split.take(np.arange(plan.split.rows))["text.tokens"]
    end = run("poems-boundaries").outputs[0].codec.end
    alone = [nats_of("poems-boundaries", tokens.row(row), end).sum() for row in range(len(tokens))]
    nats, counts = documents_of("poems-boundaries", plan)
    assert list(counts) == list(tokens.lengths)
    assert list(nats) == pytest.approx(alone, rel=1e-5)
    plan.boundaries = False
    assert list(documents_of("poems-boundaries", plan)[0]) != pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("name", ["poems", "poems-learned", "poems-recurrent"])
@pytest.mark.parametrize("rows", [1, 3])
def test_every_token_is_counted_once_with_at_least_half_a_context_before_it(name: str, rows: int):
    plan = plan_of(name, "validation", batch_rows=rows)
    tokens = plan.split.take(np.arange(plan.split.rows))["text.tokens"]
    stream, half = tokens.values, plan.context // 2
    cost = np.full(len(stream), np.nan)
    for start in range(0, len(stream), half):
        before = stream[start - 1] if start else run(name).outputs[0].codec.end
        found = nats_of(name, stream[start : start + plan.context], int(before))
        skip = half if start else 0
        cost[start + skip : start + plan.context] = found[skip:]
    nats, counts = documents_of(name, plan)
    assert list(counts) == list(tokens.lengths)
    assert list(nats) == pytest.approx([part.sum() for part in np.split(cost, tokens.offsets[1:-1])], rel=1e-4)


def test_of_a_text_that_is_cut_only_the_bytes_that_were_read_are_counted():
    trained, plan = run("replies"), plan_of("replies")
    columns = plan.split.take(np.arange(plan.split.rows))
    plan.limits = {**plan.limits, "reply.tokens": 3}
    seen = set()
    for found in predictions(trained.model, plan, trained.autocast):
        whole = np.asarray(columns["reply.bytes"])[found.rows]  # of "9!", "99!", "119!"
        assert np.asarray(found.targets["reply"]["tokens"]).tolist() == [3] * len(whole)
        assert np.asarray(found.targets["reply"]["bytes"]).tolist() == np.minimum(whole, 3).tolist()
        seen |= set(whole.tolist())
    assert seen == {2, 3, 4}


def test_losses_are_the_means_that_training_counts():
    trained, plan = run("reviews"), plan_of("reviews")
    total = count = 0.0
    for each in predictions(trained.model, plan, trained.autocast):
        chosen = np.asarray(each.targets["label"]["index"])
        total -= float(
            np.log(np.asarray(each.predictions["label"]["probabilities"])[np.arange(len(chosen)), chosen]).sum()
        )
        count += len(chosen)
    assert losses(trained.model, plan, trained.autocast)["label"] == pytest.approx(total / count, rel=1e-4)
