"""Attention as an explanation: the weights are those of the pass itself, whole, and stand beside what they look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dougong
from dougong.explanation.attention import attention
from dougong.layers.attention import Attention, attention_weights
from dougong.layers.features import Features
from tests.clear_error import check_clear
from tests.small_runs import recipe_of, run

ROWS: dict[str, Any] = {
    "reviews": "a fine thing",
    "poems": "good day",
    "poems-window": "a good day and a bad night",
    "poems-recurrent": "good day",
    "masked": "good day",
    "chats": [{"role": "user", "content": "bad"}, {"role": "assistant", "content": "yes"}],
    "replies": {"text": "even number 4", "reply": "4!"},
    "replies-encoder-decoder": {"text": "even number 4", "reply": "4!"},
    "replies-recurrent-encoder-decoder": {"text": "even number 4", "reply": "4!"},
    "pairs": {"text": "even number 4", "reply": "4!"},
}
ATTENDING = [name for name in ROWS if name != "poems-recurrent"]


@pytest.mark.parametrize("name", ATTENDING)
def test_each_position_shares_out_one_among_what_it_sees(name: str) -> None:
    parts = attention(run(name), [ROWS[name]])[0]
    expected = {"pairs": {"self_text", "self_reply"}, "replies-encoder-decoder": {"encoder", "cross", "self"}}
    expected["replies-recurrent-encoder-decoder"] = {"cross"}
    assert parts.keys() == expected.get(name, {"self"})
    for part in parts.values():
        assert part.weights.shape[2:] == (len(part.queries), len(part.keys))
        np.testing.assert_allclose(part.weights.sum(-1), 1, atol=1e-5)


def test_the_pieces_are_the_tokens_that_stand_there() -> None:
    (read,) = attention(run("reviews"), ["a fine"])
    assert "".join(read["self"].keys) == "a fine<|end|>"
    (both,) = attention(run("replies-encoder-decoder"), [{"text": "even", "reply": "4!"}])
    assert "".join(both["cross"].keys) == "".join(both["encoder"].queries) == "even<|end|>"
    assert "".join(both["cross"].queries) == "<|end|>4!"  # when it tells a token it sees the one before
    (one,) = attention(run("replies"), [{"text": "even", "reply": "4!"}])
    assert "".join(one["self"].keys) == "even<|end|><|end|>4!"
    assert one["self"].weights.shape == (2, 2, 8, 8)  # layers, heads, queries, keys


def test_what_is_written_looks_back_only_and_as_far_as_its_window() -> None:
    (poem,), (near,) = (attention(run(name), ["a good day and a bad night"]) for name in ("poems", "poems-window"))
    ahead = np.triu(np.ones(poem["self"].weights.shape[2:], dtype=bool), 1)
    assert (poem["self"].weights[..., ahead] == 0).all()
    assert (poem["self"].weights[..., ~ahead] > 0).all()
    far = np.tril(np.ones(ahead.shape, dtype=bool), -5)
    assert (near["self"].weights[..., ahead | far] == 0).all()
    assert (near["self"].weights[..., ~(ahead | far)] > 0).all()


def test_an_input_with_its_own_encoder_has_a_part_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of("reviews") | {"train": {"steps": 1, "device": "cpu"}}
    own = {**recipe["inputs"]["review"], "encoder": {"kind": "transformer", "preset": "tiny", "layers": 1}}
    (row,) = attention(
        dougong.train(recipe | {"inputs": {"review": own, "stars": "number"}}), [{"review": "a fine", "stars": 3}]
    )
    assert "".join(row["in_review"].keys) == "a fine<|end|>"
    assert row["in_review"].weights.shape == (1, 2, 7, 7)
    assert row["self"].queries[-1] == "stars"
    assert row["self"].weights.shape == (2, 2, 8, 8)


def test_pieces_of_a_picture_and_runs_of_tokens_are_told_where_they_stand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for index in range(12):
        Image.new("RGB", (8, 8), (index * 20, 0, 0)).save(f"{index}.png")
    rows = [{"photo": f"{index}.png", "text": "red thing", "label": "ab"[index % 2]} for index in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = dougong.train(
        {
            "name": "both",
            "data": {"train": "rows.jsonl", "split": {}},
            "inputs": {
                "photo": {"type": "image", "size": [8, 8]},
                "text": {"type": "text", "tokenizer": "byte", "ngrams": 2},
            },
            "outputs": {"label": "category"},
            "model": {"kind": "transformer", "preset": "tiny"},
            "train": {"steps": 1, "batch_size": 4, "device": "cpu"},
        }
    )
    (row,) = attention(made, [{"photo": "3.png", "text": "red"}])
    assert row["self"].keys == ["photo[0]", "photo[1]", "photo[2]", "photo[3]", "r", "e", "d", "<|end|>"]
    assert row["self"].weights.shape == (2, 2, 8, 8)
    np.testing.assert_allclose(row["self"].weights.sum(-1), 1, atol=1e-5)


def test_what_is_not_given_is_written_by_the_model() -> None:
    model = run("replies-encoder-decoder")
    (found,) = attention(model, ["even number 4"])
    answer = model.predict(["even number 4"])[0]["reply"]["value"]
    (given,) = attention(model, [{"text": "even number 4", "reply": answer}])
    np.testing.assert_array_equal(found["cross"].weights, given["cross"].weights)


@pytest.mark.parametrize("name", ["reviews", "poems", "poems-window", "replies-encoder-decoder"])
def test_the_model_answers_the_same_while_its_weights_are_told(name: str) -> None:
    model = run(name).model
    fields = [*run(name).inputs, *([model.written] if model.written else [])]
    rows = ["a fine thing", "bad"]
    batch = run(name).encode([{field.name: row for field in fields} for row in rows], None, fields)
    with torch.no_grad():
        plain = model(batch)
        with attention_weights(model) as weights:
            told = model(batch)
    assert weights
    torch.testing.assert_close(told.values[told.mask], plain.values[plain.mask], atol=1e-5, rtol=1e-5)
    assert all(module.tell is None for module in model.modules() if isinstance(module, Attention))


def test_padding_is_never_looked_at() -> None:
    model = run("reviews").model
    batch = run("reviews").encode([{"review": "a fine thing"}, {"review": "bad"}], None, run("reviews").inputs)
    with torch.no_grad(), attention_weights(model) as weights:
        features: Features = model(batch)
    padding = ~features.mask[:, None, None, :]  # (B, 1, 1, S)
    assert padding.any()
    for each in weights.values():
        assert (each.masked_select(padding) == 0).all()
        torch.testing.assert_close(each.sum(-1), torch.ones(each.shape[:3]))


def test_weights_are_those_of_torchs_own_attention() -> None:
    torch.manual_seed(0)
    ours, peer = Attention(12, 3, 3), torch.nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    peer.in_proj_weight.data = torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]).detach()
    x = torch.randn(2, 5, 12)
    with attention_weights(torch.nn.ModuleList([ours])) as weights:
        ours(x, *ours.keys_values(x))
    torch.testing.assert_close(weights["0"], peer(x, x, x, average_attn_weights=False)[1])


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_in_bf16_the_weights_still_sum_to_one(kv_heads: int) -> None:
    torch.manual_seed(0)
    layer = Attention(32, 4, kv_heads)
    x = torch.randn(1, 40, 32)
    with torch.autocast("cpu", torch.bfloat16), attention_weights(torch.nn.ModuleList([layer])) as weights:
        told = layer(x, *layer.keys_values(x), causal=True)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain = layer(x, *layer.keys_values(x), causal=True)
    torch.testing.assert_close(weights["0"].sum(-1), torch.ones(1, 4, 40))
    assert (told - plain).float().norm() < 0.02 * plain.float().norm()


def test_a_model_that_does_not_attend_is_refused() -> None:
    with pytest.raises(ValueError, match="poems-recurrent") as caught:
        attention(run("poems-recurrent"), ["good day"])
    check_clear(str(caught.value), "a run whose model attends", "model: {kind: transformer}")
