"""`lightning`: its Trainer around the plain loop's model and optimizer."""

from __future__ import annotations

import logging
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.peers.job import Clock, Job, quiet, read_job
from benchmarks.peers.plain import Model, optimizer_of
from benchmarks.peers.windows import Windows


class Task(lightning.LightningModule):
    def __init__(self, job: Job):
        super().__init__()
        self.job = job
        self.model = Model(job.shape)

    def training_step(self, rows: Tensor, index: int) -> Tensor:  # (B, T + 1) -> ()
        loss: Tensor = self.model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.model, self.job.shape.lr, self.job.device)


class Stamps(lightning.Callback):
    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.clock.step(float(outputs["loss"]))


def main() -> None:
    quiet()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    job = read_job()
    torch.manual_seed(job.seed)
    task = Task(job)
    clock = Clock(job.device)
    trainer = lightning.Trainer(
        accelerator="cpu" if job.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if job.precision == "bf16" else "32-true",
        max_steps=job.steps,
        max_epochs=1,
        gradient_clip_val=1.0,
        callbacks=[Stamps(clock)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(torch.compile(task) if job.compile else task, DataLoader(Windows(job), batch_size=job.shape.batch))
    clock.answer(job, ["lightning"])


if __name__ == "__main__":
    main()
