from __future__ import annotations

import re

import pytest

from dougong.evaluation import summary
from tests.small_runs import run

SORTS = ["reviews", "prices", "tags", "poems", "replies"]


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
    keys = {"prompt", "text"} if name == "poems" else {"input", "prediction", "target"}
    assert all(set(sample) == keys for sample in found)
    if name != "poems":
        (output,) = trained.recipe.outputs
        assert all(sample["prediction"].startswith(f"{output}: ") for sample in found)
        assert all(sample["target"].startswith(f"{output}: ") for sample in found)


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
    lines = summary.headline(trained.recipe, trained.model, trained.prepared).splitlines()
    count = sum(parameter.numel() for parameter in trained.model.parameters())
    assert lines[0] == f"prices: colour, stars → price; mlp, {count:,} parameters"
    assert re.fullmatch(r"rows: \d+ train, \d+ validation, \d+ test; budget: 30 steps; adamw", lines[1])
    assert "matrix products in float32" in lines[2]


def test_the_log_gives_a_point_a_step_and_the_validations_beside_them():
    found = summary.log_of(run("reviews").folder / "log.jsonl")
    assert [record["step"] for record in found if "loss" in record] == list(range(1, 31))
    assert [record["step"] for record in found if "val_loss" in record] == [15, 30]
    assert all(record["tokens_per_second"] > 0 for record in found if "loss" in record)


def test_every_parameter_is_counted_once():
    trained = run("poems")  # its head shares the matrix of its embedding
    parts = summary.parameters_by_part(trained.model)
    assert sum(parts.values()) == sum(parameter.numel() for parameter in trained.model.parameters())
