"""An encoder-decoder of ours with Marian's weights: the same logits, and the same texts by greedy and by beam search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from dougong import model as models
from dougong.backbones import transformer
from dougong.fields import Field, text
from dougong.inference.generate import Config, write
from dougong.layers.losses import Loss
from dougong.model import Batch, Model

END, WORDS, LONGEST = 0, 40, 32
SHAPE = transformer.Config(
    width=24, layers=2, encoder_layers=3, heads=4, feedforward=40, layout="encoder-decoder", activation="gelu",
    norm="layer", norm_eps=1e-5, norm_first=False, final_norm=False, qk_norm=False, bias=True, positions="learned",
    max_length=LONGEST,
)  # fmt: skip


class Ids:
    """A codec of which only the numbers are asked for."""

    vocab_size, end, unknown = WORDS, END, None


def theirs() -> Any:
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=WORDS, d_model=24, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=LONGEST,
        scale_embedding=True, activation_function="gelu", pad_token_id=1, eos_token_id=END, bos_token_id=2,
        decoder_start_token_id=END, forced_eos_token_id=None, init_std=0.3,
    )  # fmt: skip
    model = MarianMTModel(config).eval()
    model.model.shared.weight.data[END] += 0.9 * model.model.shared.weight.data[3:9].sum(0)  # so that some texts end
    return model


def ours(state: dict[str, Tensor]) -> Model:
    fields = [Field(name, text.Config(max_length=LONGEST), Ids()) for name in ("source", "target")]
    model = models.build(
        fields[:1], fields[1:], SHAPE, encoders={}, loss=Loss(), seed=0, device=torch.device("cpu")
    ).eval()
    shared = state["model.shared.weight"]
    weights = {"in_source.encoder.embedding.weight": shared, "in_target.encoder.embedding.weight": shared}
    weights["out_target.projection.weight"] = shared
    for mine, their, layers in (("encoder", "encoder", 3), ("backbone", "decoder", 2)):
        weights[f"{mine}.table.weight"] = state[f"model.{their}.embed_positions.weight"]
        for index in range(layers):
            names = {"attention_norm": "self_attn_layer_norm", "feedforward_norm": "final_layer_norm"}
            names |= {"feedforward.up": "fc1", "feedforward.down": "fc2"} | attention("attention", "self_attn")
            if their == "decoder":
                names |= {"cross_norm": "encoder_attn_layer_norm"} | attention("cross", "encoder_attn")
            for part in ("weight", "bias"):
                weights |= {
                    f"{mine}.blocks.{index}.{a}.{part}": state[f"model.{their}.layers.{index}.{b}.{part}"]
                    for a, b in names.items()
                }
    model.load_state_dict(weights, strict=True)
    return model


def attention(mine: str, their: str) -> dict[str, str]:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return {f"{mine}.{a}": f"{their}.{b}" for a, b in parts.items()}


def sources() -> tuple[Tensor, Tensor]:
    ids = torch.randint(2, WORDS, (4, 9), generator=torch.Generator().manual_seed(3))
    return ids, torch.tensor([9, 6, 2, 7])


def batch() -> Batch:
    ids, lengths = sources()
    return {"row": torch.arange(4), "source.tokens": ids, "source.tokens.length": lengths}


def mask() -> Tensor:
    ids, lengths = sources()
    return (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def test_logits_are_those_of_marian() -> None:
    marian = theirs()
    model = ours(marian.state_dict())
    written = torch.randint(2, WORDS, (4, 7), generator=torch.Generator().manual_seed(4))
    told = batch() | {"target.tokens": written, "target.tokens.length": torch.tensor([7, 7, 7, 7])}
    before = torch.cat([torch.zeros(4, 1, dtype=torch.int64), written[:, :-1]], dim=1)
    with torch.no_grad():
        expected = marian(input_ids=sources()[0], attention_mask=mask(), decoder_input_ids=before).logits
        found = model.head(model.outputs[0]).logits(model(told).values)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (3, 1.0), (4, 0.0), (2, 2.0), (5, 0.6)])
def test_texts_are_those_of_marian(beams: int, penalty: float) -> None:
    marian = theirs()
    model = ours(marian.state_dict())
    with torch.no_grad():
        rows = marian.generate(
            input_ids=sources()[0], attention_mask=mask(), num_beams=beams, length_penalty=penalty, do_sample=False,
            max_new_tokens=12, early_stopping=False, use_cache=True, renormalize_logits=False,
        )  # fmt: skip
    config = Config(max_tokens=12, temperature=0.0, beams=beams, length_penalty=penalty)
    with torch.inference_mode():
        written = write(model, batch(), [[END]] * 4, config)
    assert written == [until_end(row[1:].tolist()) for row in rows]
    assert min(map(len, written)) < 12  # some end by themselves


def until_end(tokens: list[int]) -> list[int]:
    for place, token in enumerate(tokens):
        if token in (END, 1):
            return tokens[:place]
    return tokens
