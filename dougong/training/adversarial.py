"""Adversarial training: a generator and a critic, each of which has a loss of its own, in one step.

Both losses' gradients are computed in turn at the same weights, and the one optimizer takes them together (simultaneous
gradient descent, as in Mescheder et al. 2018, arXiv:1801.04406): so both networks are saved, resumed and averaged as any weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dougong.layers.noise import drawn
from dougong.model import Batch, Model
from dougong.training.loop import LossFunction, accumulate, step_totals


def seam(model: Model) -> Callable[..., Tensor]:
    """How a step's gradients come onto the model: those of one loss, or of two that work against each other."""
    return adversarial if getattr(model.backbone, "ADVERSARIAL", False) else accumulate


def adversarial(model: Model, loss_fn: LossFunction, batches: list[Batch], autocast: Any) -> Tensor:
    """Leave one step's gradients on the model, of each loss on its own weights; return the mean of both together.

    `loss_fn` is not asked: the game is the backbone's own. What reads the inputs learns with the critic, which sees what
    really belongs to them.
    """
    assert model.made is not None
    game, name = model.backbone, model.made.name
    generator = [each for each in game.generator.parameters() if each.requires_grad]
    of_generator = {id(each) for each in generator}
    critic = [each for each in model.parameters() if each.requires_grad and id(each) not in of_generator]
    targets = step_totals(model, batches)[name].clamp(min=1)
    total = torch.zeros((), device=batches[0]["row"].device)
    for batch in batches:
        values, known = model.head(model.made).values(batch, name), model.head(model.made).known(batch, name)
        with autocast():
            condition = model(batch)
            draws = drawn(len(values), game.noise_shape, values.device)
            against, fooling = game.game(values, condition, draws)  # (B,) each
            penalty = game.penalty(values, condition)
        critic_loss = ((against if penalty is None else against + penalty) * known).sum() / targets
        generator_loss = (fooling * known).sum() / targets
        critic_loss.backward(inputs=critic, retain_graph=True)
        generator_loss.backward(inputs=generator)
        total = total + critic_loss.detach() + generator_loss.detach()
    return total
