"""Weights of `transformers`' models by our names: the table that each of the classic shapes is copied by."""

from __future__ import annotations

from torch import Tensor

State = dict[str, Tensor]  # what `state_dict` of the bare model gives, without a head

BERT = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feedforward.up": "intermediate.dense",
    "feedforward.down": "output.dense",
    "feedforward_norm": "output.LayerNorm",
}
LLAMA = {
    "attention_norm": "input_layernorm",
    "feedforward_norm": "post_attention_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
}
GATED = {"feedforward.gate": "mlp.gate_proj", "feedforward.up": "mlp.up_proj", "feedforward.down": "mlp.down_proj"}


def gpt2(state: State, layers: int) -> State:
    """Of GPT2Model. Its linear layers are stored as inputs × outputs, and query, key and value as one."""
    weights = {"table.weight": state["wpe.weight"]}
    weights |= {f"final_norm.{part}": state[f"ln_f.{part}"] for part in ("weight", "bias")}
    for index in range(layers):
        a, b = f"blocks.{index}", f"h.{index}"
        for part, turn in (("weight", Tensor.t), ("bias", Tensor.clone)):
            weights |= {f"{a}.attention_norm.{part}": state[f"{b}.ln_1.{part}"]}
            weights |= {f"{a}.feedforward_norm.{part}": state[f"{b}.ln_2.{part}"]}
            joint = state[f"{b}.attn.c_attn.{part}"].chunk(3, dim=-1)
            mapped = dict(zip(("query", "key", "value"), joint, strict=True))
            mapped["out"] = state[f"{b}.attn.c_proj.{part}"]
            weights |= {f"{a}.attention.{key}.{part}": turn(value) for key, value in mapped.items()}
            weights |= {f"{a}.feedforward.up.{part}": turn(state[f"{b}.mlp.c_fc.{part}"])}
            weights |= {f"{a}.feedforward.down.{part}": turn(state[f"{b}.mlp.c_proj.{part}"])}
    return weights


def bert(state: State, layers: int) -> State:
    """Of BertModel, the embeddings of words and of their types left out."""
    weights = {"table.weight": state["embeddings.position_embeddings.weight"]}
    for part in ("weight", "bias"):
        weights |= {f"input_norm.{part}": state[f"embeddings.LayerNorm.{part}"]}
        for index in range(layers):
            for a, b in BERT.items():
                weights |= {f"blocks.{index}.{a}.{part}": state[f"encoder.layer.{index}.{b}.{part}"]}
    return weights


VIT = {
    "attention_norm": "layernorm_before",
    "attention.query": "attention.q_proj",
    "attention.key": "attention.k_proj",
    "attention.value": "attention.v_proj",
    "attention.out": "attention.o_proj",
    "feedforward_norm": "layernorm_after",
    "feedforward.up": "mlp.fc1",
    "feedforward.down": "mlp.fc2",
}


def vit(state: State, layers: int) -> State:
    """Of ViTModel, the patches and the class token left out: they come in."""
    weights = {"table.weight": state["embeddings.position_embeddings"][0]}
    for part in ("weight", "bias"):
        weights |= {f"final_norm.{part}": state[f"layernorm.{part}"]}
        for index in range(layers):
            weights |= {f"blocks.{index}.{a}.{part}": state[f"layers.{index}.{b}.{part}"] for a, b in VIT.items()}
    return weights


def llama(state: State, layers: int, feedforward: bool = True) -> State:
    """Of LlamaModel; of MixtralModel without the feed-forward networks, which are experts."""
    names = LLAMA | (GATED if feedforward else {})
    pairs = [(f"blocks.{index}.{a}", f"layers.{index}.{b}") for index in range(layers) for a, b in names.items()]
    return {f"{a}.weight": state[f"{b}.weight"] for a, b in [*pairs, ("final_norm", "norm")]}
