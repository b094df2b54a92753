"""Learning-rate schedules: what the configured rate is multiplied by, as a pure function of how far the run is.

Cosine after Loshchilov and Hutter 2017 (arXiv:1608.03983), warmup-stable-decay after Hu et al. 2024 (arXiv:2404.06395)
with the 1-sqrt decay of Hägele et al. 2024 (arXiv:2405.18392), inverse square root after Vaswani et al. 2017
(arXiv:1706.03762). A rate that ends at zero is the default where it falls (Bergsma et al. 2025, arXiv:2502.15938).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from dougong.core.config import Count, Fraction, NonNegative, config

Warmup = Count | Fraction
"""Steps (a whole number), or a share of the budget (less than 1), over which the rate rises to what is configured."""
START = 0.1  # what a warmup given as a share begins with: not 0, or the first step of a run would change nothing


@config
class Constant:
    """The configured rate throughout."""

    kind: Literal["constant"] = "constant"
    warmup: Warmup = 0.02


@config
class Linear:
    """Falls in a straight line to `floor` times the rate at the end of the budget."""

    kind: Literal["linear"] = "linear"
    warmup: Warmup = 0.02
    floor: Fraction = 0.0


@config
class Cosine:
    """Falls along half a cosine to `floor` times the rate at the end of the budget."""

    kind: Literal["cosine"] = "cosine"
    warmup: Warmup = 0.02
    floor: Fraction = 0.0


@config
class WSD:
    """Warmup, stable, decay: stays at the rate, then falls to zero over the last `decay` share of the budget."""

    kind: Literal["wsd"] = "wsd"
    warmup: Warmup = 0.02
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    shape: Literal["linear", "sqrt"] = "sqrt"  # sqrt: 1 - sqrt(x), fast at first


@config
class InverseSqrt:
    """Falls with the root of the steps since the start, from the end of the warmup on; it needs no end."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup: Warmup = 0.05


@config
class Plateau:
    """Is lowered by `factor` whenever the validation loss has not fallen for more than `patience` validations."""

    kind: Literal["plateau"] = "plateau"
    warmup: Warmup = 0.02
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    patience: Count = 2
    threshold: NonNegative = 1e-4  # a loss counts as fallen if it is lower by this share of the lowest one
    floor: Fraction = 0.0


ScheduleConfig = Annotated[Constant | Linear | Cosine | WSD | InverseSqrt | Plateau, Field(discriminator="kind")]


def factor(config: ScheduleConfig, step: int, progress: float, plateau: dict[str, Any] | None = None) -> float:
    """The factor of the next step: `step` have been taken, and the share `progress` of the budget is used."""
    progress = min(max(progress, 0.0), 1.0)
    return _rising(config.warmup, step, progress) * _falling(config, step, progress, plateau or {})


def observe(config: ScheduleConfig, loss: float, plateau: dict[str, Any]) -> dict[str, Any]:
    """What a plateau schedule remembers after a validation loss; the others remember nothing."""
    if not isinstance(config, Plateau):
        return plateau
    best, waited, lowered = plateau.get("best"), plateau.get("waited", 0), plateau.get("factor", 1.0)
    if not math.isfinite(loss):  # the loop refuses such a step; it says nothing about where the loss would go
        return plateau
    if best is None or loss < best - config.threshold * abs(best):
        return {"best": loss, "waited": 0, "factor": lowered}
    if waited < config.patience:
        return {"best": best, "waited": waited + 1, "factor": lowered}
    return {"best": best, "waited": 0, "factor": max(lowered * config.factor, config.floor)}


def _rising(warmup: int | float, step: int, progress: float) -> float:
    if isinstance(warmup, int):
        return min(1.0, (step + 1) / max(warmup, 1))
    return min(1.0, START + (1 - START) * progress / warmup) if warmup else 1.0


def _falling(config: ScheduleConfig, step: int, progress: float, plateau: dict[str, Any]) -> float:
    match config:
        case Constant():
            return 1.0
        case Linear():
            return 1 - (1 - config.floor) * progress
        case Cosine():
            return config.floor + (1 - config.floor) * (1 + math.cos(math.pi * progress)) / 2
        case WSD():
            late = max(0.0, (progress - (1 - config.decay)) / config.decay)
            return 1 - (math.sqrt(late) if config.shape == "sqrt" else late)
        case InverseSqrt():
            if isinstance(config.warmup, float) and config.warmup:
                return math.sqrt(config.warmup / max(progress, config.warmup))
            start = max(int(config.warmup), 1)
            return math.sqrt(start / max(step + 1, start))
        case Plateau():
            return float(plateau.get("factor", 1.0))
