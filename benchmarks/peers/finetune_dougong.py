"""dougong: `dougong.train` of the recipe benchmarks/finetuning.yaml, its data prepared by a process before."""

from __future__ import annotations

from typing import Any

import dougong
from benchmarks.data import PREPARED, ROOT
from benchmarks.peers.dougong_steps import steps_of_a_run
from benchmarks.peers.finetuning_job import Job, answer, read_job
from benchmarks.peers.job import Clock

RECIPE = ROOT / "benchmarks" / "finetuning.yaml"


def main() -> None:
    job = read_job()
    clock = Clock(job.device)
    tokens: list[int] = []

    def step(record: dict[str, Any]) -> None:
        clock.step(record["loss"])
        tokens.append(record["tokens"])

    with steps_of_a_run(step):
        run = dougong.train(RECIPE, overrides=overrides(job))
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
    answer(job, clock, tokens, ["dougong"], parameters=parameters)


def overrides(job: Job) -> list[str]:
    values: dict[str, Any] = {
        "data.cache": PREPARED,
        "data.train": job.rows_file,
        "outputs.label.dropout": job.dropout,
        "model.dropout": job.dropout,
        "train.precision": job.precision,
        "train.device": job.device,
        "seed": job.seed,
    }
    return [f"{key}={value}" for key, value in values.items()]


if __name__ == "__main__":
    main()
