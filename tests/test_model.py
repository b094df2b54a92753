"""The model: built without memory, filled from its seed, the same for any mixture of inputs and outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong import backbones
from dougong.core.config import read
from dougong.core.errors import FieldError, MachineError
from dougong.data.loader import collate
from dougong.fields import Field
from dougong.layers.losses import Loss
from dougong.model import AUXILIARY, Model, build, initialize
from dougong.training import optimizers
from tests.clear_error import clear_error
from tests.contracts.values import field_of, parsed_of

CPU = torch.device("cpu")


def backbone_of(kind: str, **more: Any) -> Any:
    module = backbones.load(kind)
    config, problems = read(module.Config, dataclasses.asdict(module.PRESETS["tiny"]) | more)
    assert not problems, problems
    return config


def model_of(inputs: list[Field], outputs: list[Field], kind: str = "transformer", seed: int = 0, **more: Any) -> Model:
    encoders: dict[str, Any] = more.pop("encoders", {})
    return build(inputs, outputs, backbone_of(kind, **more), encoders=encoders, loss=Loss(), seed=seed, device=CPU)


def batch_of(fields: list[Field], rows: int = 5) -> dict[str, Tensor]:
    columns = {
        f"{field.name}.{key}": column
        for field in fields
        for key, column in field.codec.encode(parsed_of(field.config.type)[:rows])[0].items()
    }
    limits = {f"{field.name}.{key}": limit for field in fields for key, limit in field.codec.limits().items()}
    return collate(columns, np.arange(rows), limits)


TEXT, IMAGE, SIZE = (field_of(kind, name) for kind, name in (("text", "t"), ("image", "i"), ("number", "n")))
LABEL, WRITTEN = field_of("category", "y"), field_of("text", "w")


def same(first: Model, second: Model) -> bool:
    return all(torch.equal(a, second.weights()[name]) for name, a in first.weights().items())


def test_the_seed_alone_decides_the_weights_and_no_other_generator_moves() -> None:
    state = torch.get_rng_state()
    first = model_of([TEXT, IMAGE], [LABEL])
    torch.rand(3)
    second = model_of([TEXT, IMAGE], [LABEL])
    torch.set_rng_state(state)
    model_of([TEXT, IMAGE], [LABEL])
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, second)
    assert not same(first, model_of([TEXT, IMAGE], [LABEL], seed=1))


def test_weights_are_drawn_on_the_cpu_whatever_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.device] = []
    monkeypatch.setattr(
        "dougong.model.initialize", lambda model, seed: drawn.extend(p.device for p in model.parameters())
    )
    meta = torch.device("meta")  # stands in for an accelerator
    model = build([], [WRITTEN], backbone_of("transformer"), encoders={}, loss=Loss(), seed=0, device=meta)
    assert set(drawn) == {CPU}
    assert {tensor.device for tensor in [*model.parameters(), *model.buffers()]} == {meta}
    assert model.head(WRITTEN).projection.weight is model.arrival(WRITTEN).encoder.embedding.weight


@pytest.mark.parametrize("kind", [name for name in backbones.names() if not backbones.makes(name)])
def test_every_parameter_and_buffer_is_filled_whatever_the_memory_held(kind: str) -> None:
    with torch.device("meta"):
        model = Model([TEXT, SIZE], [LABEL], backbone_of(kind), {}, Loss())
    model.to_empty(device=CPU)
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else 1)
    initialize(model, 0)
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
    assert same(model, model_of([TEXT, SIZE], [LABEL], kind))


def test_a_module_that_cannot_fill_its_parameters_is_told_by_name() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(TypeError, match="Forgetful owns parameters but has no reset_parameters"):
        initialize(nn.Sequential(nn.Linear(1, 1), Forgetful()), 0)


def test_a_written_text_shares_its_matrix_where_the_recipe_says_so() -> None:
    tied = model_of([], [WRITTEN])
    assert tied.head(WRITTEN).projection.weight is tied.arrival(WRITTEN).encoder.embedding.weight
    untied = dataclasses.replace(WRITTEN, config=dataclasses.replace(WRITTEN.config, tied=False))
    apart = model_of([], [untied])
    assert apart.head(untied).projection.weight is not apart.arrival(untied).encoder.embedding.weight
    assert len(tied.weights()) == len(apart.weights()) - 1
    assert {id(p) for p in tied.parameters()} == {
        id(tied.get_parameter(name)) for name in dict(tied.named_parameters())
    }


@pytest.mark.parametrize("layout", ["decoder", "encoder-decoder"])
def test_an_answer_has_one_embedding_with_the_input_that_it_shares_with(layout: str) -> None:
    sharing = dataclasses.replace(WRITTEN, config=dataclasses.replace(WRITTEN.config, shares="t"))
    model, apart = model_of([TEXT], [sharing], layout=layout), model_of([TEXT], [WRITTEN], layout=layout)
    embedding = model.arrival(TEXT).encoder.embedding.weight
    assert model.arrival(sharing).encoder.embedding.weight is embedding
    assert model.head(sharing).projection.weight is embedding
    assert len(model.weights()) == len(apart.weights()) - 1


@pytest.mark.parametrize("layout", ["decoder", "encoder-decoder"])
def test_what_is_copied_from_are_the_features_of_that_input_among_all(layout: str) -> None:
    copying = dataclasses.replace(WRITTEN, config=dataclasses.replace(WRITTEN.config, shares="t", copy=True))
    model = model_of([SIZE, TEXT], [copying], layout=layout).eval()
    batch = batch_of([SIZE, TEXT, copying])
    read = model.encoder if model.encoder is not None else model.backbone
    seen: list[Any] = []
    read.register_forward_hook(lambda module, given, found: seen.append(found))
    source = model(batch).source
    assert source is not None
    steps = batch["t.tokens"].shape[1]
    assert torch.equal(source.values, seen[0].values[:, 1 : 1 + steps])  # the number stands before
    assert torch.equal(source.mask, seen[0].mask[:, 1 : 1 + steps])
    assert model_of([SIZE, TEXT], [WRITTEN], layout=layout)(batch).source is None


def test_weights_are_all_that_a_saved_model_needs() -> None:
    first, second = model_of([IMAGE], [LABEL], "convnet"), model_of([IMAGE], [LABEL], "convnet", seed=5)
    batch = batch_of([IMAGE, LABEL])
    first.train()
    first.losses(batch)  # batch norm moves its running figures
    with torch.no_grad():
        for name, tensor in second.weights().items():
            tensor.copy_(first.weights()[name])
        before, after = (model.eval().predict(batch)["y"]["probabilities"] for model in (first, second))
    assert torch.equal(before, after)


def test_a_row_does_not_depend_on_what_it_is_batched_with() -> None:
    model = model_of([TEXT, IMAGE, SIZE], [LABEL]).eval()
    nn.init.normal_(model.head(LABEL).readout.linear.weight)
    fields = [TEXT, IMAGE, SIZE, LABEL]
    together = model.predict(batch_of(fields, 5))["y"]["probabilities"]
    alone = model.predict(batch_of(fields, 1))["y"]["probabilities"]
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_the_order_of_inputs_is_told_by_their_roles() -> None:
    model = model_of([TEXT, SIZE], [LABEL])
    assert model.roles.marks.weight.shape[0] == 2
    assert not hasattr(model_of([TEXT], [LABEL]), "roles")


def test_the_marks_of_roles_are_a_table_of_vectors_that_is_not_decayed() -> None:
    model = model_of([TEXT, SIZE], [LABEL])
    for config in (optimizers.AdamW(), optimizers.Muon()):
        groups = optimizers.build(config, model).param_groups
        (group,) = (group for group in groups if any(p is model.roles.marks.weight for p in group["params"]))
        assert group["weight_decay"] == 0.0
        assert group.get("method", "adamw") == "adamw"


def test_an_image_beside_another_input_is_refused_by_a_convnet_that_would_unroll_it() -> None:
    model = model_of([IMAGE, SIZE], [LABEL], "convnet")
    with clear_error("model.kind", "'convnet'", "an image beside other inputs", "encoder of its own", error=FieldError):
        model.losses(batch_of([IMAGE, SIZE, LABEL]))
    for inputs, more in (([SIZE, LABEL], {}), ([IMAGE, SIZE], {"encoders": {"i": backbone_of("convnet")}})):
        model_of(inputs, [LABEL], "convnet", **more).losses(batch_of([*inputs, LABEL]))


@pytest.mark.parametrize("place", ["model", "encoder", "beside", "both"])
def test_the_experts_balance_loss_reaches_the_losses_wherever_the_experts_stand(place: str) -> None:
    experts, plain = (backbone_of("transformer", experts=number) for number in (4, 0))
    inputs = [TEXT, SIZE] if place in ("beside", "both") else [TEXT]
    encoders = {} if place == "model" else {"t": experts}
    if place == "both":
        encoders["n"] = experts
    main = experts if place in ("model", "both") else plain
    model = build(inputs, [LABEL], main, encoders=encoders, loss=Loss(), seed=0, device=CPU).train()
    losses = model.losses(batch_of([*inputs, LABEL]))
    stacks = 3 if place == "both" else 1
    even = experts.balance * experts.layers * stacks  # each layer's loss is 1 where all experts are used alike
    assert 0.9 * even < float(losses[AUXILIARY].detach()) < 4 * even
    losses[AUXILIARY].backward()
    routers = [parameter for name, parameter in model.named_parameters() if "router" in name]
    assert len(routers) == experts.layers * stacks
    assert all(router.grad is not None and router.grad.abs().sum() > 0 for router in routers)
    assert AUXILIARY not in model.eval().losses(batch_of([*inputs, LABEL]))


def test_an_input_may_have_a_backbone_of_its_own() -> None:
    own = backbone_of("convnet")
    model = model_of([IMAGE, TEXT], [LABEL], encoders={"i": own})
    assert model.arrival(IMAGE).own is not None
    assert model.arrival(TEXT).own is None
    model.losses(batch_of([IMAGE, TEXT, LABEL]))["y"].backward()
    assert model.predict(batch_of([IMAGE, TEXT]))["y"]["probabilities"].shape == (5, 3)


@pytest.mark.parametrize("kind", [name for name in backbones.names() if backbones.load(name).Backbone.CAUSAL])
@pytest.mark.parametrize("inputs", [[], [IMAGE], [TEXT, SIZE]], ids=["none", "image", "text and number"])
def test_a_written_token_depends_on_the_inputs_and_on_what_stands_before_it_only(
    kind: str, inputs: list[Field]
) -> None:
    model = model_of(inputs, [WRITTEN], kind).eval()
    shake(model)
    batch = batch_of([*inputs, WRITTEN])
    changed = {key: value.clone() for key, value in batch.items()}
    changed["w.tokens"][:, 6:] = (changed["w.tokens"][:, 6:] + 1) % WRITTEN.codec.vocab_size
    with torch.no_grad():
        before, after = model(batch).values, model(changed).values
        assert before.shape[1] == batch["w.tokens"].shape[1]
        assert torch.allclose(before[:, :7], after[:, :7], atol=1e-5)  # position 6 sees the tokens up to 5
        assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-5)
        for field in inputs:
            key = next(
                key for key in batch if key.startswith(f"{field.name}.") and not key.endswith((".length", ".bytes"))
            )
            moved = {key: batch[key].flip(0) for key in batch if key.startswith(f"{field.name}.")}
            assert not torch.allclose(before, model(batch | moved).values, atol=1e-5), f"{key} does not matter"


def shake(model: Model) -> None:
    """Layers begin as their shortcut: give each something to say."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize(
    "inputs", [[IMAGE, TEXT], [TEXT, SIZE], [SIZE, field_of("number", "o")]], ids=["image and text", "unlike", "alike"]
)
def test_a_pairing_reads_each_input_by_itself(inputs: list[Field]) -> None:
    paired = field_of("pairing", "p")
    model = model_of(inputs, [paired]).eval()
    shake(model)
    batch = batch_of([*inputs, paired])
    with torch.no_grad():
        sides = model.predict(batch)["p"]
        for field, side in zip(inputs, ("first", "second"), strict=True):
            alone = {key: value for key, value in batch.items() if key.startswith(f"{field.name}.")}
            assert torch.allclose(model.embed(field, alone), sides[side], atol=1e-5)
    assert model.predict(batch)["p"]["first"].shape == (5, 8)
    assert model.one_encoder == (inputs[0] is SIZE)


def test_losses_are_sums_over_the_targets_that_counts_counts() -> None:
    model = model_of([TEXT], [LABEL, SIZE])
    shake(model)
    model.eval()
    batch = batch_of([TEXT, LABEL, SIZE], 5)
    assert {name: int(count) for name, count in model.counts(batch).items()} == {"y": 5, "n": 5}
    rows = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(5)]
    for name, total in model.losses(batch).items():
        assert torch.allclose(total, sum(model.losses(row)[name] for row in rows), rtol=1e-4)  # type: ignore[arg-type]


def test_evaluate_gives_what_predict_and_losses_give() -> None:
    for outputs in ([LABEL, SIZE], [WRITTEN]):
        model = model_of([TEXT], outputs).eval()
        shake(model)
        batch = batch_of([TEXT, *outputs])
        with torch.no_grad():
            predicted, losses = model.evaluate(batch)
            expected, wanted = model.predict(batch), model.losses(batch)
        assert predicted.keys() == expected.keys()
        for name in expected:
            assert all(torch.equal(predicted[name][key], value) for key, value in expected[name].items())
            assert torch.allclose(losses[name], wanted[name], rtol=1e-5)


def test_a_backbone_that_cannot_look_back_only_is_refused_for_a_text() -> None:
    with clear_error("model.kind", "'mlp'", "step by step", error=FieldError):
        model_of([TEXT], [WRITTEN], "mlp")


def test_T8_a_model_that_no_memory_here_holds_is_refused_before_it_is_made() -> None:
    with clear_error("parameters take", " GB", "lower model.width", error=MachineError):
        model_of([TEXT], [LABEL], width=1 << 19, heads=2, layers=100)
