from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import dougong
from dougong.core.errors import FieldError, Note
from dougong.inference import generate
from dougong.inference.generate import Config, choose
from dougong.model import Model
from dougong.run import Run
from tests.small_runs import run

LANGUAGE_MODELS = [
    "poems",
    "poems-learned",
    "poems-recurrent",
    "poems-runs",
    "poems-window",
    "poems-stretched",
    "poems-boundaries",
]


def greedy(trained: Run, prompt: str, most: int) -> list[int]:
    """The most likely tokens one by one, each from a full pass over all that stands before it, without a cache."""
    model: Model = trained.model
    assert model.written is not None
    name, codec = model.written.name, model.written.codec
    known = [codec.end, *codec.tokenizer.encode(prompt, add_special_tokens=False).ids]
    written: list[int] = []
    while len(written) < most:
        tokens = torch.tensor([[*known[1:], *written, 0]])  # what is predicted last does not see itself
        length = torch.tensor([tokens.shape[1]])
        batch = {"row": torch.zeros(1), f"{name}.tokens": tokens, f"{name}.tokens.length": length}
        with torch.inference_mode():
            token = int(model.head(model.written).logits(model(batch).values[0, -1]).argmax())
        if token == codec.end:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("prompt", ["", "good", "a fine day\n"])
def test_temperature_zero_is_the_argmax_of_full_passes(name: str, prompt: str):
    trained = run(name)
    codec = trained.outputs[0].codec
    expected = codec.text(greedy(trained, prompt, 24))
    assert trained.generate([prompt], max_tokens=24, temperature=0.0) == [expected]


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_top_k_one_is_greedy(name: str):
    trained = run(name)
    sampled = trained.generate(["a", ""], max_tokens=16, top_k=1, temperature=1.5, seed=3)
    assert sampled == trained.generate(["a", ""], max_tokens=16, temperature=0.0)
    assert sampled == trained.generate(["a", ""], max_tokens=16, top_p=1e-9, seed=4)
    assert sampled == trained.generate(
        ["a", ""], max_tokens=16, temperature=1e-300
    )  # and the coldest does not overflow


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    trained = run("poems")
    first = trained.generate(["good", "bad"], max_tokens=30, temperature=1.0, seed=5)
    assert first == trained.generate(["good", "bad"], max_tokens=30, temperature=1.0, seed=5)
    assert first != trained.generate(["good", "bad"], max_tokens=30, temperature=1.0, seed=6)


def test_what_a_prompt_becomes_does_not_depend_on_the_others():
    trained = run("poems")
    options: dict[str, Any] = {"max_tokens": 20, "temperature": 1.0, "seed": 1}
    together = trained.generate(["good", "bad", "bad"], **options)
    assert together[0] == trained.generate(["good"], **options)[0]
    assert together[1] == trained.generate(["a much longer prompt", "bad"], **options)[1]
    assert together[1] != together[2]  # several samples of one prompt are several


def test_no_prompt_gives_no_text():
    assert run("poems").generate([]) == []


def test_max_tokens_bounds_the_text():
    trained = run("poems")
    codec = trained.outputs[0].codec
    for most in (1, 2, 17):
        (text,) = trained.generate(["x"], max_tokens=most, temperature=3.0)
        assert len(codec.tokenizer.encode(text, add_special_tokens=False).ids) <= 3 * most  # a cut character shows as �


class Fixed:
    """A model's head that says these tokens, one after the other, whatever comes in."""

    looks_back = 1

    def __init__(self, tokens: list[int], vocabulary: int):
        self.tokens, self.vocabulary, self.at = tokens, vocabulary, 0

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, self.vocabulary)
        logits[0, self.tokens[self.at]] = 10.0
        self.at += 1
        return logits


def test_the_end_token_ends_the_text_and_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch):
    trained = run("poems")
    codec = trained.outputs[0].codec
    ids = codec.tokenizer.encode("abc", add_special_tokens=False).ids
    head = Fixed([*ids, codec.end, *ids], codec.vocab_size)
    monkeypatch.setattr(trained.model, "head", lambda field: head)
    assert trained.generate([""], max_tokens=50, temperature=0.0) == ["abc"]
    assert head.at == len(ids) + 1


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_prompt_longer_than_the_context_is_read_from_its_end(name: str):
    trained = run(name)
    context = trained.outputs[0].config.max_length
    long = "good day " * 40
    (text,) = trained.generate([long], max_tokens=4, temperature=0.0)
    assert (text,) == tuple(trained.generate([long[-context:]], max_tokens=4, temperature=0.0))


def test_a_model_with_learned_positions_stops_at_its_last_one_and_says_so(monkeypatch: pytest.MonkeyPatch):
    trained = run("poems-learned")
    codec, positions = trained.outputs[0].codec, trained.model.backbone.max_length
    letter = codec.tokenizer.encode("a", add_special_tokens=False).ids[0]
    head = Fixed([letter] * 200, codec.vocab_size)
    monkeypatch.setattr(trained.model, "head", lambda field: head)
    with pytest.warns(Note, match=f"stopped after {positions} of 200 tokens: the model has only {positions} positions"):
        (text,) = trained.generate([""], max_tokens=200)
    assert len(text) == positions  # the end token that it begins from and all but the last letter stand in positions
    head.at = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(trained.generate([""], max_tokens=positions)[0]) == positions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1.0}, "generate.temperature = -1.0: expected a number from 0. Fix: write temperature: 0.8"),
        ({"temperature": float("nan")}, "plain values that JSON can hold"),
        ({"temperature": "hot"}, "generate.temperature = 'hot': expected a number from 0."),
        ({"max_tokens": 0}, "generate.max_tokens = 0: expected a whole number above 0, at most 100,000."),
        ({"max_tokens": 10**9}, "at most 100,000"),
        ({"max_tokens": True}, "generate.max_tokens = True: expected a whole number"),
        ({"top_k": 0}, "generate.top_k = 0: expected a whole number above 0."),
        ({"top_p": 0.0}, "generate.top_p = 0.0: expected a number above 0, at most 1."),
        ({"min_p": 1.0}, "generate.min_p = 1.0: expected a number from 0 and below 1."),
        ({"repetition_penalty": 0.5}, "generate.repetition_penalty = 0.5: expected a number from 1."),
        ({"seed": -1}, "generate.seed = -1: expected a whole number from 0"),
        ({"seed": 1 << 64}, "generate.seed = 18446744073709551616: expected a whole number from 0"),
        ({"temprature": 1.0}, "generate.temprature = 1.0: expected one of max_tokens, temperature, top_k"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], said: str):
    with pytest.raises(FieldError) as caught:
        dougong.generate(run("poems"), "a", **options)
    assert said in str(caught.value)
    assert "Fix: " in str(caught.value)


def test_options_are_checked_however_they_come():
    trained = run("poems")
    with pytest.raises(FieldError, match=r"generate.temperature = -1.0"):
        trained.generate(["a"], temperature=-1.0)
    with pytest.raises(FieldError, match=r"prompts\[1\] = 7: expected text"):
        trained.generate(["a", 7])  # type: ignore[list-item]


def test_a_prompt_that_is_not_whole_characters_is_told_by_its_place():
    with pytest.raises(
        FieldError, match=r"prompts\[1\] = 'a\\ud83d': expected whole characters .*Fix: read the text as UTF-8"
    ):
        run("poems").generate(["a", "a\ud83d"])
    assert len(run("poems").generate(["\U0001f600"], max_tokens=2)) == 1


def test_a_bare_text_is_not_taken_for_a_list_of_letters():
    with pytest.raises(FieldError, match=r"prompts = 'good': expected a list of texts. Fix: .* \[text\]"):
        generate.generate(run("poems").model, "good", Config())


def test_a_run_that_writes_no_text_says_what_to_use():
    with pytest.raises(FieldError, match=r"expected a model that writes text. Fix: use predict for this run"):
        run("reviews").generate(["a"])
    with pytest.raises(FieldError, match=r"expected values for text. Fix: use predict"):
        run("replies").generate(["a"])


# ------------------------------------------------------------------------------------------------- choosing the next one

LOGITS = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0])


def chosen(config: Config, before: list[int] | None = None, count: int = 300) -> set[int]:
    generator = torch.Generator().manual_seed(0)
    return {choose(LOGITS, before or [], config, generator) for _ in range(count)}


def test_top_k_top_p_and_min_p_leave_only_the_likely_tokens():
    assert chosen(Config(temperature=5.0)) == {0, 1, 2, 3, 4}
    assert chosen(Config(temperature=5.0, top_k=2)) == {0, 1}
    assert chosen(Config(temperature=1.0, top_p=0.6)) == {0}  # the first alone holds 0.64
    assert chosen(Config(temperature=1.0, top_p=0.7)) == {0, 1}
    assert chosen(Config(temperature=1.0, min_p=0.1)) == {0, 1, 2}  # e^-1 and e^-2 of the best, not e^-3


def test_samples_follow_the_softmax():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([choose(LOGITS, [], Config(temperature=1.0), generator) for _ in range(4000)])
    share = torch.bincount(drawn, minlength=5) / 4000
    assert torch.allclose(share.double(), LOGITS.double().softmax(0), atol=0.03)


def test_a_repetition_penalty_makes_what_was_there_less_likely():
    config = Config(temperature=0.0, repetition_penalty=2.0)
    generator = torch.Generator()
    assert choose(LOGITS, [], config, generator) == 0
    assert choose(LOGITS, [0], config, generator) == 1  # 3 / 2 is less than 2
    negative = torch.tensor([-1.0, -1.5])
    assert choose(negative, [0], config, generator) == 1  # a negative logit is made more so


def test_options_reads_what_it_is_given():
    assert generate.options({"max_tokens": 3, "top_k": None}) == Config(max_tokens=3)
