"""dougong: `dougong.train` of the recipe benchmarks/pretrain-SHAPE.yaml, in dougong's own environment.

`dougong` is the recipe as it stands; `dougong-gpt2` the same with the parts of the plain loop's model (learned positions,
LayerNorm, GELU): what is left between those two is not the model. `dougong-lean` is the recipe with all that saves memory
(docs/training.md). The runs of a benchmark go to a folder that is thrown away.
"""

from __future__ import annotations

from typing import Any

import dougong
from benchmarks.data import PREPARED, recipe_of
from benchmarks.peers.dougong_steps import steps_of_a_run
from benchmarks.peers.job import Clock, Job, read_job
from dougong.core.devices import pick_device, pick_dtype

GPT2 = {"positions": "learned", "norm": "layer", "activation": "gelu", "qk_norm": "false", "norm_eps": "1e-5"}

LEAN = {"optimizer.state": "bf16", "gradients": "bf16"}
LEAN_NUMBERS = 1024 * 768  # tokens × width of a piece of the lean one: half of what `auto` makes them


def main() -> None:
    job = read_job()
    clock = Clock(job.device)
    waited: list[float] = []
    taken: list[float] = []

    def step(record: dict[str, Any]) -> None:
        clock.step(record["loss"])
        waited.append(record["wait_seconds"])
        taken.append(record["step_seconds"])

    with steps_of_a_run(step):
        run = dougong.train(recipe_of(job.shape_name), overrides=overrides(job))
        width = run.model.backbone.out_width
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
    timed = slice(job.warmup, None)
    whole = clock.stamps[-1] - clock.stamps[job.warmup - 1] if job.warmup else sum(taken)
    chosen = pick_dtype(job.precision, pick_device(job.device), width)  # type: ignore[arg-type]
    clock.answer(
        job,
        ["dougong"],
        computed_in={"torch.bfloat16": "bf16", "torch.float32": "fp32"}[str(chosen)],
        parameters=parameters,
        waiting_share=sum(waited[timed]) / whole,  # for batches
        bookkeeping_share=1 - sum(taken[timed]) / whole,  # between the steps: the log, checks, the live line
    )


def overrides(job: Job) -> list[str]:
    """What a run of the benchmark sets beside the recipe."""
    values: dict[str, Any] = {
        "data.cache": PREPARED,
        "train.steps": job.steps,
        "train.device": job.device,
        "train.precision": job.precision,
        "seed": job.seed,
    }
    if job.compile is not None:
        values["train.compile"] = str(job.compile).lower()
    if job.contestant == "dougong-gpt2":
        values |= {f"model.{key}": value for key, value in GPT2.items()} | {"model.max_length": job.shape.context}
    if job.contestant == "dougong-lean":
        values |= {f"train.{key}": value for key, value in LEAN.items()}
        values["train.micro_batch"] = max(1, LEAN_NUMBERS // (job.shape.context * job.shape.width))
    return [f"{key}={value}" for key, value in values.items()]


if __name__ == "__main__":
    main()
