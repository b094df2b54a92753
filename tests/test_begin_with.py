"""A model that begins with another run's weights: they arrive, what began anew is told, and what differs is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import dougong
from dougong import lifecycle
from dougong import recipe as recipes
from dougong.core.errors import ArtefactError, FieldError, RecipeError
from dougong.data.tokenizers import FileTokenizer, InitTokenizer
from dougong.run import Run
from tests.small_runs import BYTES, TINY, recipe_of, run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def classifier(parent: Run, **changes: Any) -> dict[str, Any]:
    """Pretrained by hiding tokens, now trained on labels: the text has the same name, and the run's own tokenizer."""
    file = {"kind": "file", "path": str(parent.folder / "model/tokenizer.json")}
    return recipe_of("reviews") | {
        "name": "labels",
        "inputs": {"text": {**BYTES, "column": "review", "tokenizer": file}},
        "model": {**TINY, "init": str(parent.folder)},
        "train": {"steps": 4, "batch_size": 16, "device": "cpu"},
        **changes,
    }


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The weights that training began with."""
    weights: dict[str, torch.Tensor] = {}
    fit = lifecycle.fit

    def noting(model: Any, *given: Any, **named: Any) -> Any:
        weights.update({name: value.clone() for name, value in model.weights().items()})
        return fit(model, *given, **named)

    monkeypatch.setattr(lifecycle, "fit", noting)
    return weights


def test_a_classifier_begins_with_what_hiding_tokens_taught(begun: dict[str, torch.Tensor]):
    parent, said = run("masked"), list[str]()
    theirs = parent.model.weights()
    trained = dougong.train(classifier(parent), say=said.append)
    shared = [name for name in begun if name.startswith("backbone.") or name == "in_text.encoder.embedding.weight"]
    anew = [name for name in begun if name not in shared]
    assert len(shared) == len(theirs)
    for name in shared:
        assert torch.equal(begun[name], theirs[name]), name
    assert anew
    assert all(name.startswith("out_label.") for name in anew)
    numbers = sum(begun[name].numel() for name in shared), sum(value.numel() for value in begun.values())
    line = (
        f"begins with weights of {parent.folder}: {len(shared)} of {len(begun)} tensors, "
        f"{numbers[0]:,} of {numbers[1]:,} numbers; anew: out_label"
    )
    assert any(line in text for text in said)
    receipt = trained.receipt
    assert receipt["parent"] == receipt["init"]["run"] == str(parent.folder)
    assert sorted(receipt["init"]["taken"]) == sorted(shared)
    assert sorted(receipt["init"]["anew"]) == sorted(anew)
    assert dougong.verify(parent).damaged == ()
    assert not torch.equal(trained.model.weights()[shared[0]], theirs[shared[0]])  # and goes on learning
    assert dougong.load("labels").predict(["a good thing"]) == trained.predict(["a good thing"])


def test_a_chat_begins_with_one_that_learnt_every_turn(begun: dict[str, torch.Tensor]):
    recipe = recipe_of("chats") | {"train": {"steps": 4, "batch_size": 16, "device": "cpu"}}
    messages = {**recipe["outputs"]["messages"], "tokenizer": {"kind": "bpe", "vocab_size": 300}}
    parent = dougong.train(recipe | {"name": "talk", "outputs": {"messages": {**messages, "loss_on": "all"}}})
    file = {"kind": "file", "path": str(parent.folder / "model/tokenizer.json")}  # has the tokens of the roles already
    child = {"outputs": {"messages": {**messages, "tokenizer": file}}, "model": {**TINY, "init": str(parent.folder)}}
    trained = dougong.train(recipe | {"name": "chat", **child})
    assert trained.receipt["init"]["anew"] == []
    for name, weight in parent.model.weights().items():
        assert torch.equal(begun[name], weight), name


def test_what_has_another_shape_begins_anew(begun: dict[str, torch.Tensor]):
    parent = run("masked")
    trained = dougong.train(classifier(parent, model={**TINY, "feedforward": 24, "init": str(parent.folder)}))
    wide = [f"backbone.blocks.{block}.feedforward.{part}.weight" for block in range(2) for part in ("up", "down")]
    assert {name for name in trained.receipt["init"]["anew"] if name.startswith("backbone.")} == set(wide)
    assert torch.equal(begun["backbone.final_norm.weight"], parent.model.weights()["backbone.final_norm.weight"])


def test_a_field_with_other_classes_begins_anew(begun: dict[str, torch.Tensor]):
    parent = run("reviews")
    recipe = recipe_of("reviews") | {
        "name": "colours",
        "outputs": {"label": {"type": "category", "column": "colour"}},
        "model": {**TINY, "init": str(parent.folder)},
        "train": {"steps": 2, "batch_size": 16, "device": "cpu"},
    }
    taken = dougong.train(recipe).receipt["init"]["taken"]
    assert "in_review.encoder.embedding.weight" in taken
    assert not [name for name in taken if name.startswith("out_label.")]  # though norms, say, have the same shape


def test_another_tokenizer_is_refused_by_name():
    parent = run("masked")
    with pytest.raises(FieldError) as caught:
        dougong.train(classifier(parent, inputs={"text": {**BYTES, "column": "review"}}))
    assert str(caught.value) == (
        f"text.tokenizer = 'byte': expected the tokenizer of {parent.folder}, whose embeddings the model begins with "
        "(model.init). Fix: write tokenizer: init."
    )
    assert not Path("runs/labels/resolved.json").exists()  # the mended recipe is not a changed one


def test_a_text_takes_over_the_tokenizer_of_the_run_and_keeps_it(tmp_path: Path):
    parent = shutil.copytree(run("masked").folder, tmp_path / "runs" / "masked")
    text = {**BYTES, "column": "review", "tokenizer": "init"}
    named = classifier(run("masked"), inputs={"text": text}, model={**TINY, "init": "masked"})
    trained = dougong.train(named)
    resolved = trained.recipe.inputs["text"].tokenizer
    assert (resolved.kind, resolved.path) == ("file", str(parent / "model/tokenizer.json"))
    assert (trained.folder / "model/tokenizer.json").read_bytes() == (parent / "model/tokenizer.json").read_bytes()
    assert "in_text.encoder.embedding.weight" in trained.receipt["init"]["taken"]
    before = trained.predict(["a good thing"])
    shutil.rmtree(parent)
    assert dougong.load("labels").predict(["a good thing"]) == before
    again = recipes.load(named).inputs["text"].tokenizer
    assert again == resolved  # the recipe has not changed because the parent is gone


def test_pictures_that_are_darker_go_in_as_those_that_the_run_has_seen(tmp_path: Path, begun: dict[str, torch.Tensor]):
    parent, table = run("judge"), pq.read_table(run("judge").folder.parent.parent / "pictures.parquet")
    dark = table.filter(pc.equal(table["label"], "left")).append_column("sort", table["name"][: table.num_rows // 2])
    pq.write_table(dark, tmp_path / "some.parquet")
    recipe = recipe_of("judge") | {
        "name": "some",
        "data": {"train": str(tmp_path / "some.parquet"), "split": {"validation": 0.2}},
        "outputs": {"sort": "category"},
        "model": {"kind": "convnet", "preset": "tiny", "init": str(parent.folder)},
        "train": {"steps": 2, "batch_size": 16, "device": "cpu"},
    }
    trained = dougong.train(recipe)
    assert trained.inputs[0].codec.form.mean != parent.inputs[0].codec.form.mean
    assert {name.split(".")[0] for name in trained.receipt["init"]["anew"]} == {"out_sort"}
    assert any(name.startswith("in_image.") for name in trained.receipt["init"]["taken"])


def test_of_several_tokenizers_that_of_the_same_name_is_taken(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer-a.json", "tokenizer-b.model"):
        (folder / name).touch()
    asked = InitTokenizer(end="</s>")
    assert asked.found(folder, "a") == FileTokenizer(path=f"{folder}/tokenizer-a.json", end="</s>")
    assert asked.found(folder, "b").path == f"{folder}/tokenizer-b.model"
    assert asked.found(folder, "c").path == f"{folder}/tokenizer.json"  # it is missing, and the error says so


def test_the_tokenizer_of_no_run_is_refused():
    text = {**BYTES, "column": "review", "tokenizer": "init"}
    with pytest.raises(RecipeError) as caught:
        dougong.check(classifier(run("masked"), inputs={"text": text}, model=TINY))
    (problem,) = caught.value.problems
    assert str(problem).endswith(
        "inputs.text.tokenizer = 'init': expected beside it the run that the model begins with, whose tokenizer it is. "
        "Fix: write model: {init: runs/NAME}."
    )


def test_a_run_of_which_nothing_fits_is_refused():
    parent = run("masked")
    other = {"kind": "transformer", "preset": "tiny", "width": 24, "heads": 2, "init": str(parent.folder)}
    with pytest.raises(FieldError) as caught:
        dougong.train(classifier(parent, model=other))
    assert str(caught.value) == (
        f"model.init = {str(parent.folder)!r}: expected a run with weights of the names and shapes that this model has. "
        f"Fix: give model the kind and the sizes that {parent.folder}/model/config.json tells."
    )


def test_a_run_that_is_not_there_is_missed_before_anything_is_read():
    recipe = classifier(run("masked"), model={**TINY, "init": "runs/nothing"})
    for verb in (dougong.check, dougong.train):
        with pytest.raises(ArtefactError, match=r"runs/nothing: no run there; .*Fix: give the folder of a run"):
            verb(recipe)


def test_an_encoder_of_one_input_has_no_beginning_of_its_own():
    parent = run("masked")
    text = {**BYTES, "column": "review", "encoder": {"kind": "convnet", "init": str(parent.folder)}}
    with pytest.raises(RecipeError) as caught:
        dougong.check(classifier(parent, inputs={"text": text}))
    (problem,) = caught.value.problems
    assert str(problem).endswith("expected none: the model begins as a whole. Fix: write it under model.")
    assert problem.key == "inputs.text.encoder.init"
