"""Language models of ours with the weights of GPT-2, Llama and BERT: the same logits, the same texts by greedy and beam search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dougong import model as models
from dougong.backbones import transformer
from dougong.fields import Field, text
from dougong.inference.generate import Config, write
from dougong.layers.losses import Loss
from dougong.model import Model
from tests import transformers_weights

END, WORDS, LONGEST, LAYERS = 0, 40, 32, 2
BLOCKS: dict[str, Any] = {"width": 24, "layers": LAYERS, "heads": 4, "feedforward": 40, "dropout": 0.0}
ENDS = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}


class Ids:
    """A codec of which only the numbers are asked for."""

    vocab_size, end, unknown, mask = WORDS, END, None, WORDS - 1


@dataclass(frozen=True)
class Family:
    """A language model of `transformers`, the configuration of ours that equals it, and its weights by our names."""

    make: Callable[[], Any]
    shape: transformer.Config
    weights: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    tied: bool = True
    masked: bool = False


def under(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What stands below a module of theirs, by its names there."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def whole(backbone: dict[str, Tensor], embedding: Tensor, head: Tensor) -> dict[str, Tensor]:
    """Our embeddings are multiplied by the root of the width; theirs are taken as they are."""
    named = {f"backbone.{name}": value for name, value in backbone.items()}
    return named | {"in_text.encoder.embedding.weight": embedding / 24**0.5, "out_text.projection.weight": head}


def gpt2_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone = transformers_weights.gpt2(under("transformer", state), LAYERS)
    return whole(backbone, state["transformer.wte.weight"], state["lm_head.weight"])


def llama_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone = transformers_weights.llama(under("model", state), LAYERS)
    return whole(backbone, state["model.embed_tokens.weight"], state["lm_head.weight"])


def bert_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedding of a word's type, which is always the first, is added to that of the word."""
    bare = under("bert", state)
    words = bare["embeddings.word_embeddings.weight"] + bare["embeddings.token_type_embeddings.weight"][0]
    weights = whole(transformers_weights.bert(bare, LAYERS), words, state["cls.predictions.decoder.weight"])
    weights["out_text.projection.bias"] = state["cls.predictions.bias"]
    for mine, their in (("0", "dense"), ("2", "LayerNorm")):
        for part in ("weight", "bias"):
            weights[f"out_text.transform.{mine}.{part}"] = state[f"cls.predictions.transform.{their}.{part}"]
    return weights


def gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_positions=LONGEST, n_embd=24, n_layer=LAYERS, n_head=4, n_inner=40, **ENDS)
    )


def llama() -> Any:
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, max_position_embeddings=LONGEST, rms_norm_eps=1e-6, tie_word_embeddings=False, **ENDS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def bert() -> Any:
    config = BertConfig(
        vocab_size=WORDS, hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=LONGEST, pad_token_id=END,
    )  # fmt: skip
    return BertForMaskedLM(config)


GATED = transformer.Config(**BLOCKS, kv_heads=2, activation="swiglu", qk_norm=False)
PRESETS = {name: replace(transformer.PRESETS[name], **BLOCKS, max_length=LONGEST) for name in ("gpt2", "bert")}
FAMILIES = {
    "gpt2": Family(gpt2, PRESETS["gpt2"], gpt2_weights),
    "llama": Family(llama, GATED, llama_weights, tied=False),
    "bert": Family(bert, PRESETS["bert"], bert_weights, masked=True),
}


def theirs(family: Family) -> Any:
    """A head of large numbers makes for texts that differ, and noise for biases and norms that are not as born."""
    torch.manual_seed(1)
    model = family.make().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def ours(family: Family, state: dict[str, Tensor]) -> Model:
    masked = {"objective": "masked", "transform": True} if family.masked else {}
    field = Field("text", text.Config(max_length=LONGEST, tied=False, **masked), Ids())  # type: ignore[arg-type]
    model = models.build([], [field], family.shape, encoders={}, loss=Loss(), seed=0, device=torch.device("cpu"))
    model.load_state_dict(family.weights(state), strict=True)
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_theirs(name: str) -> None:
    family = FAMILIES[name]
    reference = theirs(family)
    model = ours(family, reference.state_dict())
    ids = torch.randint(1, WORDS, (3, 12), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([12, 12, 12])
    if family.masked:
        batch = {"text.seen": ids, "text.tokens": ids, "text.tokens.length": lengths}
    else:  # ours tells each token from those before it, and the first from the end of a text
        batch = {"text.tokens": torch.cat([ids[:, 1:], ids[:, :1]], dim=1), "text.tokens.length": lengths}
        batch["text.before"] = ids[:, 0]
    with torch.no_grad():
        expected = reference(input_ids=ids).logits
        found = model.head(model.outputs[0]).logits(model(batch).values)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.5


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (3, 1.0), (4, 0.0), (4, 2.0)])
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.masked])
def test_texts_are_theirs(name: str, beams: int, penalty: float) -> None:
    family = FAMILIES[name]
    reference = theirs(family)
    model = ours(family, reference.state_dict())
    known = [[END, 7, 3, 21], [END, 5], [END, 30, 30, 2, 9, 11], [END]]
    expected, found = [], []
    for prompt in known:
        with torch.no_grad():
            (row,) = reference.generate(
                input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                num_beams=beams, length_penalty=penalty, do_sample=False, max_new_tokens=12, early_stopping=False,
            )  # fmt: skip
        expected.append(until_end(row[len(prompt) :].tolist()))
        config = Config(max_tokens=12, temperature=0.0, beams=beams, length_penalty=penalty)
        with torch.inference_mode():
            found += write(model, {}, [prompt], config)
    assert found == expected
    assert len(set(map(tuple, found))) > 1
    assert max(map(len, found)) > 2


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END)] if END in tokens else tokens
