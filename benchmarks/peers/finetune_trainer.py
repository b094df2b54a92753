"""`transformers`: BertForSequenceClassification from a config, trained by its Trainer, each batch padded to its longest row.

From scratch, and the same function of the same first weights as dougong's, since the curves are to be compared: what BERT has
beside (a pooler, types of tokens) is there and computed, and stays the identity or zero. All else is the Trainer's default.
"""

# D width

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from benchmarks.data import END, LABELS
from benchmarks.peers.finetuning_job import (
    BATCH,
    HEADS,
    LAYERS,
    LONGEST,
    LR,
    WARMUP,
    WEIGHT_DECAY,
    WIDTH,
    Job,
    answer,
    read_job,
)
from benchmarks.peers.job import Clock, quiet
from benchmarks.peers.trainer import Stamps

Row = dict[str, Any]


class Counted(DataCollatorWithPadding):
    """Pads, and notes how many tokens of each batch are real."""

    def __call__(self, features: list[Row]) -> Any:
        self.tokens = [*getattr(self, "tokens", []), sum(len(row["input_ids"]) for row in features)]
        return super().__call__(features)


def main() -> None:
    quiet()
    job = read_job()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=job.tokenizer, pad_token=END, eos_token=END)
    collator = Counted(tokenizer)
    rows = encoded(job, tokenizer)
    torch.manual_seed(job.seed)
    model = drawn(BertForSequenceClassification(config(job, len(tokenizer))))
    clock = Clock(job.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=WARMUP,
            bf16=job.precision == "bf16",
            use_cpu=job.device == "cpu",
            train_sampling_strategy="group_by_length" if job.grouped else "random",
            dataloader_pin_memory=job.device != "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=job.seed,
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collator,
            optimizers=(optimizer_of(model), None),
            callbacks=[Stamps(clock)],
        ).train()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    answer(job, clock, collator.tokens, ["transformers", "accelerate"], parameters=parameters)


def encoded(job: Job, tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """All rows as tokens, closed by the end token, before anything is timed."""
    rows = [json.loads(line) for line in Path(job.rows_file).read_text("utf-8").splitlines()]
    names = sorted({row["label"] for row in rows})
    tokens = tokenizer([row["text"] for row in rows], add_special_tokens=False)["input_ids"]
    return [
        {"input_ids": [*ids, tokenizer.eos_token_id][:LONGEST], "labels": names.index(row["label"])}
        for ids, row in zip(tokens, rows, strict=True)
    ]


def config(job: Job, vocab_size: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=LONGEST,
        hidden_dropout_prob=job.dropout,
        attention_probs_dropout_prob=job.dropout,
        pad_token_id=None,
        id2label=dict(enumerate(LABELS)),
    )


@torch.no_grad()
def drawn(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """The model with dougong's first weights: N(0, 1 / inputs), smaller where a residual branch ends; the head at zero."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            ends = name.endswith("output.dense")
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * ((2 * LAYERS) ** -0.5 if ends else 1))
            nn.init.zeros_(module.bias)
    nn.init.zeros_(model.classifier.weight)
    embeddings, pooler = model.bert.embeddings, model.bert.pooler
    assert pooler is not None
    nn.init.normal_(embeddings.word_embeddings.weight)
    nn.init.normal_(embeddings.position_embeddings.weight, std=0.02)
    nn.init.zeros_(embeddings.token_type_embeddings.weight)
    nn.init.eye_(pooler.dense.weight)
    pooler.activation = nn.Identity()  # type: ignore[assignment]
    for part in (embeddings.token_type_embeddings, pooler):
        part.requires_grad_(False)
    return model


def optimizer_of(model: BertForSequenceClassification) -> torch.optim.Optimizer:
    """The Trainer's own kind; only matrices decay. dougong keeps embeddings at 1 / √D of what flows on, with the same rate."""
    words = model.bert.embeddings.word_embeddings.weight
    tables = [words, model.bert.embeddings.position_embeddings.weight]
    rest = [each for each in model.parameters() if each.requires_grad and not any(each is table for table in tables)]
    groups = [
        {"params": [each for each in rest if each.ndim == 2], "weight_decay": WEIGHT_DECAY},
        {"params": [each for each in rest if each.ndim != 2] + tables[1:], "weight_decay": 0.0},
        {"params": [words], "weight_decay": 0.0, "lr": LR * WIDTH**0.5, "eps": 1e-8 * WIDTH**-0.5},
    ]
    return torch.optim.AdamW(groups, lr=LR, fused=True)


if __name__ == "__main__":
    main()
