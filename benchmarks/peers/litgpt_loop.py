"""`litgpt`: its GPT of pythia's form, trained by the `main` of its own pretraining script, which always compiles.

Rotary positions on a quarter of each head, LayerNorm and linear maps with bias, the head tied; the vocabulary is not
padded. Its script takes AdamW unfused on a CPU and computes the loss in chunks.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.peers.job import Clock, Job, quiet, read_job

job = read_job()
quiet()
if not job.compile:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # before torch is imported: the script has no option for it

import lightning  # noqa: E402
from lightning.fabric.loggers import Logger  # noqa: E402
from litgpt.args import EvalArgs, TrainArgs  # noqa: E402
from litgpt.config import Config  # noqa: E402
from litgpt.data import DataModule  # noqa: E402
from litgpt.pretrain import main as pretrain  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from benchmarks.peers.windows import Windows  # noqa: E402


class Data(DataModule):
    def __init__(self, job: Job):
        super().__init__()
        self.job = job

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        assert batch_size == self.job.shape.batch
        assert max_seq_length == self.job.shape.context

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(Windows(self.job), batch_size=self.job.shape.batch)

    val_dataloader = train_dataloader  # the script looks at some rows before it begins


class Stamps(Logger):
    """A logger of Fabric: the script calls it at the end of each step, with the loss."""

    def __init__(self, clock: Clock):
        self.clock = clock

    name = "stamps"
    version = 0

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if "loss" in metrics:
            self.clock.step(float(metrics["loss"]))

    def log_hyperparams(self, *arguments: Any, **more: Any) -> None:
        pass


def main() -> None:
    shape, clock = job.shape, Clock(job.device)
    config = Config(
        name="benchmark",
        block_size=shape.context,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        rotary_percentage=0.25,
        parallel_residual=False,
        bias=True,
    )
    train = TrainArgs(
        save_interval=None,
        log_interval=1,
        global_batch_size=shape.batch,
        micro_batch_size=shape.batch,
        max_tokens=job.steps * shape.tokens_per_step,
        max_seq_length=shape.context,
        max_norm=1.0,
        lr_warmup_steps=0,
        min_lr=shape.lr,  # as high as the highest: a constant rate
        tie_embeddings=True,
    )
    optimizer = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": shape.lr, "betas": [0.9, 0.95], "weight_decay": 0.1},
    }
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        fabric = lightning.Fabric(
            accelerator="cpu" if job.device == "cpu" else "gpu",
            devices=1,
            precision="bf16-mixed" if job.precision == "bf16" else "32-true",
            loggers=[Stamps(clock)],
        )
        fabric.launch()
        pretrain(
            fabric=fabric,
            devices=1,
            num_nodes=1,
            seed=job.seed,
            initial_checkpoint_dir=None,
            resume=False,
            config=config,
            data=Data(job),
            out_dir=Path(folder),
            tokenizer_dir=None,
            tokenizer=None,
            train=train,
            eval=EvalArgs(interval=10**9, max_iters=1, initial_validation=False, final_validation=False),
            optimizer=optimizer,
        )
    clock.answer(job, ["litgpt", "lightning"])


if __name__ == "__main__":
    main()
