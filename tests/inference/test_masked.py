"""Masked language models: what they see, what they are asked, how they are measured, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import dougong
from dougong import assembly
from dougong.cli import next_steps
from dougong.core.config import read
from dougong.core.errors import FieldError, RecipeError
from dougong.data.loader import once
from dougong.data.tokenizers import MASK
from dougong.fields.text import Codec, Config
from dougong.inference.predict import predictions
from dougong.run import Run
from dougong.training import fit
from tests.small_runs import BYTES, recipe_of, run

KINDS = ["masked", "masked-recurrent", "masked-convnet"]


def plan_of(trained: Run, **changes: Any) -> Any:
    plan = assembly.plan_of(trained.recipe, trained.prepared.split("train"), trained.inputs, trained.outputs)
    for key, value in changes.items():
        setattr(plan, key, value)
    return plan


def first_batch(trained: Run) -> dict[str, torch.Tensor]:
    return trained.model.measured(next(once(plan_of(trained))))


@torch.inference_mode()
def logits_of(trained: Run, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return trained.model.head(trained.outputs[0]).logits(trained.model(batch).values)  # (B, T, V)


# --------------------------------------------------------------------------------------------------- what it sees


@pytest.mark.parametrize("name", KINDS)
def test_it_looks_both_ways(name: str):
    trained = run(name)
    batch = first_batch(trained)
    before = logits_of(trained, batch)
    for place in (3, 40):  # on either side of place 20
        seen = batch["text.seen"].clone()
        seen[:, place] = (seen[:, place] + 1) % 256
        after = logits_of(trained, {**batch, "text.seen": seen})
        reach = 20 if name != "masked-convnet" else place + (1 if place < 20 else -1)  # two blocks see few places far
        assert (after - before)[:, reach].abs().max() > 1e-6


def test_documents_that_are_kept_apart_do_not_see_one_another():
    trained = run("masked")
    batch = trained.model.measured(next(once(plan_of(trained, boundaries=True))))
    before = logits_of(trained, batch)
    document, length = batch["text.document"], batch["text.tokens.length"]
    row = int(torch.nonzero(document[:, 0] != document[:, -1])[0])
    seen = batch["text.seen"].clone()
    seen[row, 0] = (seen[row, 0] + 1) % 256
    changed = (logits_of(trained, {**batch, "text.seen": seen}) - before)[row].abs().amax(-1) > 0
    own = document[row] == document[row, 0]
    assert changed[own].all()
    assert not changed[: int(length[row])][~own[: int(length[row])]].any()


@pytest.mark.parametrize("name", KINDS)
def test_what_is_covered_cannot_be_seen(name: str):
    trained = run(name)
    batch = next(once(plan_of(trained)))
    first = trained.model.measured(batch)
    covered = first["text.seen"] == trained.outputs[0].codec.mask
    assert covered.sum() > 20
    changed = torch.where(covered, (batch["text.tokens"] + 1) % 256 + 1, batch["text.tokens"])
    second = trained.model.measured({**batch, "text.tokens": changed})
    assert torch.equal(logits_of(trained, first), logits_of(trained, second))
    assert trained.model.losses(first)["text"] != trained.model.losses(second)["text"]


def test_training_hides_other_tokens_each_time_and_repeats_with_the_generator():
    model, batch = run("masked").model, next(once(plan_of(run("masked"))))
    torch.manual_seed(5)
    first, second = model.augment(batch), model.augment(batch)
    torch.manual_seed(5)
    again = model.augment(batch)
    assert torch.equal(first["text.hidden"], again["text.hidden"])
    assert torch.equal(first["text.seen"], again["text.seen"])
    assert not torch.equal(first["text.hidden"], second["text.hidden"])
    real = batch["text.tokens"] != 0  # neither ends nor padding
    assert not (first["text.hidden"] & ~real).any()
    assert float(first["text.hidden"].sum() / real.sum()) == pytest.approx(0.15, abs=0.03)


def places_of(trained: Run, **changes: Any) -> set[tuple[int, int]]:
    """(place in the stream, what stands there in its stead) of all that is hidden when the training rows are measured."""
    found: set[tuple[int, int]] = set()
    for batch in once(plan_of(trained, **changes)):
        batch = trained.model.measured(batch)
        rows, steps = torch.nonzero(batch["text.hidden"], as_tuple=True)
        places = (batch["text.start"][rows] + steps).tolist()
        found |= set(zip(places, batch["text.seen"][rows, steps].tolist(), strict=True))
    return found


def test_every_model_is_measured_on_the_same_hidden_tokens_however_the_text_is_cut():
    places = places_of(run("masked"))
    assert places == places_of(run("masked-recurrent"))  # trained with another seed
    assert places == places_of(run("masked"), context=17, stride=17, batch_rows=3)
    whole = len(plan_of(run("masked")).stream) - run("masked").prepared.split("train").rows  # without the ends
    assert len(places) / whole == pytest.approx(0.15, abs=0.02)


# -------------------------------------------------------------------------------------------------- how it is measured


@pytest.mark.parametrize("name", KINDS)
def test_loss_and_metrics_are_those_of_the_hidden_tokens_alone(name: str):
    trained = run(name)
    plan = plan_of(trained)
    nats, hits, rows = [], [], 0
    for batch in once(plan):
        batch = trained.model.measured(batch)
        hidden = batch["text.hidden"]
        targets, logits = batch["text.tokens"][hidden], logits_of(trained, batch)[hidden]
        nats += torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
        hits += (logits.argmax(-1) == targets).tolist()
        assert trained.model.losses(batch)["text"].item() == pytest.approx(sum(nats[-len(targets) :]), rel=1e-4)
        assert int(trained.model.counts(batch)["text"]) == len(targets)
    told = list(predictions(trained.model, plan, trained.autocast))
    rows = sum(len(each.rows) for each in told)
    assert rows == trained.prepared.split("train").rows
    assert sum(int(np.sum(each.targets["text"]["tokens"])) for each in told) == len(nats)
    found = dougong.evaluate(trained, split="train").metrics
    assert list(found) == ["text.masked_perplexity", "text.masked_accuracy", "text.loss"]
    assert found["text.loss"].value == pytest.approx(np.mean(nats), rel=1e-4)
    assert found["text.masked_perplexity"].value == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    assert found["text.masked_accuracy"].value == pytest.approx(np.mean(hits), rel=1e-6)


def test_a_step_in_which_nothing_is_hidden_has_no_loss_and_no_gradient():
    model, batch = run("masked").model, first_batch(run("masked"))
    batch = {**batch, "text.hidden": torch.zeros_like(batch["text.hidden"])}
    loss = model.losses(batch)["text"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert int(model.counts(batch)["text"]) == 0
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())
    model.zero_grad(set_to_none=True)


def test_it_learns_to_tell_what_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    texts = [letter * 2 for letter in "abcdefgh"] * 50  # by chance one in eight would be right
    (tmp_path / "pairs.txt").write_text("\n".join(texts) + "\n")
    recipe = recipe_of("masked-convnet") | {
        "name": "pairs",
        "data": {"train": "pairs.txt", "text_rows": "line", "cleaning": {"duplicates": "keep"}},
        "outputs": {"text": {**BYTES, "objective": "masked", "max_length": 16}},
        "train": {"steps": 150, "batch_size": 32, "device": "cpu", "validate_every": 150, "optimizer": {"lr": 0.01}},
    }
    found = dougong.evaluate(dougong.train(recipe), split="train").metrics
    assert found["text.masked_accuracy"].value > 0.9
    assert found["text.masked_perplexity"].value < 1.5


def test_a_training_that_broke_off_hides_the_same_tokens_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    steps = {"steps": 6, "batch_size": 8, "device": "cpu", "checkpoint_every": 1}
    whole = dougong.train(recipe_of("masked") | {"name": "whole", "train": steps})
    broken = recipe_of("masked") | {"name": "broken", "train": steps}
    made, record = [0], fit.step_record

    def breaking(*given: Any) -> dict[str, Any]:
        made[0] += 1
        if made[0] == 4:
            raise ConnectionError("the machine goes away")
        return record(*given)

    monkeypatch.setattr(fit, "step_record", breaking)
    with pytest.raises(ConnectionError):
        dougong.train(broken)
    weights = dougong.train(broken).model.weights()
    assert made[0] == 7  # three steps were kept, and the fourth was made again
    for name, weight in whole.model.weights().items():
        assert torch.equal(weight, weights[name]), name


# -------------------------------------------------------------------------------------------------- the mask token


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "unigram"])
def test_the_mask_is_one_more_token_that_no_text_holds(kind: str):
    tokenizer = {"kind": kind} | ({"vocab_size": 300} if kind in ("bpe", "unigram") else {})
    texts = ["some text, and more", f"a {MASK} b", MASK * 3]
    plain = Codec.fit(read(Config, {"tokenizer": tokenizer})[0], texts)
    codec = Codec.fit(read(Config, {"tokenizer": tokenizer, "objective": "masked"})[0], texts)
    assert codec.vocab_size == plain.vocab_size + 1
    assert codec.mask == plain.vocab_size
    for text in texts:
        tokens = codec.encode([text])[0]["tokens"].values  # type: ignore[union-attr]
        assert tokens.tolist() == plain.encode([text])[0]["tokens"].values.tolist()  # type: ignore[union-attr]
        assert codec.decode(codec.encode([text])[0]) == [text]
    assert Codec.from_json(codec.config, codec.to_json()).mask == codec.mask


def finished(path: Path, *tokens: str) -> Any:
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return read(Config, {"tokenizer": {"kind": "file", "path": str(path)}, "objective": "masked"})[0]


@pytest.mark.parametrize("token", ["[MASK]", "<mask>", MASK])
def test_a_finished_tokenizer_brings_its_own_mask(tmp_path: Path, token: str):
    codec = Codec.fit(finished(tmp_path / "tokenizer.json", "[UNK]", "</s>", "a", token), iter(()))
    assert (codec.mask, codec.vocab_size) == (3, 4)


def test_a_finished_tokenizer_without_one_is_refused(tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FieldError) as caught:
        Codec.fit(finished(path, "[UNK]", "</s>", "a"), iter(()))
    expected = "for objective: masked a tokenizer with a mask token (<|mask|>, [MASK], <mask>)"
    assert caught.value.expected == expected
    assert str(caught.value).endswith(
        f"expected {expected}. Fix: add one to the file, or have one trained: tokenizer: bpe."
    )


# ------------------------------------------------------------------------------------------------------ what is refused


def test_it_neither_writes_nor_answers():
    trained = run("masked")
    with pytest.raises(FieldError) as caught:
        trained.generate(["a"])
    assert str(caught.value) == (
        "outputs.text.objective = 'masked': expected causal, to write on: a masked model tells what is hidden between "
        "what stands on both sides of it. Fix: train a model with objective: causal."
    )
    with pytest.raises(FieldError, match=r"expected a model with inputs; this one tells hidden tokens. Fix: start"):
        trained.predict(["a"])
    assert f"model: {{init: {trained.folder}}}" in next_steps(trained)
    assert f"dougong generate {run('poems').folder}" in next_steps(run("poems"))
    assert f"dougong predict {run('reviews').folder} DATA" in next_steps(run("reviews"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"kind": "mlp"}},
            "model.kind = 'mlp': expected a backbone that gives a feature for each token of 'text'. "
            "Fix: write kind: transformer.",
        ),
        (
            {"inputs": {"more": "text"}},
            "outputs.text.objective = 'masked': expected causal or ctc beside inputs: a masked text is told from itself alone. "
            "Fix: remove it, or the inputs.",
        ),
        (
            {"outputs": {"text": {"type": "text", "mask_share": 0.3}}},
            "outputs.text.mask_share = 0.3: expected 0.15 beside objective: causal, which hides nothing. "
            "Fix: write objective: masked, or remove it.",
        ),
        (
            {"outputs": {"text": {"type": "text", "transform": True}}},
            "outputs.text.transform = true: expected false beside objective: causal. "
            "Fix: write objective: masked, or remove it.",
        ),
        (
            {"outputs": {"text": {"type": "text", "objective": "masked", "mask_share": 0.0}}},
            "outputs.text.mask_share = 0.0: expected a number above 0 and below 1. Fix: write mask_share: 0.15, or leave it out.",
        ),
        (
            {"model": {"kind": "recurrent"}, "outputs": {"text": {"type": "text", "boundaries": True}}},
            "model.kind = 'recurrent': expected a backbone that keeps documents apart within a window (boundaries: true). "
            "Fix: write kind: transformer, or remove boundaries.",
        ),
        (
            {"inputs": {"more": "text"}, "outputs": {"text": {"type": "text", "boundaries": True}}},
            "outputs.text.boundaries = true: expected false beside inputs: each row is read by itself. Fix: remove it.",
        ),
        (
            {"outputs": {"text": {"type": "text", "boundaries": True, "runs": 2}}},
            "outputs.text.runs = 2: expected 1 beside boundaries, across which runs would reach. Fix: remove one of them.",
        ),
        (
            {"inputs": {"more": {"type": "text", "objective": "masked"}}, "outputs": {"label": "category"}},
            "inputs.more.objective = 'masked': expected it among the outputs only. Fix: remove it.",
        ),
    ],
)
def test_what_cannot_be_is_refused_word_for_word(change: dict[str, Any], message: str):
    with pytest.raises(RecipeError) as caught:
        dougong.check(recipe_of("masked") | change)
    assert [str(problem).partition(": ")[2] for problem in caught.value.problems] == [message]  # without its line


def test_both_directions_may_be_asked_for_where_nothing_is_written():
    recipe = recipe_of("masked-recurrent")
    recipe["model"] = {**recipe["model"], "bidirectional": True}
    assert dougong.check(recipe).rows_read > 0
