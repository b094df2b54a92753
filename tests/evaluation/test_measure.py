from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as reference

import dougong
from dougong import assembly
from dougong.core.artefacts import read_sealed, write_sealed
from dougong.core.errors import ArtefactError, DataError, FieldError
from dougong.data.columns import Ragged
from dougong.data.loader import POOL
from dougong.evaluation import measure
from dougong.evaluation.measure import Kept, Measured, read_measured, read_predictions
from dougong.metrics.intervals import Accumulator, Estimate
from tests.small_runs import home, recipe_of, run

SORTS = ["reviews", "prices", "tags", "poems", "replies", "spans"]


def measured(name: str, split: str = "train", keep: Path | None = None, **changes: Any) -> Measured:
    trained = run(name)
    plan = assembly.plan_of(trained.recipe, trained.prepared.split(split), trained.inputs, trained.outputs)
    for key, value in changes.items():
        setattr(plan, key, value)
    return measure.measure(trained.model, plan, split, trained.autocast, keep=keep, replicates=50)


def raw(name: str, split: str = "train") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All rows of a split as one batch: what the model says of them, and the columns."""
    trained = run(name)
    rows = trained.prepared.split(split)
    batch = rows.take(np.arange(rows.rows))
    columns = {key: value for key, value in batch.items() if isinstance(value, np.ndarray)}
    plan = assembly.plan_of(trained.recipe, rows, trained.inputs, trained.outputs)
    with torch.inference_mode():
        said = trained.model.predict(plan.collate(np.arange(rows.rows), 0))
    return {key: value.numpy() for part in said.values() for key, value in part.items()}, columns


def test_a_category_is_measured_as_scikit_learn_does():
    found, (said, columns) = measured("reviews"), raw("reviews")
    actual, probabilities = columns["label.index"], said["probabilities"]
    value = {name: estimate.value for name, estimate in found.metrics.items()}
    assert value["label.accuracy"] == pytest.approx(reference.accuracy_score(actual, probabilities.argmax(1)))
    assert value["label.f1_macro"] == pytest.approx(
        reference.f1_score(actual, probabilities.argmax(1), average="macro")
    )
    assert value["label.auc"] == pytest.approx(reference.roc_auc_score(actual, probabilities[:, 1]), abs=2e-3)
    assert value["label.loss"] == pytest.approx(reference.log_loss(actual, probabilities), rel=1e-4)
    assert found.losses["label"] == pytest.approx(value["label.loss"], rel=1e-4)
    confusion = np.array(found.details["label"]["confusion"])
    assert np.array_equal(confusion[:-1], reference.confusion_matrix(actual, probabilities.argmax(1)))
    assert confusion.sum() == found.rows == len(actual)


def test_a_number_is_measured_in_the_unit_of_the_data():
    found, (said, columns) = measured("prices"), raw("prices")
    value = {name: estimate.value for name, estimate in found.metrics.items()}
    actual = columns["price.value"]
    assert value["price.mae"] == pytest.approx(reference.mean_absolute_error(actual, said["value"]), rel=1e-5)
    assert value["price.rmse"] == pytest.approx(reference.root_mean_squared_error(actual, said["value"]), rel=1e-5)
    assert value["price.r2"] == pytest.approx(reference.r2_score(actual, said["value"]), rel=1e-5)
    assert value["price.pearson"] == pytest.approx(stats.pearsonr(said["value"], actual).statistic, rel=1e-4)
    assert value["price.spearman"] == pytest.approx(stats.spearmanr(said["value"], actual).statistic, rel=1e-3)


def test_labels_are_measured_at_the_threshold_of_their_field():
    found, (said, columns) = measured("tags"), raw("tags")
    actual = columns["tags.indicators"]
    chosen = said["probabilities"] >= 0.3
    assert not np.array_equal(chosen, said["probabilities"] >= 0.5)  # or the test would show nothing
    value = {name: estimate.value for name, estimate in found.metrics.items()}
    assert value["tags.f1_micro"] == pytest.approx(reference.f1_score(actual, chosen, average="micro"))
    assert value["tags.f1_macro"] == pytest.approx(reference.f1_score(actual, chosen, average="macro"))
    assert value["tags.exact_match"] == pytest.approx(reference.accuracy_score(actual, chosen))


@pytest.mark.parametrize(("name", "output"), [("poems", "text"), ("replies", "reply")])
def test_a_text_is_measured_by_its_tokens_and_bytes(name: str, output: str, tmp_path: Path):
    found = measured(name, keep=tmp_path)
    split = run(name).prepared.split("train")
    columns = split.take(np.arange(split.rows))
    tokens, size = columns[f"{output}.tokens"].lengths.sum(), columns[f"{output}.bytes"].sum()  # type: ignore[union-attr]
    kept = read_predictions(tmp_path, run(name).outputs[0])
    nats = sum(np.asarray(prediction["nats"], dtype=np.float64).sum() for _, prediction, _ in kept)
    value = {key: estimate.value for key, estimate in found.metrics.items()}
    assert value[f"{output}.loss"] == pytest.approx(nats / tokens, rel=1e-6)
    assert value[f"{output}.perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-6)
    assert value[f"{output}.bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-6)
    assert found.rows == split.rows


@pytest.mark.parametrize("name", SORTS)
def test_the_size_of_batches_does_not_matter(name: str):
    whole, small = measured(name), measured(name, batch_rows=3, batch_tokens=0, pool_rows=3 * POOL)
    assert whole.rows == small.rows
    for key, estimate in whole.metrics.items():
        other = small.metrics[key]
        # Other sizes are other sums in the last bit (more in bf16): answers that are all but equal change places.
        most = 2e-3 if key.endswith("spearman") else 2e-4
        for part in ("value", "low", "high"):
            assert getattr(other, part) == pytest.approx(getattr(estimate, part), rel=most, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", ["reviews", "prices"])
def test_the_order_of_rows_does_not_matter(name: str):
    first, second = measured(name), measured(name, shuffle=True, seed=9)
    for key, estimate in first.metrics.items():
        most = (
            2e-3 if key.endswith("spearman") else 1e-4
        )  # other batches, other last bits: nearly equal answers change places
        assert second.metrics[key].low == pytest.approx(estimate.low, rel=most, nan_ok=True)
        assert second.metrics[key].value == pytest.approx(estimate.value, rel=most, nan_ok=True)


@pytest.mark.parametrize("name", SORTS)
def test_what_is_kept_gives_the_same_metrics_again(name: str, tmp_path: Path):
    found = measured(name, keep=tmp_path)
    output = run(name).outputs[0]
    batches = read_predictions(tmp_path, output)
    again = Accumulator(output.type.METRICS(output.config, output.codec), replicates=0)
    for batch in batches:
        again.update(*batch)
    for metric, estimate in again.results().items():
        expected = found.metrics[f"{output.name}.{metric}"].value
        assert estimate.value == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_what_is_not_padded_is_kept_in_bounded_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "PART_BYTES", 1000)
    kept = Kept(tmp_path)
    for start in range(0, 100, 10):
        rows = np.arange(start, start + 10)
        ragged = Ragged.of([np.arange(index % 3) for index in rows], np.int64)
        padded = np.zeros((10, start + 1), dtype=np.int64)
        prediction = {"probabilities": np.full((10, 4), float(start)), "ragged": ragged}
        target = {"index": rows, "tokens": padded, "tokens.length": rows, "many": np.zeros((10, 2, 2))}
        kept.add(rows, {"a": prediction}, {"a": target})
    kept.flush()
    kept.flush()  # nothing more to write, nothing written
    parts = sorted(tmp_path.glob("part-*.arrow"))
    assert len(parts) > 4
    columns = measure.read_shard(parts[0])
    kept_names = {"a.prediction.probabilities", "a.prediction.ragged", "a.target.index", "a.target.many"}
    assert set(columns) == {"row", *kept_names}
    assert np.asarray(columns["a.target.many"]).shape[1:] == (2, 2)
    read = np.concatenate([np.asarray(measure.read_shard(part)["row"]) for part in parts])
    assert list(read) == list(range(100))


@pytest.mark.parametrize("name", SORTS)
def test_an_evaluation_reads_back_as_it_was_written(name: str):
    trained = run(name)
    (split,) = trained.evaluated_splits()
    found = dougong.evaluate(trained, split=split)
    again = read_measured(trained.folder / "evaluations" / split)
    assert json.dumps(again.to_json()) == json.dumps(found.to_json())
    assert again.rows == trained.receipt["data"]["rows"][split]


def test_the_json_of_an_evaluation_is_that_of_the_design():
    found = Measured("test", 872, {"label.accuracy": Estimate(0.88, 0.86, 0.90, 872)}, {})
    expected = {"split": "test", "rows": 872, "metrics": {"label.accuracy": {"value": 0.88, "low": 0.86, "high": 0.90}}}
    assert found.to_json() == expected
    assert found.text() == "test: 872 rows\n  label.accuracy               0.8800   (95 % interval 0.8600 to 0.9000)"


def test_a_metric_that_says_nothing_or_speaks_of_fewer_rows_says_so():
    found = Measured("test", 5, {"label.auc": Estimate(math.nan, math.nan, math.nan, 3)}, {})
    assert found.to_json()["metrics"] == {"label.auc": {"value": None, "low": None, "high": None, "rows": 3}}


def test_an_evaluation_that_was_tampered_with_is_refused(tmp_path: Path):
    trained = run("reviews")
    plan = assembly.plan_of(trained.recipe, trained.prepared.split("test"), trained.inputs, trained.outputs)
    folder = tmp_path / "test"
    measure.write_measured(folder, trained.model, plan, "test", trained.autocast, made_of={"data": "x", "weights": "y"})
    path = folder / "result.json"
    path.write_text(path.read_text().replace('"value": ', '"value": 1', 1))
    with pytest.raises(ArtefactError, match=r"result.json"):
        read_measured(folder)


def test_a_split_without_rows_is_refused_and_a_misspelt_one_told_the_nearest():
    with pytest.raises(FieldError, match=r"split = 'bogus': expected a split that has rows"):
        dougong.evaluate(run("reviews"), split="bogus")
    with pytest.raises(FieldError, match=r"split = 'tset': expected .* train, validation, test. Fix: write test"):
        dougong.evaluate(run("reviews"), split="tset")
    with pytest.raises(FieldError, match=r"split = 'trian': .*Fix: write train"):
        dougong.compare(run("reviews"), run("reviews-mlp"), split="trian")


@pytest.mark.parametrize("kind", ["category", "labels"])
def test_D6_a_class_that_stands_only_in_the_test_file_is_counted_and_counts_as_wrong(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name, rows, classes in (("train", 40, "ab"), ("test", 20, "abcd")):
        lines = [f"{index % 7},{classes[index % len(classes)]}" for index in range(rows)]
        Path(f"{name}.csv").write_text("\n".join(["x,y", *lines]) + "\n", encoding="utf-8")
    trained = dougong.train(
        {
            "name": "unseen", "model": {"kind": "mlp", "preset": "tiny"}, "train": {"steps": 4, "device": "cpu"},
            "data": {"train": "train.csv", "test": "test.csv", "split": {}},
            "inputs": {"x": "number"}, "outputs": {"y": kind},
        }
    )  # fmt: skip
    assert trained.outputs[0].codec.classes == ["a", "b"]
    found = read_measured(trained.folder / "evaluations" / "test")
    assert found.rows == 20
    assert found.details["y"]["unseen"] == 10
    assert [(record["class"], record["support"]) for record in found.details["y"]["classes"]] == [("a", 5), ("b", 5)]
    value = {name: estimate.value for name, estimate in found.metrics.items()}
    assert value["y.accuracy" if kind == "category" else "y.exact_match"] <= 0.5
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    assert "10 times a class is right that training never saw, and that nothing can predict." in page
    assert "unseen values" in json.dumps(trained.prepared.report.summary())


def test_each_class_has_its_scores_as_in_scikit_learn_and_they_are_kept(tmp_path: Path):
    for name, output, chosen in (
        ("reviews", "label", lambda said: np.eye(2)[said["probabilities"].argmax(1)]),
        ("tags", "tags", lambda said: said["probabilities"] >= 0.3),
    ):
        found, (said, columns) = measured(name), raw(name)
        actual = np.eye(2)[columns["label.index"]] if output == "label" else columns["tags.indicators"]
        expected = reference.precision_recall_fscore_support(actual, chosen(said), zero_division=np.nan)
        told = found.details[output]["classes"]
        assert [record["class"] for record in told] == run(name).outputs[0].codec.classes
        for key, each in zip(("precision", "recall", "f1", "support"), expected, strict=True):
            ours = [math.nan if record[key] is None else record[key] for record in told]
            assert ours == pytest.approx(each.tolist(), nan_ok=True)
        assert found.details[output]["unseen"] == 0
        kept = read_measured(run(name).folder / "evaluations" / "test").details[output]["classes"]
        assert [record["class"] for record in kept] == [record["class"] for record in told]
        assert '<section id="classes">' in (run(name).folder / "report.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- comparing


def test_two_runs_on_the_same_rows_are_compared():
    (found,) = dougong.compare(run("reviews"), run("reviews-mlp"), metric="label.accuracy")
    assert set(found.estimates) == {"reviews", "reviews-mlp"}
    (pair,) = found.pairs
    assert pair.difference == found.estimates["reviews-mlp"].value - found.estimates["reviews"].value
    assert pair.verdict in found.text()
    json.dumps(found.to_json(), allow_nan=False)
    every = dougong.compare(run("reviews"), run("reviews-mlp"))
    assert {each.metric for each in every} == set(run("reviews").metrics()["test"])


def test_runs_on_other_rows_are_not_compared():
    with pytest.raises(DataError, match=r"run 'prices' has no output 'label' as 'reviews' has; it has price. Fix: "):
        dougong.compare(run("reviews"), run("prices"))
    with pytest.raises(DataError, match=r"share|different rows"):
        dougong.compare(run("reviews"), run("reviews-other"))


def test_an_unknown_metric_is_told_the_nearest():
    with pytest.raises(FieldError, match=r"metric = 'label.acuracy': expected one of .*write 'label.accuracy'"):
        dougong.compare(run("reviews"), run("reviews-mlp"), metric="label.acuracy")
    with pytest.raises(FieldError, match=r"expected runs with different names"):
        dougong.compare(run("reviews"), run("reviews"))
    with pytest.raises(FieldError, match=r"expected at least two runs"):
        dougong.compare(run("reviews"))
    with pytest.raises(ArtefactError, match=r"no run there"):
        dougong.compare(run("reviews"), home() / "runs" / "nothing")


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two runs that were evaluated, to be damaged."""
    dougong.compare(run("reviews"), run("reviews-mlp"), metric="label.accuracy")
    return [Path(shutil.copytree(run(name).folder, tmp_path / name)) for name in ("reviews", "reviews-mlp")]


def test_a6_predictions_with_a_flipped_bit_are_not_compared(pair: list[Path]):
    (path,) = (pair[1] / "evaluations" / "test").glob("part-*.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"part-00000.arrow: its bytes are not those that were written") as caught:
        dougong.compare(*pair)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"data": "x"}, "made with other data than that of the run"),
        ({"weights": "x"}, "made with other weights than those of the run"),
        ({"weights": None}, "it does not say which weights it measured: an earlier dougong made it"),
    ],
)
def test_a6_an_evaluation_of_other_data_or_weights_is_not_compared(
    pair: list[Path], changes: dict[str, str | None], fault: str
):
    path = pair[0] / "evaluations" / "test" / "manifest.json"
    manifest = read_sealed(path)
    manifest["meta"] = {key: value for key, value in (manifest["meta"] | changes).items() if value is not None}
    write_sealed(path, manifest)
    with pytest.raises(ArtefactError, match=rf"{fault}. Fix: dougong evaluate .*reviews --split test") as caught:
        dougong.compare(*pair)
    assert caught.value.exit_code == 4
    dougong.evaluate(pair[0])
    assert dougong.compare(*pair, metric="label.accuracy")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"outputs": {"label": {"type": "category", "classes": ["bad", "good", "so-so"]}}},
            "other classes .*: so-so. Fix: ",
        ),
        (
            {"outputs": {"label": {"type": "category", "classes": ["good", "bad"]}}},
            "other classes .*their order. Fix: ",
        ),
        ({"outputs": {"label": "labels"}}, "output 'label' is a category in run 'reviews' and a labels in 'unlike'"),
    ],
)
def test_outputs_that_are_not_alike_are_refused_by_name_before_any_metric(
    changes: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dougong.lifecycle.report", lambda run: None)
    recipe = recipe_of("reviews-mlp") | {"name": "unlike", "train": {"steps": 1, "device": "cpu"}} | changes
    with pytest.raises(DataError, match=told):
        dougong.compare(run("reviews"), dougong.train(recipe))
