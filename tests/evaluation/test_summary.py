from __future__ import annotations

import re
from pathlib import Path

import pytest

from dougong import assembly
from dougong.evaluation import summary
from tests.small_runs import run

SORTS = ["reviews", "prices", "tags", "poems", "chats", "replies", "spans"]


@pytest.mark.parametrize("name", SORTS)
def test_the_report_of_a_run_holds_what_a_person_wants_to_know(name: str):
    trained = run(name)
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    assert f"<h1>{name}</h1>" in page
    for section in ("results", "training", "data", "model", "recipe", "receipt"):
        assert f'<section id="{section}">' in page
    for metrics in trained.metrics().values():
        for metric in metrics:
            assert f"<code>{metric}</code>" in page
    assert ('<section id="confusion">' in page) == (name == "reviews")
    assert ('<section id="calibration">' in page) == (name == "reviews")
    assert ('<section id="samples">' in page) == (name != "images")
    assert trained.receipt["data"]["key"] in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)


@pytest.mark.parametrize("name", SORTS)
def test_samples_show_held_out_rows(name: str):
    trained = run(name)
    found = summary.samples(trained)
    assert 1 <= len(found) <= summary.SAMPLES
    written = name in ("poems", "chats")
    assert all(
        set(sample) == ({"prompt", "text"} if written else {"input", "prediction", "target", "right"})
        for sample in found
    )
    if not written:
        (output,) = trained.recipe.outputs
        assert all(sample["prediction"].startswith(f"{output}: ") for sample in found)
        assert all(sample["target"].startswith(f"{output}: ") for sample in found)


def test_a_number_is_not_marked_as_right_or_different_and_a_category_is():
    assert {sample["right"] for sample in summary.samples(run("prices"))} == {None}
    assert all(isinstance(sample["right"], bool) for sample in summary.samples(run("reviews")))
    assert 'class="mark' not in (run("prices").folder / "report.html").read_text(encoding="utf-8")
    assert 'class="mark' in (run("reviews").folder / "report.html").read_text(encoding="utf-8")


def test_speed_is_told_in_tokens_only_where_there_are_some():
    pages = {name: (run(name).folder / "report.html").read_text(encoding="utf-8") for name in ("prices", "reviews")}
    assert ("rows per second" in pages["prices"], "tokens per second" in pages["prices"]) == (True, False)
    assert ("rows per second" in pages["reviews"], "tokens per second" in pages["reviews"]) == (False, True)


def test_the_report_tells_the_parent_and_what_the_command_line_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained = run("prices")
    said = trained.receipt | {"parent": "runs/base", "overrides": ["train.steps=7", "name=a b"]}
    monkeypatch.setattr(type(trained), "receipt", said)
    summary.write(tmp_path / "report.html", trained)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Started from runs/base" in page
    assert "Trained with <code>-s train.steps=7 -s &#x27;name=a b&#x27;</code>, which replaces what stands here" in page


def test_the_sentence_says_what_was_trained_and_how_good_it_is():
    trained = run("reviews")
    assert re.fullmatch(
        r"A transformer from review to label, trained on \d+ rows in \d+\.\d minutes \(30 steps\); "
        r"label\.accuracy \d\.\d{4} on \d+ test rows \(95 % interval \d\.\d{4} to \d\.\d{4}\)\.",
        summary.sentence(trained, summary.read_measured(trained.folder / "evaluations" / "test")),
    )
    assert summary.sentence(run("poems"), None).startswith("A transformer from nothing to text, trained on ")


def test_the_headline_says_what_is_trained_on_what_and_how():
    trained = run("prices")
    loader = assembly.loader_of(trained.recipe, trained.prepared.split("train"), [], [])
    lines = summary.headline(trained.recipe, trained.model, trained.prepared, loader).splitlines()
    count = sum(parameter.numel() for parameter in trained.model.parameters())
    assert lines[0] == f"prices: colour, stars → price; mlp, {count:,} parameters"
    assert re.fullmatch(r"rows: \d+ train, (\d+ validation, )?\d+ test; budget: 30 steps; adamw", lines[1])
    assert lines[2].endswith("matrix products in float32; blocks not compiled")
    poems = run("poems")
    windows = assembly.loader_of(poems.recipe, poems.prepared.split("train"), poems.inputs, poems.outputs)
    told = summary.headline(poems.recipe, poems.model, poems.prepared, windows).splitlines()
    assert told[2].endswith("matrix products in float32; blocks not compiled; attention fused")
    loader.micro_batch = 3
    pieces = len(loader.load(0, 0))
    again = summary.headline(trained.recipe, trained.model, trained.prepared, loader).splitlines()
    assert again[2] == f"{lines[2]}; steps in {pieces} pieces"


def test_the_log_gives_a_point_a_step_and_the_validations_beside_them():
    found = summary.log_of(run("reviews").folder / "log.jsonl", "tokens")
    assert [record["step"] for record in found if "loss" in record] == list(range(1, 31))
    assert [record["step"] for record in found if "val_loss" in record] == [15, 30]
    assert all(record["tokens_per_second"] > 0 for record in found if "loss" in record)


def test_every_parameter_is_counted_once():
    trained = run("poems")  # its head shares the matrix of its embedding
    parts = summary.parameters_by_part(trained.model)
    assert sum(parts.values()) == sum(parameter.numel() for parameter in trained.model.parameters())


def test_samples_of_a_masked_model_show_what_is_hidden_and_what_it_tells():
    found = summary.samples(run("masked"))
    assert 1 <= len(found) <= summary.SAMPLES
    for sample in found:
        holes = sample["hidden"].split(summary.HOLE)
        assert len(holes) == 1 + len(sample["tokens"])
        assert all(each[""] == ("" if each["told"] == each["target"] else "✗") for each in sample["tokens"])
    assert any(sample["tokens"] for sample in found)
    assert all(each[key].strip() for sample in found for each in sample["tokens"] for key in ("told", "target"))
    page = (run("masked").folder / "report.html").read_text(encoding="utf-8")
    assert summary.HOLE in page


def test_samples_of_a_pairing_show_the_place_of_what_is_right_and_what_is_nearest():
    trained = run("pairs")
    found = summary.samples(trained)
    assert 1 <= len(found) <= summary.SAMPLES
    passages = int(found[0]["rank"].split(" of ")[1])
    for sample in found:
        rank = int(sample["rank"].split()[0])
        scores = [each["score"] for each in sample["nearest"]]
        assert len(scores) == min(summary.NEAREST, passages)
        assert scores == sorted(scores, reverse=True)
        assert sample["right"] == (rank == 1)
        place = (
            [each["passage"] for each in sample["nearest"]].index(sample["passage"]) + 1 if rank <= len(scores) else 0
        )
        assert place == (rank if rank <= len(scores) else 0)
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    assert f"<dt>rank</dt><dd>{found[0]['rank']}</dd>" in page  # an input may well be called text, and is no prompt


def test_samples_of_a_pairing_are_the_same_however_few_rows_are_read_at_once(monkeypatch: pytest.MonkeyPatch):
    trained = run("pairs")
    whole = summary.samples(trained)
    monkeypatch.setattr(summary, "PREDICT_ROWS", 3)
    pieces = summary.samples(trained)
    assert [sample["rank"] for sample in pieces] == [sample["rank"] for sample in whole]
    assert [sample["passage"] for sample in pieces] == [sample["passage"] for sample in whole]


def test_words_are_shown_with_their_tags_and_the_wrong_ones_are_marked():
    sample = summary._tagged("Ann went to Rome", ["B-per", "O", "O"], ["B-per", None, "O", "B-loc"])
    assert [each["word"] for each in sample["words"]] == ["Ann", "went", "to", "Rome"]
    assert [each[""] for each in sample["words"]] == ["", "✗", "", "✗"]
    assert sample["words"][1]["target"] == "(not seen in training)"
    assert sample["words"][3]["told"] == "–"
    assert sample["right"] is False
    assert summary._tagged("Ann", ["B-per"], ["B-per"])["right"] is True
