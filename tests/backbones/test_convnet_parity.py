"""ResNet and ConvNeXt are configurations of one convnet: features equal those of `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextModel, ResNetConfig, ResNetModel

from dougong.backbones.convnet import PRESETS, Config
from dougong.layers.features import Features

Build = Callable[..., Any]  # see conftest.py


def noisy(model: nn.Module) -> Any:
    torch.manual_seed(4)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data += 0.2 * torch.rand_like(buffer)
    return model.eval()


def through(model: Any, x: Tensor) -> Tensor:
    """(B, C, H, W) through our stages."""
    y = model(
        Features(
            x.flatten(2).transpose(1, 2), torch.ones(len(x), x.shape[2] * x.shape[3], dtype=torch.bool), x.shape[2:]
        )
    )
    return y.values.transpose(1, 2).unflatten(2, y.grid)


@pytest.mark.parametrize(("block", "depths"), [("basic", (2, 2)), ("bottleneck", (1, 3, 2))])
def test_resnet_is_a_configuration(block: Any, depths: tuple[int, ...], build: Build) -> None:
    widths = [8 * 2**stage for stage in range(len(depths))]
    theirs = noisy(
        ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=list(depths), layer_type=block))
    )
    ours = build(Config(width=widths[-1], layers=depths, block=block), 16, axes=2)
    blocks = [layer for stage in theirs.encoder.stages for layer in stage.layers]
    for own, other in zip(ours.net.blocks, blocks, strict=True):
        for conv, norm, layer in zip(own.convs, own.norms, other.layer, strict=True):
            conv.weight.data.copy_(layer.convolution.weight)
            norm.load_state_dict(layer.normalization.state_dict())
        if own.shortcut is not None:
            own.shortcut.weight.data.copy_(other.shortcut.convolution.weight)
            own.shortcut_norm.load_state_dict(other.shortcut.normalization.state_dict())
    x = torch.randn(2, 8, 9, 12)
    with torch.no_grad():
        torch.testing.assert_close(through(ours, x), theirs.encoder(x).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_convnext_is_a_configuration(build: Build) -> None:
    theirs = noisy(ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16, 32], depths=[1, 2, 1], num_stages=3)))
    ours = build(Config(width=32, layers=(1, 2, 1), block="convnext", kernel=7, norm="layer"), 16, axes=2)
    for stage, start in zip(theirs.encoder.stages, (0, 1, 3), strict=True):
        first = ours.net.blocks[start]
        if first.down is not None:
            first.down_norm.load_state_dict(stage.downsampling_layer[0].state_dict())
            first.down.load_state_dict(stage.downsampling_layer[1].state_dict())
        for own, other in zip(ours.net.blocks[start : start + len(stage.layers)], stage.layers, strict=True):
            own.depthwise.load_state_dict(other.dwconv.state_dict())
            own.norm.load_state_dict(other.layernorm.state_dict())
            own.scale.data.copy_(other.layer_scale_parameter)
            for conv, linear in ((own.expand, other.pwconv1), (own.contract, other.pwconv2)):
                conv.weight.data.copy_(linear.weight[:, :, None, None])
                conv.bias.data.copy_(linear.bias)
    ours.net.norm = nn.Identity()  # theirs comes after the mean
    x = torch.randn(2, 8, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(through(ours, x), theirs.encoder(x).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_the_presets_have_as_many_parameters_as_the_models_they_are_named_after() -> None:
    from dougong.backbones.convnet import Backbone

    def count(name: str) -> int:
        with torch.device("meta"):
            net = Backbone(PRESETS[name], positions=196, axes=2).net
        return sum(p.numel() for p in net.parameters()) // 10_000

    with torch.device("meta"):
        resnet = {
            "resnet18": ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"),
            "resnet50": ResNetConfig(embedding_size=256),  # our patches come as wide as the first stage
        }
        for name, config in resnet.items():
            assert count(name) == sum(p.numel() for p in ResNetModel(config).encoder.parameters()) // 10_000
        assert (
            count("convnext") == sum(p.numel() for p in ConvNextModel(ConvNextConfig()).encoder.parameters()) // 10_000
        )
