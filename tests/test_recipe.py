from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dougong import backbones, fields, recipe
from dougong.core.config import dump_yaml, parse_yaml
from dougong.core.errors import Problem, RecipeError
from dougong.layers import losses
from tests.clear_error import check_clear

GOOD = """name: reviews
seed: 0
data: {train: data/reviews.csv, split: {validation: 0.1}}
inputs:
  review: text
outputs:
  label: category
model: {kind: transformer, preset: small}
train: {epochs: 3}
"""
REVIEWS = """
name: reviews                       # -> runs/reviews
seed: 0
data:
  train: data/reviews.csv           # a path, a glob or a list: csv tsv jsonl parquet arrow txt; or a folder
  test: data/held_out.csv           # `validation` and `test` are optional …
  split: {validation: 0.1}          # … else cut off by a hash of the row: stable when rows are added
inputs:
  review: text                      # short for {type: text}; the column is the field's name unless `column:` says so
outputs:
  label: category
model: {kind: transformer, preset: small}       # optional: the types choose a sensible default
train: {epochs: 3}
"""
POEMS = """
name: poems                         # a language model: nothing in, text out
data: {train: "poems/*.txt"}
outputs:
  text: {type: text, tokenizer: {kind: bpe, vocab_size: 8192}}
model: {kind: transformer, layers: 8, width: 512, heads: 8}
train: {tokens: 20M, batch_tokens: 32k, optimizer: {kind: muon}, precision: bf16}
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def mistakes_of(folder: Path, text: str | bytes, *overrides: str) -> str:
    """The message that a recipe is refused with, without its first line (file and count)."""
    path = written(folder, text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, overrides)
    assert caught.value.exit_code == 2
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{path}: ")
    return "\n".join(line.strip() for line in lines)


# ------------------------------------------------------------------------------------------------------ what is right


def test_the_recipe_of_the_design_reads_as_it_stands(tmp_path: Path):
    read = recipe.load(written(tmp_path, REVIEWS))
    assert (read.name, read.seed, list(read.inputs), list(read.outputs)) == ("reviews", 0, ["review"], ["label"])
    assert (read.inputs["review"].type, read.outputs["label"].type) == ("text", "category")
    assert read.data.train == str(tmp_path / "data/reviews.csv")
    assert read.data.fractions == {"validation": 0.1}
    assert read.train.budget == ("epochs", 3.0)
    assert read.model == backbones.load("transformer").PRESETS["small"]
    assert read.text == REVIEWS


def test_the_language_model_of_the_design_reads_as_it_stands(tmp_path: Path):
    read = recipe.load(written(tmp_path, POEMS))
    assert read.written == "text"
    assert read.inputs == {}
    assert read.outputs["text"].tokenizer.vocab_size == 8192
    assert (read.model.layers, read.model.width, read.model.heads) == (8, 512, 8)
    assert (read.train.tokens, read.train.batch_tokens) == (20_000_000, 32_000)
    assert (read.train.optimizer.kind, read.train.precision) == ("muon", "bf16")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E-3", 1e-3),
        ("0.001", 1e-3),
        (".001", 1e-3),
        ("1.0e-3", 1e-3),
        ("2", 2.0),
        ("1_000.5", 1000.5),
    ],
)
def test_a_number_is_read_as_people_write_it(tmp_path: Path, text: str, value: float):
    read = recipe.load(written(tmp_path, GOOD), [f"train.optimizer={{kind: adamw, lr: {text}}}"])
    assert read.train.optimizer.lr == value


@pytest.mark.parametrize(
    ("text", "count"), [("7", 7), ("32k", 32_000), ("1.5M", 1_500_000), ("2B", 2 * 10**9), ("3 K", 3000), ('"8"', 8)]
)
def test_a_count_may_have_a_suffix(tmp_path: Path, text: str, count: int):
    assert recipe.load(written(tmp_path, GOOD), [f"train.batch_tokens={text}"]).train.batch_tokens == count


@pytest.mark.parametrize(("text", "value"), [("100", 100), ("2k", 2000), ("90s", 90.0), ("5m", 300.0), ("1h", 3600.0)])
def test_an_interval_is_a_number_of_steps_or_a_time(tmp_path: Path, text: str, value: float):
    every = recipe.load(written(tmp_path, GOOD), [f"train.validate_every={text}"]).train.validate_every
    assert every == value
    assert isinstance(every, type(value))


def test_words_of_older_yaml_are_only_words(tmp_path: Path):
    text = GOOD.replace("label: category", "label: {type: category, classes: [yes, no, on, off, 012, 0x1, 1:30, .inf]}")
    expected = ("yes", "no", "on", "off", "012", "0x1", "1:30", ".inf")
    assert recipe.load(written(tmp_path, text)).outputs["label"].classes == expected


def test_the_short_forms_mean_the_long_ones(tmp_path: Path):
    short = recipe.load(written(tmp_path, GOOD), ["train.optimizer=muon", "train.schedule=wsd", "model=recurrent"])
    long = recipe.load(
        written(tmp_path, GOOD),
        [
            "inputs.review={type: text}",
            "train.optimizer={kind: muon}",
            "train.schedule={kind: wsd}",
            "model.kind=recurrent",
        ],
    )
    assert short.resolved() == long.resolved()


def test_settings_without_a_kind_are_those_of_the_default_kind(tmp_path: Path):
    given = ["train.optimizer.lr=0.01", "train.schedule.warmup=0.2", "inputs.review.tokenizer.vocab_size=500"]
    read = recipe.load(written(tmp_path, GOOD), given)
    assert (read.train.optimizer.kind, read.train.optimizer.lr) == ("adamw", 0.01)
    assert (read.train.schedule.kind, read.train.schedule.warmup) == ("cosine", 0.2)
    assert (read.inputs["review"].tokenizer.kind, read.inputs["review"].tokenizer.vocab_size) == ("bpe", 500)


def test_the_rules_of_a_type_are_asked_of_the_whole_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def check(key: str, config: Any, whole: fields.Whole):
        yield Problem(f"{key}.type", config.type, f"{', '.join(whole.inputs)} to be a number", "write type: number")

    monkeypatch.setattr(fields.load("text"), "check", check, raising=False)
    said = mistakes_of(tmp_path, GOOD)
    assert "inputs.review.type = 'text': expected review to be a number. Fix: write type: number." in said
    assert said.count("to be a number") == 1


def test_mixup_beside_another_input_is_refused(tmp_path: Path):
    text = GOOD.replace("review: text", "{review: text, photo: {type: image, augment: {mixup: 0.2}}}")
    text = text.replace("inputs:\n  {", "inputs: {")
    said = mistakes_of(tmp_path, text)
    assert "inputs.photo.augment.mixup = 0.2: expected 0 beside other inputs" in said


def test_rows_are_not_blended_before_a_text(tmp_path: Path):
    text = GOOD.replace("review: text", "photo: {type: image, augment: {cutmix: 1.0}}").replace(
        "label: category", "said: text"
    )
    assert "inputs.photo.augment.cutmix = 1.0: expected 0 before a text" in mistakes_of(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("review: text", "review: {type: text, tied: false}", "inputs.review.tied"),
        ("review: text", "review: {type: text, loss: cross_entropy}", "inputs.review.loss"),
        ("review: text", "review: {type: text, weight: 2}", "inputs.review.weight"),
        ("review: text", "review: {type: image, weight: 2}", "inputs.review.weight"),
        ("review: text", "review: {type: category, balance: true}", "inputs.review.balance"),
        ("review: text", "review: {type: labels, threshold: 0.2}", "inputs.review.threshold"),
        ("review: text", "review: {type: number, pool: max}", "inputs.review.pool"),
        ("review: text", "review: {type: number, dropout: 0.1}", "inputs.review.dropout"),
        ("label: category", "label: {type: number, bins: 3}", "outputs.label.bins"),
        ("label: category", "label: {type: text, ngrams: 3}", "outputs.label.ngrams"),
        ("label: category", "label: {type: text, token_dropout: 0.1}", "outputs.label.token_dropout"),
        ("label: category", "label: {type: text, rarity: true}", "outputs.label.rarity"),
        ("review: text", "review: {type: text, copy: true}", "inputs.review.copy"),
    ],
)
def test_a_setting_without_effect_on_its_side_is_refused(tmp_path: Path, old: str, new: str, key: str):
    found = mistakes_of(tmp_path, GOOD.replace(old, new))
    side = "outputs" if key.startswith("inputs") else "inputs"
    assert f"{key} = " in found
    assert found.endswith(f": expected it among the {side} only. Fix: remove it.")


def test_a_setting_that_says_the_default_on_the_other_side_reads(tmp_path: Path):
    for old, new in (("review: text", "review: {type: text, tied: true}"), ("category", "{type: number, bins: 16}")):
        recipe.load(written(tmp_path, GOOD.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "change", "said"),
    [
        (POEMS, "train.batch_tokens=511", "train.batch_tokens = 511: expected at least the 512 tokens of one window "
         "(outputs.text.max_length). Fix: write batch_tokens: 512."),
        (GOOD, "data.cleaning.outliers=4", "data.cleaning.outliers = 4.0: expected a field of type number that it could look "
         "at. Fix: remove it."),
        (GOOD.replace("review: text", "review: number"), "data.cleaning.near_duplicates=drop",
         "data.cleaning.near_duplicates = 'drop': expected off, where no field is of type text. Fix: remove it."),
        (GOOD.replace("  review: text", "  photo: image\n  size: number"), "model=convnet",
         "model.kind = 'convnet': expected a backbone that can read the image 'photo' beside other inputs. Fix: write kind: "
         "transformer, or give it an encoder of its own: photo: {type: image, encoder: convnet}."),
    ],
)  # fmt: skip
def test_what_could_have_no_effect_or_end_badly_is_refused_before_any_data_is_read(
    tmp_path: Path, text: str, change: str, said: str
):
    assert said in mistakes_of(tmp_path, text, change)


def test_rules_that_have_their_field_and_images_with_their_encoder_read(tmp_path: Path):
    recipe.load(written(tmp_path, POEMS), ["train.batch_tokens=512", "data.cleaning.near_duplicates=drop"])
    recipe.load(written(tmp_path, GOOD.replace("category", "number")), ["data.cleaning.outliers=4"])
    own = GOOD.replace("  review: text", "  photo: {type: image, encoder: convnet}\n  size: number")
    recipe.load(written(tmp_path, own), ["model=convnet"])


@pytest.mark.parametrize("size", ["layers: 1000000000", "width: 100000000"])
def test_sizes_beyond_any_machine_are_refused_at_once(tmp_path: Path, size: str):
    name, value = size.split(": ")
    assert f"model.{name} = {value}: expected a whole number" in mistakes_of(tmp_path, GOOD, f"model.{name}={value}")


@pytest.mark.parametrize(
    ("inputs", "outputs", "kind"),
    [
        ("{a: number, b: category}", "{y: number}", "mlp"),
        ("{a: text}", "{y: category}", "mlp"),
        ("{a: image}", "{y: category}", "convnet"),
        ("{a: image, b: text}", "{y: category}", "transformer"),
        ("{}", "{y: text}", "transformer"),
        ("{a: text}", "{y: text}", "transformer"),
    ],
)
def test_the_types_choose_the_backbone(tmp_path: Path, inputs: str, outputs: str, kind: str):
    text = f"name: x\ndata: {{train: x.csv}}\ninputs: {inputs}\noutputs: {outputs}\ntrain: {{steps: 1}}\n"
    assert recipe.load(written(tmp_path, text)).model.kind == kind


def test_a_mapping_is_read_like_a_file(tmp_path: Path):
    plain, _ = parse_yaml(GOOD, "x")
    plain["data"]["train"] = tmp_path / "data/reviews.csv"  # a Path is as good as its text
    assert recipe.load(plain).resolved() == recipe.load(written(tmp_path, GOOD)).resolved()


def test_a_mapping_may_hold_one_object_twice_and_text_that_looks_like_a_number(tmp_path: Path):
    same = {"type": "category", "classes": ["1e3", "true", "null", "007", "2020-01-01", "a: b", "- x", "!a", "#"]}
    plain = {"name": "1e3", "data": {"train": "x.csv"}, "inputs": {"a": same}, "outputs": {"b": same}}
    read = recipe.load(plain | {"train": {"steps": 1}})
    assert read.name == "1e3"
    assert list(read.outputs["b"].classes) == same["classes"]
    assert read.inputs["a"] == read.outputs["b"]


def test_the_path_of_a_tokenizer_starts_at_the_recipe(tmp_path: Path):
    text = GOOD.replace("review: text", "review: {type: text, tokenizer: {kind: file, path: a/tokenizer.json}}")
    read = recipe.load(written(tmp_path, text))
    assert read.inputs["review"].tokenizer.path == str(tmp_path / "a/tokenizer.json")
    assert recipe.from_resolved(read.resolved(), "", "x").resolved() == read.resolved()


def test_the_order_of_fields_means_nothing(tmp_path: Path):
    head = "name: x\ndata: {train: x.csv}\ntrain: {steps: 1}\n"
    first = recipe.load(written(tmp_path, head + "inputs: {b: number, a: text}\noutputs: {z: number, y: category}\n"))
    second = recipe.load(written(tmp_path, head + "outputs: {y: category, z: number}\ninputs: {a: text, b: number}\n"))
    assert list(first.inputs) == list(second.inputs) == ["a", "b"]  # the order in which a model is built
    assert list(first.outputs) == list(second.outputs) == ["y", "z"]


# --------------------------------------------------------------------------------------------------- what is a mistake


def golden() -> list[tuple[str, str, str]]:
    text = (Path(__file__).parent / "recipe_mistakes.txt").read_text(encoding="utf-8")
    text = text.replace("{TYPES_IN}", ", ".join(fields.having("Encoder")))
    text = text.replace("{TYPES_OUT}", ", ".join(fields.having("Head")))
    text = text.replace("{PRESETS}", ", ".join(backbones.load("transformer").PRESETS))
    text = text.replace("{BACKBONES}", ", ".join(backbones.names()))
    text = text.replace("{LOSSES}", ", ".join(get_args(get_type_hints(losses.Loss)["kind"])))
    blocks = text.split("\n\n")[1:]
    split = [block.strip("\n").split("\n") for block in blocks]
    changes = [change.replace("\\n", "\n").replace("\\t", "\t").partition(" -> ") for change, _ in split]
    return [(old, new, message) for (old, _, new), (_, message) in zip(changes, split, strict=True)]


@pytest.mark.parametrize(("old", "new", "message"), golden())
def test_a_mistake_is_answered_word_for_word(tmp_path: Path, old: str, new: str, message: str):
    assert old in GOOD
    found = mistakes_of(tmp_path, GOOD.replace(old, new))
    assert found == message
    assert found.startswith("line ")
    check_clear(found)


def test_texts_beyond_the_stretched_positions_are_refused(tmp_path: Path):
    found = mistakes_of(tmp_path, POEMS, "model.rotary_scaling={kind: linear, factor: 2, original: 100}")
    expected = "enough for 512 positions: 100 times it are 200. Fix: use factor: 6, or shorter sequences."
    assert found.partition("model.")[2] == f"rotary_scaling.factor = 2.0: expected {expected}"


def test_no_message_speaks_the_language_of_the_library():
    messages = " ".join(message for _, _, message in golden()).lower()
    for word in ("pydantic", "instance", "validation error", "valid string", "integer", "array", "object", "literal",
                 "none is not", "input should", "dataclass", "correct the value"):  # fmt: skip
        assert word not in messages, word


def test_all_mistakes_are_listed_at_once(tmp_path: Path):
    text = GOOD.replace("epochs: 3", "epochs: -3, optimizer: adamm, clip_nrom: 1").replace("text", "txt") + "modle: 3\n"
    found = mistakes_of(tmp_path, text).splitlines()
    assert [line.partition(" = ")[0].partition(": there")[0] for line in found] == [
        "line 5: inputs.review.type",
        "line 9: train.epochs",
        "line 9: train.optimizer.kind",
        "line 9: train.clip_nrom",
        "line 10: modle",
    ]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}"])
def test_an_empty_recipe_is_told_what_it_lacks(tmp_path: Path, text: str):
    found = mistakes_of(tmp_path, text)
    for key in ("name", "data", "outputs", "train"):
        assert f"{key} is missing: expected " in found


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("- a\n- b\n", 1, "a mapping of keys to values"),
        ("text", 1, "a mapping of keys to values"),
        ("null", 1, "a mapping of keys to values"),
        ("a: 1\n---\nb: 2\n", 2, "one recipe in a file"),
        ("name: x\nname: y\n", 2, "each key once"),
        ("name: x\n\tseed: 1\n", 2, "no tab"),
        ("name: x\nseed: [1\ndata: 2\n", 2, "a bracket that is closed"),
        ("name: x\nseed: 'x\n", 2, "a quotation mark that is closed"),
        ("name: x\nseed: a: b\n", 2, "one key: value a line"),
        ("name: x\nseed: !!python/object/apply:os.system ['ls']\n", 2, "without a tag"),
        ("name: x\nseed: !!int 3\n", 2, "without a tag"),
        ("name: !name x\n", 1, "without a tag"),
        ("name: x\nseed: &a 3\n", 2, "without anchors"),
        ("name: x\nseed: *a\n", 2, "without anchors"),
        ("a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\n", 1, "without anchors"),
        ("name: x\n<<: {seed: 1}\n", 2, "there is no such key"),
        ("name: x\n? {a: b}\n: 3\n", 2, "keys that are words"),
        ("name: x\nseed: " + "[" * 100 + "]" * 100, 2, "at most 32 levels"),
        ("name: x\nseed: " + "{a: " * 30_000 + "}" * 30_000, 2, "at most 32 levels"),
        ("- " * 50_000, 1, "at most 32 levels"),
        ("name: x\nseed: " + "9" * 5000 + "\n", 2, "a finite number"),
        ("name: x\ntrain: {epochs: 1e999}\n", 2, "a finite number"),
        ("name: a\0b\n", 1, "text that can be printed"),
        ("name: x\nseed: \x07\n", 2, "text that can be printed"),
        (b"name: x\nseed: \xff\xfe\n", 2, "UTF-8 text"),
        ("name: x\nseed: 1\n".encode("utf-16"), 1, "UTF-8 text"),
        ("%YAML 9.9\n---\nname: x\n", 1, "valid YAML"),
    ],
)
def test_what_is_no_plain_mapping_is_refused_with_its_line(tmp_path: Path, text: str | bytes, line: int, expected: str):
    started = time.monotonic()
    found = mistakes_of(tmp_path, text)
    first = next(each for each in found.splitlines() if expected in each)
    assert first.startswith(f"line {line}: "), found
    assert time.monotonic() - started < 3


def test_a_file_that_is_no_recipe_is_refused_before_it_is_read_whole(tmp_path: Path):
    assert "at most 1 MB" in mistakes_of(tmp_path, "é" * (1 << 20))
    for path, said in (
        (tmp_path, "is a directory"),
        (tmp_path / "no.yaml", "no such file"),
        ("/dev/zero", "at most 1 MB"),
    ):
        with pytest.raises(RecipeError, match=said):
            recipe.load(path)


SIZES = "layers: 8, width: 512, heads: 8"


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        (SIZES, "layers: 8, width: 512, heads: 7", "model.width", "a multiple of heads (7)"),
        (f"transformer, {SIZES}", "mlp", "model.kind", "a backbone that can write 'text'"),
        (f"transformer, {SIZES}", "recurrent, bidirectional: true", "model.bidirectional", "auto or false"),
        (SIZES, "cross: true", "model.cross", "the layout says"),
        (SIZES, "layout: encoder-decoder", "model.layout", "decoder, where no text is written from inputs"),
        (SIZES, "encoder_layers: 2", "model.encoder_layers", "none beside layout: decoder"),
        (SIZES, "positions: learned, max_length: 64", "model.max_length", "at least the 512 tokens"),
        ("precision: bf16", "loss: mse", "train.loss.kind", "because 'text' is a text"),
    ],
)
def test_what_a_language_model_cannot_be_is_said(tmp_path: Path, old: str, new: str, key: str, expected: str):
    found = mistakes_of(tmp_path, POEMS.replace(old, new))
    assert f": {key} = " in found
    assert expected in found


ANSWERED = GOOD.replace("label: category", "label: {type: text, shares: review}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "shares: review",
            "shares: reviews",
            "'reviews': expected an input of type text: one of review. Fix: write shares: review.",
        ),
        ("review: text", "review: number", "'review': expected an input of type text. Fix: remove it."),
        (
            "review: text",
            "review: {type: text, lowercase: true}",
            "'review': expected an input with the same lowercase, and review has True. "
            "Fix: write lowercase alike in inputs.review and outputs.label, or remove it.",
        ),
        (
            "review: text",
            "review: {type: text, ngrams: 2}",
            "'review': expected an input that embeds its tokens, not their ngrams",
        ),
        (
            "review: text",
            "review: {type: text, rarity: true}",
            "and without rarity. Fix: remove it, or ngrams and rarity of review.",
        ),
        (
            "review: text",
            "review: {type: text, encoder: transformer}",
            "'review': expected an input without an encoder of its own",
        ),
    ],
)
def test_what_an_answer_cannot_share_is_said(tmp_path: Path, old: str, new: str, said: str):
    found = mistakes_of(tmp_path, ANSWERED.replace(old, new))
    assert "outputs.label.shares = 'review" in found
    assert said in found


def test_an_answer_that_cannot_be_read_is_the_one_mistake(tmp_path: Path):
    text = ANSWERED.replace("shares: review", "beams: 0").replace("small}", "small, layout: encoder-decoder}")
    (line,) = mistakes_of(tmp_path, text).splitlines()
    assert "outputs.label.beams = 0" in line


def test_what_is_copied_is_of_a_shared_vocabulary(tmp_path: Path):
    assert recipe.load(written(tmp_path, ANSWERED.replace("shares: review", "shares: review, copy: true")))
    assert (
        "outputs.label.copy = true: expected true beside shares: what is copied is a token of both vocabularies. "
        "Fix: write shares: review, or remove it."
    ) in mistakes_of(tmp_path, ANSWERED.replace("shares: review", "copy: true"))


def test_an_answer_and_its_input_have_one_vocabulary_where_the_recipe_says_so(tmp_path: Path):
    assert recipe.load(written(tmp_path, ANSWERED)).vocabularies == {"review": "review", "label": "review"}
    assert recipe.load(written(tmp_path, ANSWERED.replace(", shares: review", ""))).vocabularies == {}


def test_a_mistake_in_an_encoder_of_its_own_names_that_encoder(tmp_path: Path):
    text = GOOD.replace("review: text", "review: {type: text, encoder: {kind: transformer, width: 100, heads: 12}}")
    assert mistakes_of(tmp_path, text).startswith(
        "line 5: inputs.review.encoder.width = 100: expected a multiple of heads"
    )


@pytest.mark.parametrize("name", recipe.RESERVED)
def test_names_that_a_batch_needs_for_itself_are_refused(tmp_path: Path, name: str):
    found = mistakes_of(tmp_path, GOOD.replace("label: category", f"{name}: category"))
    assert f"outputs.{name} = '{name}'" in found


def test_a_value_without_a_plain_form_is_refused():
    plain, _ = parse_yaml(GOOD, "x")
    for value in (object(), {1, 2}, lambda: 0, float("nan"), float("inf"), b"x", 1 + 2j):
        with pytest.raises(RecipeError):
            recipe.load(plain | {"seed": value})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecipeError, match="nested without end"):
        recipe.load(plain | {"seed": endless})


def test_a_wrong_recipe_is_answered_within_three_seconds_and_without_reading_data(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/reviews.csv").symlink_to("/dev/zero")
    path = written(tmp_path, GOOD.replace("epochs", "epoch"))
    started = time.monotonic()
    command = [sys.executable, "-m", "dougong.cli", "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "train.epoch: there is no such key. Fix: write 'epochs'." in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert time.monotonic() - started < 20  # three where nothing else runs; whoever reads the data never comes back


# ------------------------------------------------------------------------------------------------------------ overrides


def test_an_override_replaces_one_value(tmp_path: Path):
    path = written(tmp_path, GOOD)
    read = recipe.load(path, ["inputs.review.max_length=64", "model.preset=tiny", "seed=7", "train.optimizer.kind=sgd"])
    assert (read.inputs["review"].max_length, read.inputs["review"].type) == (64, "text")
    assert (read.model.width, read.seed, read.train.optimizer.kind) == (32, 7, "sgd")
    assert path.read_text() == GOOD == read.text


def test_an_overridden_budget_replaces_the_old_one(tmp_path: Path):
    path = written(tmp_path, GOOD)
    assert recipe.load(path, ["train.steps=20k"]).train.budget == ("steps", 20_000)
    assert recipe.load(path, ["train.minutes=0.5"]).train.budget == ("minutes", 0.5)
    assert "exactly one budget" in mistakes_of(tmp_path, GOOD, "train={epochs: 3, steps: 5}")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("train.step=5", "train.step: there is no such key. Fix: write 'steps'."),
        ("train.steps=many", "train.steps = 'many': expected a whole number above 0."),
        ("modle.layers=2", "modle: there is no such key. Fix: write 'model'."),
        ("inputs.reviw.max_length=2", "inputs.reviw.type is missing: expected one of " + fields.having("Encoder")[0]),
        ("train", "-s = 'train': expected key.path=value. Fix: write -s train.steps=100."),
        ("=3", "-s = '=3': expected key.path=value."),
        ("a..b=3", "-s = 'a..b=3': expected key.path=value."),
        ("seed.x=1", "-s = 'seed.x=1': expected a key within a mapping; seed is not one. Fix: set seed as a whole."),
        ("seed=1\nname: evil", "-s = 'seed=1\\nname: evil': expected one value."),
    ],
)
def test_a_wrong_override_is_told(tmp_path: Path, item: str, said: str):
    assert said in mistakes_of(tmp_path, GOOD, item)


def test_an_override_that_is_not_yaml_is_told(tmp_path: Path):
    for value in ("[1", "*x", "!!int 1", "{a: 1, a: 2}", "a: b: c"):
        with pytest.raises(RecipeError, match=r"^-s seed="):
            recipe.load(written(tmp_path, GOOD), [f"seed={value}"])


def test_a_mistake_in_an_override_has_no_line_of_the_file(tmp_path: Path):
    assert mistakes_of(tmp_path, GOOD, "train.epochs=-1").startswith("train.epochs = -1: expected")
    assert mistakes_of(tmp_path, GOOD, "train.bogus=1").startswith("train.bogus: there is no such key")


# -------------------------------------------------------------------------------------------------------- it reads back

KINDS = [
    (kind, preset) for kind in backbones.names() if not backbones.makes(kind) for preset in backbones.load(kind).PRESETS
]
TYPES_IN = [name for name in fields.names() if hasattr(fields.load(name), "Encoder")]
TYPES_OUT = [  # those that stand beside any inputs
    name
    for name in fields.having("Head")
    if not fields.load(name).Head.AUTOREGRESSIVE and not hasattr(fields.load(name), "OF") and name != "pairing"
    if not fields.made(fields.load(name).Config())
]
NAMES = st.from_regex(r"[a-z][a-z0-9_ -]{0,8}[a-z0-9]", fullmatch=True).filter(lambda name: name not in recipe.RESERVED)


def long(form: Any) -> dict[str, Any]:
    """A field's long form."""
    return {"type": form} if isinstance(form, str) else form


@st.composite
def recipes(draw: Any) -> dict[str, Any]:
    """A recipe of any types, backbone and preset, in short and long forms."""
    names = draw(st.lists(NAMES, min_size=2, max_size=5, unique=True))
    kind, preset = draw(st.sampled_from(KINDS))
    forms = [lambda name: name, lambda name: {"type": name}, lambda name: {"type": name, "column": "x y"}]
    form = draw(st.sampled_from(forms))
    inputs: dict[str, Any] = {name: form(draw(st.sampled_from(TYPES_IN))) for name in names[1:]}
    if draw(st.booleans()):
        own, small = draw(st.sampled_from(KINDS))
        inputs[names[1]] = {"type": "image", "encoder": {"kind": own, "preset": small}}
    tokenizers = ["byte", "char", {"kind": "unigram", "vocab_size": 300}]
    limit = {"max_length": 16, "tokenizer": draw(st.sampled_from(tokenizers))}
    limits = {"text": limit, "items": {"max_length": 16}}  # several long ones would be more than some presets hold
    inputs = {
        name: next(({**long(value), **few} for word, few in limits.items() if word in str(value)), value)
        for name, value in inputs.items()
    }
    budget = draw(st.sampled_from([{"steps": "2k"}, {"epochs": 1.5}, {"tokens": 10**6}, {"minutes": 1}]))
    train = budget | draw(
        st.fixed_dictionaries(
            {},
            optional={
                "optimizer": st.sampled_from(["sgd", "adagrad", "adam", "adamw", {"kind": "muon", "lr": 1e-3}]),
                "schedule": st.sampled_from(["constant", "wsd", "plateau", {"kind": "cosine", "warmup": 0.1}]),
                "validate_every": st.sampled_from(["auto", 5, "90s", "1h"]),
                "micro_batch": st.sampled_from(["auto", 4]),
                "ema": st.floats(0, 0.999),
                "clip_norm": st.none() | st.floats(1e-3, 1e3),
                "compile": st.sampled_from(["auto", False, True]),
            },
        )
    )
    data = {"train": draw(st.sampled_from(["a.csv", ["a.csv", "b/*.jsonl"]]))}
    data |= draw(st.sampled_from([{}, {"split": {"test": 0.2}}, {"test": "t.csv", "cleaning": {"unicode": "nfkc"}}]))
    outputs = {names[0]: draw(st.sampled_from(TYPES_OUT))}
    seed = draw(st.integers(0, 2**63 - 1))
    grids = [kind for kind in fields.having("Encoder") if fields.has_grid(fields.load(kind).Config())]
    pictures = [
        name
        for name, value in inputs.items()
        if any(kind in str(value) for kind in grids) and "encoder" not in str(value)
    ]
    if kind == "convnet" and pictures and len(inputs) > 1:
        kind, preset = "mlp", "tiny"  # a convnet would lose the grid of the picture
    model = {"kind": kind, "preset": preset}
    head = {"name": "x", "seed": seed, "data": data, "model": model, "train": train}
    return head | {"inputs": inputs, "outputs": outputs}


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_a_resolved_recipe_reads_back_as_the_same(plain: dict[str, Any]):
    read = recipe.load(plain)
    resolved = json.loads(json.dumps(read.resolved(), allow_nan=False))
    again = recipe.from_resolved(resolved, read.text, "resolved.json")
    assert again == read
    assert recipe.differences(read.resolved(), again.resolved()) == {}
    assert parse_yaml(dump_yaml(resolved), "x")[0] == resolved  # as a recipe of a user's own, too


def test_differences_names_every_key_that_differs():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert recipe.differences(old, {"a": {"b": 2, "c": [1, 2]}, "e": 4}) == {
        "a.b": (1, 2),
        "d": (3, None),
        "e": (None, 4),
    }


# ------------------------------------------------------------------------------------------------------------- mutants


def mutant(generator: random.Random, text: bytes) -> bytes:
    """The recipe with one to four damages: bytes, words, lines, brackets and what YAML parsers trip over."""
    words = rb"!!python/name:os.system &a *a { } [ ] : -_ ' | > null true NaN .inf 1e999 -1 0 # % ?_ <<:_ text".split()
    words += [b"\t", b'"', b"9" * 30, b"\0", b"\xff", b"\xe2\x80\xa8", b"---\n", b"...\n", b"\r\n", b"{" * 40]
    words = [word.replace(b"_", b" ") for word in words]
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(text) + 1)
        kind = generator.randrange(6)
        lines = text.split(b"\n")
        line = generator.randrange(len(lines))
        if kind == 0:
            text = text[:at] + bytes([generator.randrange(256)]) + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + generator.choice(words) + text[at:]
        elif kind == 2:
            text = text[:at] + text[at + generator.randint(1, 9) :]
        elif kind == 3:
            text = b"\n".join([*lines[:line], *lines[line + 1 :]])
        elif kind == 4:
            text = b"\n".join([*lines[:line], lines[line], lines[line].swapcase(), *lines[line:]])
        else:
            key, colon, _ = lines[line].partition(b":")
            text = b"\n".join([*lines[:line], key + colon + b" " + generator.choice(words), *lines[line + 1 :]])
    return text


@pytest.mark.parametrize("source", [GOOD, POEMS, REVIEWS])
def test_A5_a_mutant_of_a_recipe_is_read_or_refused_and_never_anything_else(tmp_path: Path, source: str):
    generator = random.Random(source)
    refused = [error for _ in range(200) if (error := refusal(tmp_path, mutant(generator, source.encode())))]
    assert len(refused) > 100
    for error in refused:
        assert error.problems
        assert all(problem.expected and problem.fix for problem in error.problems)
        assert "Traceback" not in str(error)


def refusal(folder: Path, text: bytes) -> RecipeError | None:
    try:
        recipe.load(written(folder, text))
    except RecipeError as error:
        return error
    return None


# ---------------------------------------------------------------------------------------------------------- JSON Schema


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    found = json.loads(json.dumps(recipe.schema(), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_schema_accepts_the_recipes_of_the_design(validator: Any):
    for text in (REVIEWS, POEMS, GOOD):
        plain, _ = parse_yaml(text, "x")
        assert [error.message for error in validator.iter_errors(plain)] == []


def test_the_schema_accepts_the_recipes_that_ship(validator: Any):
    for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml"):
        plain, _ = parse_yaml(path.read_text(encoding="utf-8"), path.name)
        assert [f"{path.name}: {error.message}" for error in validator.iter_errors(plain)] == []
        recipe.load(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 0", "sede: 0"),
        ("split:", "splitt:"),
        ("review: text", "review: {type: text, max_lenght: 3}"),
        ("review: text", "review: txet"),
        ("review: text", "review: {type: text, tokenizer: {kind: bpe, vocab: 3}}"),
        ("preset: small", "presett: small"),
        ("preset: small", "preset: smal"),
        ("epochs: 3", "epoch: 3"),
        ("epochs: 3", "epochs: 3, optimizer: adamm"),
        ("epochs: 3", "epochs: 3, optimizer: {kind: adamw, lrr: 1}"),
        ("epochs: 3", "epochs: -3"),
        ("epochs: 3", "steps: 20X"),
        ("epochs: 3", "epochs: 3, validate_every: often"),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(validator: Any, old: str, new: str):
    plain, _ = parse_yaml(GOOD.replace(old, new), "x")
    assert not validator.is_valid(plain)


LEGAL = [
    *("train.optimizer={lr: 0.01}", "train.optimizer=muon", "train.optimizer={kind: sgd, momentum: 0.5}"),
    *(
        "train.schedule={warmup: 0}",
        "train.schedule={warmup: 100}",
        "train.schedule=wsd",
        "train.schedule={floor: 0.1}",
    ),
    *("train.loss={label_smoothing: 0.1}", "train.loss=cross_entropy", "train.validate_every=90s"),
    *("train.validate_every=1e3", "train.checkpoint_every=5min", "train.batch_tokens=32k", "train.batch_tokens=1.5M"),
    *("inputs.review={type: text, tokenizer: {vocab_size: 300}}", "inputs.review={type: text, tokenizer: byte}"),
    *(
        "inputs.review={type: text, tokenizer: {kind: file, path: x.json}}",
        "inputs.review={type: text, encoder: convnet}",
    ),
    *("outputs.label={type: category, loss: {label_smoothing: 0.1}}", "outputs.label={type: number, loss: huber}"),
    *("outputs.label={type: number, loss: {kind: huber, delta: 2}}", "model=mlp", "model={preset: tiny}"),
    *("data.split={test: 0.2}", "data.train=[a.csv, b/*.csv]", "data.cleaning.near_duplicates=keep"),
]


@pytest.mark.parametrize("change", LEGAL)
def test_every_form_that_the_page_calls_legal_is_so_for_the_schema_too(tmp_path: Path, validator: Any, change: str):
    path = written(tmp_path, GOOD)
    recipe.load(path, [change])
    plain, marks = parse_yaml(GOOD, "x")
    plain = recipe.override(plain, [change], "x", marks)
    assert [error.message for error in validator.iter_errors(plain)] == []


@pytest.mark.parametrize(
    "change",
    [
        "train.optimizer={momentum: 0.5}",  # not a key of the default kind
        "train.schedule={decay: 0.1}",
        "inputs.review={type: text, tokenizer: {path: x.json}}",
        "train.validate_every=2.5",
    ],
)
def test_what_names_no_kind_has_the_keys_of_the_default_one_only(tmp_path: Path, validator: Any, change: str):
    mistakes_of(tmp_path, GOOD, change)
    plain, marks = parse_yaml(GOOD, "x")
    assert not validator.is_valid(recipe.override(plain, [change], "x", marks))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(plain=recipes())
def test_the_schema_accepts_what_the_reader_accepts(validator: Any, plain: dict[str, Any]):
    assert [error.message for error in validator.iter_errors(json.loads(json.dumps(plain)))] == []
    resolved = json.loads(json.dumps(recipe.load(plain).resolved()))
    assert [error.message[:300] for error in validator.iter_errors(resolved)] == []


# ------------------------------------------------------------------------------------------------------- words and tags


def tagged(**changes: Any) -> dict[str, Any]:
    plain = {"name": "x", "data": {"train": "a.jsonl"}, "inputs": {"sentence": "text"}, "outputs": {"tags": "tags"}}
    return plain | {"model": {"kind": "transformer", "preset": "tiny"}, "train": {"steps": 2}} | changes


def test_an_output_of_tags_has_its_input_tell_the_words():
    read = recipe.load(tagged())
    assert read.inputs["sentence"].words
    assert read.outputs["tags"].of == "sentence"
    assert recipe.from_resolved(json.loads(json.dumps(read.resolved())), read.text, "x") == read
    assert recipe.load({**tagged(), "model": None}).model.kind == "transformer"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"inputs": {"a": "text", "b": "text"}}, ("outputs.tags.of", "an input of type text: one of a, b", "of: a")),
        ({"inputs": {"n": "number"}}, ("outputs.tags.of", "an input of type text", "add inputs")),
        ({"outputs": {"tags": {"type": "tags", "of": "sentense"}}}, ("outputs.tags.of", "'sentense'", "of: sentence")),
        ({"model": "mlp"}, ("model.kind", "'mlp'", "keeps the places of what it reads", "transformer")),
        (
            {"inputs": {"sentence": {"type": "text", "encoder": "mlp"}}},
            ("inputs.sentence.encoder.kind", "'mlp'", "keeps the places of what it reads"),
        ),
        (
            {"inputs": {"sentence": {"type": "text", "words": True}}, "outputs": {"label": "category"}},
            ("inputs.sentence.words", "no output names its words"),
        ),
        (
            {
                "inputs": {"a": "text", "b": "text"},
                "outputs": {"p": {"type": "tags", "of": "a"}, "q": {"type": "tags", "of": "b"}},
            },
            ("outputs", "words or places of one input alone"),
        ),
    ],
)
def test_tags_that_cannot_be_are_refused(changes: dict[str, Any], parts: tuple[str, ...]):
    with pytest.raises(RecipeError) as caught:
        recipe.load(tagged(**changes))
    check_clear(str(caught.value), *parts)


@pytest.mark.parametrize(("rule", "value"), [("min_length", 3), ("max_length", 9), ("language", ["en"])])
def test_a_rule_for_texts_is_refused_where_there_is_none(rule: str, value: Any):
    plain = {"name": "x", "data": {"train": "a.jsonl", "cleaning": {rule: value}}, "train": {"steps": 1}}
    with pytest.raises(RecipeError) as caught:
        recipe.load({**plain, "inputs": {"size": "number"}, "outputs": {"label": "category"}})
    check_clear(str(caught.value), f"data.cleaning.{rule}", "a field of type text, words or chat")
    recipe.load({**plain, "outputs": {"messages": "chat"}})
