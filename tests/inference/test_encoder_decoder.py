"""Encoder-decoders of ours with the weights of Marian, BART and T5: the same logits, the same texts by greedy and beam search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from dougong import model as models
from dougong.backbones import transformer
from dougong.fields import Field, text
from dougong.inference.generate import Config, write
from dougong.layers.losses import Loss
from dougong.model import Batch, Model

END, WORDS, LONGEST = 0, 40, 32
LAYERS = {"encoder": 3, "backbone": 2}  # of ours; "backbone" is the decoder
BLOCKS: dict[str, Any] = {
    "width": 24, "layers": 2, "encoder_layers": 3, "heads": 4, "feedforward": 40, "layout": "encoder-decoder",
    "dropout": 0.0,
}  # fmt: skip
PARTS = {"encoder": "encoder", "backbone": "decoder"}


@dataclass(frozen=True)
class Family:
    """An encoder-decoder of `transformers`, the configuration of ours that equals it, and its weights by our names."""

    make: Callable[[], Any]
    shape: transformer.Config
    weights: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    tied: bool = True
    # Drawn so that the texts differ from each other and, where `ends`, some end by themselves.
    seed: int = 0
    scale: float = 0.1
    noise: float = 0.3
    ends: bool = False


def ours(family: Family, state: dict[str, Tensor]) -> Model:
    fields = [Field(name, text.Config(max_length=LONGEST, tied=family.tied), Ids()) for name in ("source", "target")]
    model = models.build(
        fields[:1], fields[1:], family.shape, encoders={}, loss=Loss(), seed=0, device=torch.device("cpu")
    ).eval()
    model.load_state_dict(family.weights(state), strict=True)
    return model


def theirs(family: Family) -> Any:
    torch.manual_seed(family.seed)
    model = family.make().eval()
    for (
        name,
        parameter,
    ) in model.named_parameters():  # biases, norms and positions too: as born, they are zeros and ones
        parameter.data += family.noise * torch.randn_like(parameter)
        if name.endswith("shared.weight"):  # large ones would drown all else: one token, again and again
            parameter.data *= family.scale
    return model


class Ids:
    """A codec of which only the numbers are asked for."""

    vocab_size, end, unknown = WORDS, END, None


# --------------------------------------------------------------------------------------------------- Marian and BART


def bart_like(kind: str, *, scaled: bool) -> Any:
    common = {
        "vocab_size": WORDS, "d_model": 24, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": LONGEST,
        "scale_embedding": scaled, "activation_function": "gelu", "pad_token_id": 1, "eos_token_id": END,
        "bos_token_id": 2, "decoder_start_token_id": END, "forced_eos_token_id": None, "init_std": 0.3,
    }  # fmt: skip
    return (
        MarianMTModel(MarianConfig(**common))
        if kind == "marian"
        else BartForConditionalGeneration(BartConfig(**common))
    )


def bart_weights(state: dict[str, Tensor], *, scaled: bool, marian: bool = False) -> dict[str, Tensor]:
    """Marian has the positions of BART without the two that it leaves out at the beginning, and no norm after them."""
    shared = state["model.shared.weight"]
    weights = {"out_target.projection.weight": shared}
    for name in ("source", "target"):  # ours are multiplied by the root of the width
        weights[f"in_{name}.encoder.embedding.weight"] = shared if scaled else shared / shared.shape[1] ** 0.5
    for mine, their in PARTS.items():
        weights[f"{mine}.table.weight"] = state[f"model.{their}.embed_positions.weight"][0 if marian else 2 :]
        names = {} if marian else {f"{mine}.input_norm": f"model.{their}.layernorm_embedding"}
        for index in range(LAYERS[mine]):
            block = {"attention_norm": "self_attn_layer_norm", "feedforward_norm": "final_layer_norm"}
            block |= {"feedforward.up": "fc1", "feedforward.down": "fc2"} | attention("attention", "self_attn")
            if their == "decoder":
                block |= {"cross_norm": "encoder_attn_layer_norm"} | attention("cross", "encoder_attn")
            names |= {f"{mine}.blocks.{index}.{a}": f"model.{their}.layers.{index}.{b}" for a, b in block.items()}
        weights |= {f"{a}.{part}": state[f"{b}.{part}"] for a, b in names.items() for part in ("weight", "bias")}
    return weights


def attention(mine: str, their: str) -> dict[str, str]:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return {f"{mine}.{a}": f"{their}.{b}" for a, b in parts.items()}


# ----------------------------------------------------------------------------------------------------------------- T5


def t5(feed_forward_proj: str, *, tied: bool) -> Any:
    config = T5Config(
        vocab_size=WORDS, d_model=24, d_kv=6, d_ff=40, num_layers=3, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.0, feed_forward_proj=feed_forward_proj, tie_word_embeddings=tied, pad_token_id=1,
        eos_token_id=END, decoder_start_token_id=END, initializer_factor=1.0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def t5_weights(state: dict[str, Tensor], *, gated: bool, tied: bool) -> dict[str, Tensor]:
    shared = state["shared.weight"]
    root = shared.shape[1] ** 0.5  # theirs enter as they are, and are divided by it where the head shares them
    weights = {f"in_{name}.encoder.embedding.weight": shared / root for name in ("source", "target")}
    weights["out_target.projection.weight"] = shared / root if tied else state["lm_head.weight"]
    halves = {"feedforward.gate": "wi_0", "feedforward.up": "wi_1"} if gated else {"feedforward.up": "wi"}
    for mine, their in PARTS.items():
        first = f"{their}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        weights |= {f"{mine}.distances.weight": state[first]}
        weights |= {f"{mine}.final_norm.weight": state[f"{their}.final_layer_norm.weight"]}
        for index in range(LAYERS[mine]):
            layers = {"attention": (0, "SelfAttention"), "feedforward": (1, "DenseReluDense")}
            if their == "decoder":
                layers |= {"cross": (1, "EncDecAttention"), "feedforward": (2, "DenseReluDense")}
            for layer, (place, name) in layers.items():
                a, b = f"{mine}.blocks.{index}", f"{their}.block.{index}.layer.{place}"
                parts = {f"{layer}.{part}": part[0] for part in ("query", "key", "value", "out")}
                parts = halves | {"feedforward.down": "wo"} if layer == "feedforward" else parts
                weights |= {f"{a}.{c}.weight": state[f"{b}.{name}.{d}.weight"] for c, d in parts.items()}
                weights |= {f"{a}.{layer}_norm.weight": state[f"{b}.layer_norm.weight"]}
    # Theirs are scores without a scale; ours are divided by the root of a head's width.
    return {name: value * 6**0.5 if name.endswith("query.weight") else value for name, value in weights.items()}


BART = replace(transformer.PRESETS["bart"], **BLOCKS, max_length=LONGEST)
T5 = replace(transformer.PRESETS["t5"], **BLOCKS)
FAMILIES = {
    "marian": Family(
        partial(bart_like, "marian", scaled=True),
        replace(BART, input_norm=False),
        partial(bart_weights, scaled=True, marian=True),
        seed=1,
        scale=1.0,
        ends=True,
    ),
    "bart": Family(
        partial(bart_like, "bart", scaled=True),
        BART,
        partial(bart_weights, scaled=True),
        seed=3,
        scale=0.3,
        noise=0.1,
    ),
    "bart unscaled": Family(
        partial(bart_like, "bart", scaled=False), BART, partial(bart_weights, scaled=False), False, 3, 0.3, 0.1
    ),
    "t5": Family(partial(t5, "relu", tied=True), T5, partial(t5_weights, gated=False, tied=True)),
    "t5 1.1": Family(
        partial(t5, "gated-gelu", tied=False),
        replace(T5, activation="geglu"),
        partial(t5_weights, gated=True, tied=False),
        False,
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def sources() -> tuple[Tensor, Tensor]:
    ids = torch.randint(2, WORDS, (4, 9), generator=torch.Generator().manual_seed(3))
    return ids, torch.tensor([9, 6, 2, 7])


def batch() -> Batch:
    ids, lengths = sources()
    return {"row": torch.arange(4), "source.tokens": ids, "source.tokens.length": lengths}


def mask() -> Tensor:
    ids, lengths = sources()
    return (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def test_logits_are_theirs(family: Family) -> None:
    reference = theirs(family)
    model = ours(family, reference.state_dict())
    written = torch.randint(2, WORDS, (4, 7), generator=torch.Generator().manual_seed(4))
    told = batch() | {"target.tokens": written, "target.tokens.length": torch.tensor([7, 7, 7, 7])}
    before = torch.cat([torch.zeros(4, 1, dtype=torch.int64), written[:, :-1]], dim=1)
    with torch.no_grad():
        expected = reference(input_ids=sources()[0], attention_mask=mask(), decoder_input_ids=before).logits
        found = model.head(model.outputs[0]).logits(model(told).values)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (3, 1.0), (4, 1.0), (4, 0.6), (4, 0.0), (2, 2.0)])
def test_texts_are_theirs(beams: int, penalty: float, family: Family) -> None:
    reference = theirs(family)
    model = ours(family, reference.state_dict())
    with torch.no_grad():
        rows = reference.generate(
            input_ids=sources()[0], attention_mask=mask(), num_beams=beams, length_penalty=penalty, do_sample=False,
            max_new_tokens=12, early_stopping=False, use_cache=True, renormalize_logits=False,
        )  # fmt: skip
    config = Config(max_tokens=12, temperature=0.0, beams=beams, length_penalty=penalty)
    with torch.inference_mode():
        written = write(model, batch(), [[END]] * 4, config)
    assert written == [until_end(row[1:].tolist()) for row in rows]
    assert len(set(map(tuple, written))) > 1
    assert max(map(len, written)) > 3
    assert not family.ends or min(map(len, written)) < 12


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END)] if END in tokens else tokens
