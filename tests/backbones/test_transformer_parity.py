"""The classic and the common shapes are configurations of one transformer: outputs equal those of `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MixtralConfig,
    MixtralModel,
    ViTConfig,
    ViTModel,
)

from dougong.backbones import transformer
from dougong.layers.features import Features, length_mask
from dougong.layers.positions import RotaryScaling
from tests import transformers_weights

Build = Callable[..., Any]  # see conftest.py

BLOCKS = {"width": 24, "layers": 2, "heads": 4, "feedforward": 40}


def tokens() -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(3))
    return ids, length_mask(torch.tensor([9, 6, 2]), 9)


def copy(ours: nn.Module, theirs: dict[str, Tensor]) -> None:
    """Load all of our parameters by our names; none may be missing or left over."""
    ours.load_state_dict(theirs, strict=True)


def noisy(model: nn.Module) -> Any:
    torch.manual_seed(4)
    for parameter in model.parameters():  # biases and norms too: as born, they are zeros and ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gpt2_is_a_configuration(build: Build) -> None:
    theirs = noisy(GPT2Model(GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=4, n_inner=40)))
    ours = build(replace(transformer.PRESETS["gpt2"], **BLOCKS, max_length=16))
    state = theirs.state_dict()
    copy(ours, transformers_weights.gpt2(state, 2))
    ids, mask = tokens()
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long()).last_hidden_state
        y = ours(Features(state["wte.weight"][ids], mask), causal=True)
    close(y.values[mask], expected[mask])


def test_vit_is_a_configuration(build: Build) -> None:
    sizes = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "image_size": 16,
        "patch_size": 4,
    }
    theirs = noisy(ViTModel(ViTConfig(hidden_size=24, **sizes), add_pooling_layer=False))
    ours = build(replace(transformer.PRESETS["vit"], **BLOCKS), 17)
    copy(ours, transformers_weights.vit(theirs.state_dict(), 2))
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    patches = theirs.embeddings.patch_embeddings(pixels)  # (B, 16, D)
    values = torch.cat([theirs.embeddings.cls_token.expand(3, -1, -1), patches], dim=1)
    with torch.no_grad():
        y = ours(Features(values, torch.ones(3, 17, dtype=torch.bool)))
        close(y.values, theirs(pixels).last_hidden_state)


def test_bert_is_a_configuration(build: Build) -> None:
    theirs = noisy(
        BertModel(
            BertConfig(
                vocab_size=50,
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=40,
                max_position_embeddings=16,
            ),
            add_pooling_layer=False,
        )
    )
    ours = build(replace(transformer.PRESETS["bert"], **BLOCKS, max_length=16))
    state = theirs.state_dict()
    copy(ours, transformers_weights.bert(state, 2))
    ids, mask = tokens()
    embedded = state["embeddings.word_embeddings.weight"][ids] + state["embeddings.token_type_embeddings.weight"][0]
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long()).last_hidden_state
        y = ours(Features(embedded, mask))
    close(y.values[mask], expected[mask])


LLAMA = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
}


STRETCHED = RotaryScaling(kind="yarn", factor=3.0, original=8)
THEIRS = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 8, "rope_theta": 10_000.0}


@pytest.mark.parametrize(("scaling", "rope"), [(None, {}), (STRETCHED, {"rope_parameters": THEIRS})])
def test_llama_is_a_configuration_and_so_is_its_cache(
    scaling: RotaryScaling | None, rope: dict[str, Any], build: Build
) -> None:
    theirs = noisy(LlamaModel(LlamaConfig(**LLAMA, **rope)))
    shape = {"kv_heads": 2, "activation": "swiglu", "qk_norm": False}
    ours = build(transformer.Config(**BLOCKS, **shape, rotary_scaling=scaling))
    state = theirs.state_dict()
    copy(ours, transformers_weights.llama(state, 2))
    ids, mask = tokens()
    embedded = state["embed_tokens.weight"][ids]
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long()).last_hidden_state
        y = ours(Features(embedded, mask), causal=True)
        close(y.values[mask], expected[mask])
        cache = ours.new_cache(3, 9, torch.device("cpu"), torch.float32)
        for step in range(9):
            one = Features(embedded[:, step : step + 1], torch.ones(3, 1, dtype=torch.bool))
            close(ours(one, causal=True, cache=cache).values[0], expected[0, step : step + 1])


def test_mixtral_is_a_configuration(build: Build) -> None:
    theirs = noisy(MixtralModel(MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2, sliding_window=3)))
    shape = {"kv_heads": 2, "activation": "swiglu", "qk_norm": False, "experts": 4, "window": 3}
    ours = build(transformer.Config(**BLOCKS, **shape, rotary_base=theirs.config.rope_parameters["rope_theta"]))
    state = theirs.state_dict()
    weights = transformers_weights.llama(state, 2, feedforward=False)
    for index in range(2):
        a, b = f"blocks.{index}.feedforward", f"layers.{index}.mlp"
        weights[f"{a}.router.weight"] = state[f"{b}.gate.weight"]
        for expert in range(4):
            gate, up = state[f"{b}.experts.gate_up_proj"][expert].chunk(2)
            weights |= {f"{a}.experts.{expert}.gate.weight": gate, f"{a}.experts.{expert}.up.weight": up}
            weights[f"{a}.experts.{expert}.down.weight"] = state[f"{b}.experts.down_proj"][expert]
    copy(ours, weights)
    ids, mask = tokens()
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.long()).last_hidden_state
        y = ours(Features(state["embed_tokens.weight"][ids], mask), causal=True)
    close(y.values[mask], expected[mask])
