"""Words to vectors: the formulas restated in numpy, a tiny language whose neighbours come out, vectors that are asked for."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dougong
from dougong import assembly
from dougong.cli import next_steps
from dougong.core.config import read
from dougong.core.errors import DataError, FieldError, Note, RecipeError
from dougong.data.loader import once
from dougong.data.vocabulary import most_frequent, words_of
from dougong.fields import Field, words
from dougong.fields.words import Codec, Config, Head, Reader
from dougong.layers.losses import Loss
from dougong.retrieval import Corpus
from dougong.run import Run
from tests.clear_error import check_clear, clear_error

# ------------------------------------------------------------------------------------------------------------- cutting


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't stop-it, C++ x86_64", ["don't", "stop", "it", "c", "x86", "64"]),
        ("größe wächst; don’t", ["größe", "wächst", "don’t"]),
        ("我们 カタ を", ["我", "们", "カ", "タ", "を"]),  # each character by itself
        ("हिन्दी 한국어", ["हिन्दी", "한국어"]),  # marks belong to their letters
        ("-- …", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_and_single_characters_where_there_are_no_spaces(
    text: str, found: list[str]
) -> None:
    assert words_of(text, lowercase=True) == found


def test_plain_text_is_cut_as_any_other() -> None:
    text = "It's a rock'n'roll 'quote' x86_64\tA-b 3.5"
    assert words_of(text, lowercase=False) == words_of(text + " é", lowercase=False)[:-1]


def test_the_most_frequent_words_are_kept_and_memory_is_bounded() -> None:
    texts = ["a a a b b c", None, "a b d"]
    assert most_frequent(texts, size=9, least=2, lowercase=True) == [("a", 4), ("b", 3)]
    assert most_frequent(texts, size=3, least=1, lowercase=True) == [("a", 4), ("b", 3), ("c", 1)]
    many = (f"the word{number} of" for number in range(1000))
    assert most_frequent(many, size=2, least=1, lowercase=True, most=50) == [("of", 1000), ("the", 1000)]


def test_words_outside_are_left_out_and_counted() -> None:
    codec = Codec(Config(), ["a", "b"], [3, 2])
    columns, counts = codec.encode(["B a, c d", None])
    assert columns["tokens"].row(0).tolist() == [2, 1, 0]
    assert columns["tokens"].row(1).tolist() == [0]
    assert counts == {"words outside of the vocabulary": 2}


def test_a_text_without_frequent_words_is_told() -> None:
    with pytest.raises(DataError, match=r"no word stands 5 times in the training rows\. Fix: lower min_count"):
        Codec.fit(Config(column="t"), ["a b c"])


# ------------------------------------------------------------------------------------------------------------ the draws


def field_of(**settings: Any) -> Field:
    config = Config(**{"min_count": 1, "window": 3, "negatives": 4, "subsample": 0.0} | settings)
    return Field("x", config, Codec(config, list("abcdefg"), [50, 40, 30, 20, 10, 5, 1]))


def batch_of(rows: int = 3, length: int = 40) -> dict[str, torch.Tensor]:
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 8, (rows, length)))
    return {"x.tokens": tokens, "x.start": torch.arange(rows) * length}


def test_noise_is_drawn_by_the_power_of_three_quarters_and_windows_evenly() -> None:
    field = field_of(negatives=50, window=4)
    torch.manual_seed(0)
    batch = words.augment(field, {"x.tokens": torch.ones(8, 256, dtype=torch.int64)})
    share = np.bincount(batch["x.noise"].flatten().numpy(), minlength=8) / batch["x.noise"].numel()
    counts = np.array([0, 50, 40, 30, 20, 10, 5, 1]) ** 0.75
    np.testing.assert_allclose(share, counts / counts.sum(), atol=0.004)
    reach = (batch["x.pairs"].sum(-1) / 2)[:, 4:-4]  # all words are of one text
    np.testing.assert_allclose(
        np.bincount(reach.flatten().long(), minlength=5) / reach.numel(), [0, *[0.25] * 4], atol=0.04
    )


def test_windows_end_where_a_text_does() -> None:
    tokens = torch.tensor([[1, 2, 0, 3, 4, 0, 0]])
    pairs = words.measured(field_of(window=1), {"x.tokens": tokens, "x.start": torch.tensor([0])})["x.pairs"]
    assert pairs.nonzero().tolist() == [[0, 0, 1], [0, 1, 0], [0, 3, 4], [0, 4, 3]]


def test_frequent_words_are_left_out_at_times_and_windows_reach_across() -> None:
    field = field_of(subsample=0.002, window=1)
    kept = np.sqrt(0.002 / (np.array([50, 40, 30, 20, 10, 5, 1]) / 156))
    np.testing.assert_allclose(field.codec.kept, [1, *kept.clip(max=1)], rtol=1e-6)
    torch.manual_seed(0)
    tokens = torch.tensor([2, 7]).repeat(400, 20)
    pairs = words.augment(field, {"x.tokens": tokens})["x.pairs"]
    stayed = pairs.any(-1)
    assert float(stayed[tokens == 2].float().mean()) == pytest.approx(kept[1], abs=0.01)
    assert float(stayed[tokens == 7].float().mean()) == pytest.approx(kept[6], abs=0.01)
    row = int((stayed.sum(1) > 3).nonzero()[0])
    places = stayed[row].nonzero()[:, 0].tolist()
    expected = sorted([*pairwise(places), *(pair[::-1] for pair in pairwise(places))])
    assert pairs[row].nonzero().tolist() == [list(pair) for pair in expected]


def test_training_draws_anew_and_repeats_with_the_generator_while_measuring_always_draws_the_same() -> None:
    field, batch = field_of(), batch_of()
    torch.manual_seed(5)
    first, second = words.augment(field, batch), words.augment(field, batch)
    torch.manual_seed(5)
    again = words.augment(field, batch)
    before = torch.get_rng_state()
    measured = [words.measured(field, batch) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    for key in ("x.pairs", "x.noise"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], second[key])
        assert torch.equal(measured[0][key], measured[1][key])


# -------------------------------------------------------------------------------------------------------- the formulas


def model_of(field: Field, loss: Loss, width: int = 6) -> tuple[Reader, Head]:
    reader, head = Reader(field.config, field.codec, width, 4), Head(field.config, field.codec, width, loss)
    torch.manual_seed(3)
    for part in (reader, head):
        torch.nn.init.normal_(part.embedding.weight)
    return reader, head


def restated(
    field: Field, batch: dict[str, torch.Tensor], read_: np.ndarray, told: np.ndarray, kind: str
) -> list[float]:
    """The nats of each word that is told, one by one as the papers write them: float64, loops."""
    tokens, pairs, noise = (batch[f"x.{key}"].numpy() for key in ("tokens", "pairs", "noise"))

    def nats(vector: np.ndarray, right: int, wrong: np.ndarray) -> float:
        if kind == "cross_entropy":
            return float(np.log(np.exp(told @ vector).sum()) - told[right] @ vector)
        return float(np.log1p(np.exp(-told[right] @ vector)) + np.log1p(np.exp(told[wrong] @ vector)).sum())

    found = []
    for row, place in np.ndindex(tokens.shape):
        around = tokens[row][pairs[row, place]]
        if field.config.objective == "skip_gram":
            found += [nats(read_[tokens[row, place]], other, noise[row, place]) for other in around]
        elif len(around):
            found.append(nats(read_[around].mean(0), tokens[row, place], noise[row, place]))
    return found


@pytest.mark.parametrize("objective", ["skip_gram", "cbow"])
@pytest.mark.parametrize("kind", ["auto", "cross_entropy"])
def test_loss_count_and_prediction_are_those_of_the_formulas(objective: str, kind: str) -> None:
    field = field_of(objective=objective)
    batch = words.measured(field, batch_of())
    reader, head = model_of(field, Loss(kind=kind))
    features = reader.concealed(batch, "x")
    loss = head.loss(features, batch, "x")
    tables = [part.embedding.weight.detach().double().numpy() for part in (reader, head)]
    expected = restated(field, batch, *tables, kind)
    assert int(head.count(batch, "x")) == len(expected) > 50
    assert loss.item() == pytest.approx(sum(expected), rel=1e-5)
    with torch.no_grad():
        predicted = head.predict(features, batch, "x")
    assert predicted["nats"].sum().item() == pytest.approx(sum(expected), rel=1e-5)
    assert int(predicted["told"].sum()) == len(expected)
    assert (predicted["right"] <= predicted["told"]).all()
    loss.backward()
    assert head.embedding.weight.grad is not None
    assert head.embedding.weight.grad[0].abs().sum() == 0 or kind == "cross_entropy"  # the end is never told, nor noise


def test_a_model_that_knows_nothing_is_right_half_the_time() -> None:
    field = field_of()
    batch = words.measured(field, batch_of())
    reader, head = model_of(field, Loss())
    torch.nn.init.zeros_(head.embedding.weight)
    predicted = head.predict(reader.concealed(batch, "x"), batch, "x")
    torch.testing.assert_close(predicted["right"], predicted["told"] / 2)
    torch.testing.assert_close(predicted["nats"], predicted["told"] * 5 * np.log(2).astype(np.float32))


# ------------------------------------------------------------------------------------------------------ a tiny language

ALIKE = [{"cat", "dog", "cow"}, {"milk", "bone", "grass"}, {"car", "bus", "van"}, {"wheel", "door", "motor"}]


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in which words of one group stand in the same places."""
    chance = random.Random(0)
    path = tmp_path_factory.mktemp("language") / "rows.jsonl"
    groups = [sorted(group) for group in ALIKE]
    rows = []
    for row in range(600):
        first, second = (chance.choice(group) for group in (groups[:2] if row % 2 else groups[2:]))
        text = (
            f"the {first} often eats some {second} every day"
            if row % 2
            else f"a {first} has lost its {second} on that road"
        )
        rows.append(json.dumps({"text": text}))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def recipe_of(path: Path, objective: str = "skip_gram", **output: Any) -> dict[str, Any]:
    settings = {"min_count": 1, "subsample": 0, "max_length": 64, "window": 3, "objective": objective, **output}
    return {
        "name": f"words-{objective}",
        "data": {"train": str(path), "cache": str(path.parent / "prepared")},
        "outputs": {"text": {"type": "words", **settings}},
        "model": {"kind": "identity", "width": 16},
        "train": {
            "steps": 240, "batch_tokens": 1024, "optimizer": {"kind": "adamw", "lr": 0.02},
            "device": "cpu", "validate_every": 60,
        },
    }  # fmt: skip


@pytest.fixture(scope="module", params=["skip_gram", "cbow"])
def trained(request: pytest.FixtureRequest, language: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(language.parent)
        dougong.train(recipe_of(language, request.param))
        return dougong.load(language.parent / "runs" / f"words-{request.param}")


def nearest_words(run: Run, word: str, top: int) -> list[str]:
    (answer,) = dougong.predict(run, [word], top=top)
    return [each["value"] for each in answer["text"]["nearest"]]


def test_words_that_stand_in_the_same_places_are_neighbours(trained: Run) -> None:
    for group in ALIKE:
        for word in group:
            assert set(nearest_words(trained, word, 2)) == group - {word}


def test_it_is_measured_on_held_out_text_better_than_chance(trained: Run) -> None:
    found = dougong.evaluate(trained).metrics
    assert list(found) == ["text.noise_auc", "text.loss"]
    assert found["text.noise_auc"].low > 0.7
    assert found["text.loss"].value < 6 * np.log(2)
    plan = assembly.plan_of(trained.recipe, trained.prepared.split("test"), trained.inputs, trained.outputs)
    nats = count = 0.0
    with torch.no_grad():
        for batch in map(trained.model.measured, once(plan)):
            nats += float(trained.model.losses(batch)["text"])
            count += int(trained.model.counts(batch)["text"])
    assert found["text.loss"].value == pytest.approx(nats / count, rel=1e-4)


def test_a_vector_has_length_one_and_that_of_several_words_is_their_mean(trained: Run) -> None:
    cat, dog, both = (np.array(each["text"]["embedding"]) for each in trained.embed(["cat", "Dog", "cat dog"]))
    np.testing.assert_allclose([np.linalg.norm(each) for each in (cat, dog, both)], 1, rtol=1e-5)
    np.testing.assert_allclose(both, (cat + dog) / np.linalg.norm(cat + dog), atol=1e-5)
    assert len(cat) == 16


def test_a_list_of_words_is_a_file_with_a_word_a_line(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\nczt\nbus\n", encoding="utf-8")
    found = dougong.predict(trained, tmp_path / "words.txt", top=2)
    assert {each["value"] for each in found[0]["text"]["nearest"]} == {"dog", "cow"}
    assert "found 'czt'; the nearest is 'cat'" in found[1]["error"]
    assert {each["value"] for each in found[2]["text"]["nearest"]} == {"car", "van"}
    vectors = dougong.predict(trained, tmp_path / "words.txt", embed=True)
    assert vectors[0] == trained.embed(["cat"])[0]


def test_a_corpus_of_texts_is_searched_by_the_mean_of_their_words(trained: Run) -> None:
    rows = [{"text": "a motor and a wheel"}, {"text": "milk or grass"}]
    with pytest.warns(Note, match="2 words outside of the vocabulary"):
        (answer,) = dougong.predict(trained, ["bone"], corpus=rows, top=1)
    assert answer["text"]["nearest"][0]["row"] == 2
    assert answer["text"]["nearest"][0]["value"] == "milk or grass"


def test_the_words_of_a_row_are_no_answer_to_it(trained: Run) -> None:
    corpus = Corpus.vocabulary(trained, 30)
    count = len(trained.outputs[0].codec.words)
    (answer,) = corpus.answer(["cat dog"], Counter())
    found = [each["value"] for each in answer["text"]["nearest"]]
    assert len(found) == count - 2
    assert {"cat", "dog"}.isdisjoint(found)


# ------------------------------------------------------------------------------------------------------ what is refused


def test_what_a_run_of_words_cannot_do_is_refused_with_what_it_can(trained: Run) -> None:
    with clear_error("words", "use embed for their vectors, or top"):
        trained.predict(["cat"])
    with pytest.raises(FieldError, match=r"Fix: use predict with embed or top"):
        trained.generate(["cat"])
    with clear_error("embed", "one of embed and top"):
        dougong.predict(trained, ["cat"], embed=True, top=3)
    with pytest.raises(
        DataError, match=r"expected one of the .* words that have a vector, found 'wheal'; the nearest is 'wheel'"
    ):
        dougong.predict(trained, ["wheal"], top=3)
    with pytest.raises(DataError, match=r"expected a word, found '…'"):
        trained.embed(["…"])
    assert "--top 10" in next_steps(trained)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("negatives", 0, "from 1"),
        ("window", 0, "from 1"),
        ("subsample", -1, "from 0"),
        ("objective", "skipgram", "'skip_gram'"),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_what_can(key: str, value: Any, expected: str) -> None:
    (problem,) = read(Config, {"type": "words", key: value}, "outputs.text")[1]
    check_clear(str(problem), f"outputs.text.{key}", expected)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": "transformer"}, ("model.kind", "'transformer'", "identity", "leave it out")),
        ({"inputs": {"x": "number"}}, ("inputs", "none beside a words", "remove")),
        ({"train": {"steps": 2, "batch_tokens": 8}}, ("train.batch_tokens", "8", "64 tokens", "batch_tokens: 64")),
        ({"train": {"steps": 2, "loss": "mse"}}, ("train.loss.kind", "'mse'", "one of auto, cross_entropy")),
    ],
)
def test_what_makes_no_vectors_is_refused_with_the_recipe(
    more: dict[str, Any], said: tuple[str, ...], language: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        dougong.check(recipe_of(language) | more)
    check_clear(str(caught.value), *said)


def test_smoothing_is_refused_beside_negative_sampling() -> None:
    field = field_of()
    with clear_error("train.loss.label_smoothing", "0 beside negative sampling", "kind: cross_entropy"):
        Head(field.config, field.codec, 4, Loss(label_smoothing=0.1))


def test_the_backbone_is_nothing_at_all_unless_another_is_asked_for(language: Path) -> None:
    plain = recipe_of(language)
    del plain["model"]
    assert dougong.recipe.load(plain).model.kind == "identity"
