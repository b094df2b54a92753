"""The translation benchmark: both contestants read the same rows, and the same code judges what they write."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch

from benchmarks import contest, translation
from benchmarks.contest import Contestant, Failed
from benchmarks.peers import dougong_steps, translate_dougong
from benchmarks.peers import translate_marian as peer
from benchmarks.peers.translation_job import Job, Shape
from dougong import recipe

WORDS = {"red": "rot", "blue": "blau", "green": "grün", "house": "Haus", "tree": "Baum", "bird": "Vogel", "sea": "Meer"}
ROWS = [(f"{one} {two}", f"{WORDS[one]} {WORDS[two]}") for one in WORDS for two in WORDS]
SHAPE = Shape(
    layers=1, width=32, heads=2, feedforward=64, dropout=0.0, vocab_size=300, longest=12, beams=2, batch_tokens=256,
    label_smoothing=0.1,
)  # fmt: skip
RECIPE = """
name: tiny-translation
data: {train: train.jsonl, test: test.jsonl, split: {validation: 0.1}}
inputs:
  english: {type: text, tokenizer: {kind: bpe, vocab_size: 280}, max_length: 24}
outputs:
  german:
    {type: text, column: other, tokenizer: {kind: bpe, vocab_size: 290}, max_length: 16, metrics: [bleu, chrf], beams: 2}
model: {kind: transformer, layout: encoder-decoder, width: 16, layers: 1, heads: 2, dropout: 0.1}
train: {minutes: 10, batch_tokens: 512, optimizer: {kind: muon, lr: 0.02}, loss: {label_smoothing: 0.1}, device: cpu}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    for name, rows in (("train", ROWS[:40]), ("test", ROWS[40:])):
        lines = [json.dumps({"english": english, "other": other}) + "\n" for english, other in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def test_both_train_on_the_training_rows_and_are_judged_on_the_test_rows(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[dict[str, Any]] = []
    evaluated: dict[str, Any] = {}
    train = translate_dougong.dougong.train

    def here(contestant: Contestant) -> dict[str, Any]:
        jobs.append(json.loads(contestant.arguments[0]))
        monkeypatch.setattr(sys, "argv", ["it", *contestant.arguments])
        import_module(contestant.module).main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    def trained(*arguments: Any, **options: Any) -> Any:
        run = train(*arguments, **options)
        evaluated.update(run.metrics()["test"])
        return run

    for module in (translation, translate_dougong):
        monkeypatch.setattr(module, "PREPARED", tiny.parent / "prepared")
    for module in (translation, dougong_steps):
        monkeypatch.setattr(module, "WORK", tiny.parent / "work")
    monkeypatch.setattr(contest, "run", here)
    monkeypatch.setattr(translate_dougong.dougong, "train", trained)

    budget = {"minutes": 1.0, "steps": 60, "seed": 0, "lr": 3e-3}
    python = Path(sys.executable)
    both = {one["who"]: one for one in translation.results(tiny, {"peer": python, "ours": python}, budget)}
    assert [both[name]["steps"] for name in ("peer", "ours")] == [60, 60]
    assert [both[name]["test_rows"] for name in ("peer", "ours")] == [9, 9]
    assert both["peer"]["chrf_signature"] == both["ours"]["chrf_signature"]
    assert 0 < both["ours"]["chrf"] == pytest.approx(evaluated["german.chrf"]["value"])
    assert [point[0] for point in both["peer"]["points"]] == list(range(3, 61, 3))
    assert jobs[0]["shape"] == {
        "layers": 1, "width": 16, "heads": 2, "feedforward": 64, "dropout": 0.1, "vocab_size": 570, "longest": 24,
        "beams": 2, "batch_tokens": 512, "label_smoothing": 0.1,
    }  # fmt: skip


def test_the_splits_hold_every_row_as_the_files_have_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = translation.pairs_of(recipe.load(tiny, [f"data.cache={tiny.parent / 'prepared'}"]))
    assert pairs["test"] == ROWS[40:]
    assert sorted(pairs["train"] + pairs["validation"]) == sorted(ROWS[:40])
    assert pairs["validation"]


@pytest.mark.parametrize("language", translation.RECIPES)
def test_each_language_has_a_recipe_of_the_size_that_the_peer_takes_over(language: str) -> None:
    loaded = recipe.load(translation.ROOT / "recipes" / f"{translation.RECIPES[language]}.yaml")
    assert f"wesnoth-{language}-test" in str(loaded.data.test)
    (output,) = loaded.outputs.values()
    assert (output.bleu_tokenize == "zh") == (language == "zh_CN")
    assert translation.shape(loaded).beams == 4


@pytest.mark.parametrize(("tokenize", "right"), [("13a", "Der rote Baum ist groß."), ("zh", "那棵红树很大。")])
def test_the_figures_are_those_of_sacrebleu(tokenize: str, right: str) -> None:
    written = [right, f"{right[:-3]} {right[:3]}"]
    found = translation.figures(written, [right, right], tokenize)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, [[right, right]]).score)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, [[right, right]], tokenize=tokenize).score)
    assert f"tok:{tokenize}" in found["bleu_signature"]


def test_a_file_with_fewer_translations_than_rows_is_no_result() -> None:
    with pytest.raises(Failed, match="1 translations of 2 test rows"):
        translation.figures(["one"], ["one", "two"], "13a")


def test_the_peer_learns_to_translate_and_its_translations_stand_in_the_order_of_the_rows() -> None:
    torch.manual_seed(0)
    tokenizer = peer.vocabulary(ROWS, SHAPE.vocab_size)
    model = peer.MarianMTModel(peer.config(SHAPE, tokenizer.get_vocab_size()))
    rows = peer.encoded(tokenizer, ROWS, SHAPE.longest)
    job = Job(contestant="peer", recipe="", rows="", written="", shape=SHAPE, lr=3e-3, seed=0, minutes=0, steps=300)
    curve = peer.trained(model, rows, rows, job, "fp32")
    assert curve.points[-1][2] < 0.2 < 1 < curve.points[0][2]
    written = peer.translated(model, tokenizer, [english for english, _ in ROWS], SHAPE)
    assert np.mean([one == other for one, (_, other) in zip(written, ROWS, strict=True)]) > 0.9


def test_the_peer_keeps_the_weights_with_the_lowest_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = peer.vocabulary(ROWS, SHAPE.vocab_size)
    model = peer.MarianMTModel(peer.config(SHAPE, tokenizer.get_vocab_size()))
    losses, kept = iter([3.0, 1.0, 2.0]), []

    def validated(model: Any, *_: object) -> float:
        kept.append(model.model.shared.weight.detach().clone())
        return next(losses)

    monkeypatch.setattr(peer, "validated", validated)
    rows = peer.encoded(tokenizer, ROWS, SHAPE.longest)
    job = Job(contestant="peer", recipe="", rows="", written="", shape=SHAPE, lr=1e-2, seed=0, minutes=0, steps=3)
    peer.trained(model, rows, rows, job, "fp32")
    assert torch.equal(model.model.shared.weight, kept[1])
    assert not torch.equal(kept[1], kept[2])


def test_a_batch_holds_what_fits_with_its_padding_and_an_epoch_every_row_once() -> None:
    draw = np.random.default_rng(0)
    rows = [([1] * int(one), [1] * int(two)) for one, two in draw.integers(1, 40, size=(200, 2))]
    batches = peer.cut(rows, 256, draw.permutation(200))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    sizes = [len(batch) * sum(max(len(rows[index][side]) for index in batch) for side in (0, 1)) for batch in batches]
    assert max(sizes) <= 256
    assert np.mean(sizes) > 200  # and is nearly full


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    model = peer.MarianMTModel(peer.config(SHAPE, 300)).eval()
    rows = [([5, 6, 7, 0], [8, 9, 0]), ([5, 0], [9, 8, 7, 6, 0])]
    together = peer.loss_of(model, rows, reduction="sum")
    apart = torch.stack([peer.loss_of(model, [row], reduction="sum") for row in rows]).sum()
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    rates = [peer.factor(step / 1000, 1 / 1000) for step in range(1000)]
    assert np.argmax(rates) == peer.WARMUP * 1000 - 1
    assert 0.9 < max(rates) <= 1
    assert rates[0] == pytest.approx(1 / (1000 * peer.WARMUP))
    assert rates[-1] < 0.002
