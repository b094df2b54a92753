"""`transformers`: GPT2LMHeadModel from a config, trained by its Trainer with its own defaults."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers.job import Clock, quiet, read_job
from benchmarks.peers.windows import Windows


class Labelled(Dataset[dict[str, Tensor]]):
    """The windows as the model's arguments. It shifts the labels itself."""

    def __init__(self, windows: Windows):
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.windows[index][:-1]  # (T,)
        return {"input_ids": row, "labels": row}


class Stamps(TrainerCallback):
    def __init__(self, clock: Clock):
        self.clock = clock

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "loss" in logs:  # of each step; the last line sums up
            self.clock.step(float(logs["loss"]))


def main() -> None:
    quiet()
    job = read_job()
    shape = job.shape
    torch.manual_seed(job.seed)
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    clock = Clock(job.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=job.steps,
            per_device_train_batch_size=shape.batch,
            learning_rate=shape.lr,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            weight_decay=0.1,
            bf16=job.precision == "bf16",
            torch_compile=bool(job.compile),
            use_cpu=job.device == "cpu",
            train_sampling_strategy="sequential",
            dataloader_pin_memory=job.device != "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=job.seed,
        )
        data, model = Labelled(Windows(job)), GPT2LMHeadModel(config)
        Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Stamps(clock)]).train()
    clock.answer(job, ["transformers", "accelerate"])


if __name__ == "__main__":
    main()
