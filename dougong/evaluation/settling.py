"""What is settled once, after training: numbers that are chosen on all validation rows, and never on those of the test.

A Head that offers `settle` keeps what it chose in its persistent buffers. So it lies in model.safetensors, and whatever
predicts with the model uses it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dougong.core.errors import bad_field
from dougong.data.loader import Plan
from dougong.evaluation.measure import measure
from dougong.fields import settled_keys
from dougong.inference.predict import Autocast, predictions
from dougong.metrics.intervals import Estimate
from dougong.model import Model
from dougong.training.fit import GIVE_ROWS


def check_needs_no_rows(outputs: Mapping[str, Any]) -> None:
    """Refuse settings that are to be found on validation rows where there will be none."""
    for name, config in outputs.items():
        for key in settled_keys(config):
            value = getattr(config, key)
            raise bad_field(f"outputs.{name}.{key}", value, "rows to validate on, and there are none", GIVE_ROWS)


def settle(model: Model, plan: Plan, autocast: Autocast) -> dict[str, dict[str, Any]]:
    """Let each output's Head choose on the rows of the plan; what it chose, and the metrics that this changed on them.

    It reads the rows once for each such output, and twice to measure: as much as three validations. No row is kept.
    """
    heads = {field.name: model.head(field) for field in model.outputs if settled_keys(field.config)}
    if not heads:
        return {}
    before = measure(model, plan, "validation", autocast, replicates=0, write=False)
    chosen = {}
    for name, head in heads.items():
        read = predictions(model, plan, autocast)
        chosen[name] = head.settle((each.predictions[name], each.targets[name]) for each in read)
    after = measure(model, plan, "validation", autocast, replicates=0, write=False)
    return {
        name: {**said, "rows": after.rows, "metrics": _changed(name, before.metrics, after.metrics)}
        for name, said in chosen.items()
    }


def _changed(name: str, before: Mapping[str, Estimate], after: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """The metrics of an output that are no longer what they were."""
    pairs = {key: (before[key].value, after[key].value) for key in after if key.startswith(f"{name}.")}
    return {
        key.removeprefix(f"{name}."): {"before": old, "after": new}
        for key, (old, new) in pairs.items()
        if math.isfinite(old) and math.isfinite(new) and not math.isclose(old, new, rel_tol=1e-4)  # more than rounding
    }
