"""dougong: `dougong.train` of the recipe with the benchmark's budget, and `predict` of the English of the test rows."""

from __future__ import annotations

import dougong
from benchmarks.data import PREPARED
from benchmarks.peers.dougong_steps import steps_of_a_run
from benchmarks.peers.translation_job import Job, answer, read_job, read_pairs


def main() -> None:
    job = read_job()
    english = [{"english": given} for given, _ in read_pairs(job, "test")]
    with steps_of_a_run(lambda record: None):
        run = dougong.train(job.recipe, overrides=overrides(job))
        (output,) = run.outputs
        translations = [row[output.name]["value"] for row in run.predict(english)]
        training = run.receipt["training"]
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
    answer(
        translations,
        job,
        ["dougong"],
        parameters=parameters,
        steps=training["steps"],
        minutes=training["seconds"] / 60,
        weights_of_step=training["weights_of_step"],
    )


def overrides(job: Job) -> list[str]:
    """What the benchmark sets beside the recipe; its budget takes the place of the recipe's own."""
    budget = f"train.steps={job.steps}" if job.steps else f"train.minutes={job.minutes}"
    return [f"data.cache={PREPARED}", f"seed={job.seed}", budget]


if __name__ == "__main__":
    main()
