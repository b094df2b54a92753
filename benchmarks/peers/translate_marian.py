"""`transformers`: MarianMTModel from a config of the recipe's size, trained by a plain loop.

A loop, and not `Seq2SeqTrainer`, since that cuts batches by rows and ends after steps: here a batch holds as many rows of like
length as fit into the recipe's tokens, and rate and end go by the clock, as dougong's do. All else is what serves the peer: one
byte-pair vocabulary of both languages, of as many tokens as dougong's two, with one embedding for encoder, decoder and head (as
Marian has it, Junczys-Dowmunt et al. 2018), scaled up by √D; weights drawn with a deviation of 0.02, its own default, and a long
warm-up, without which norms after each sum do not train (Xiong et al. 2020); AdamW; no dropout of attention weights (its own
default); bf16 where a step of it is the faster one; the best of the weights by the loss of the validation rows; fp32 while it
translates. While it is validated the clock stands.
"""

# N rows, B batch, S tokens of English, T of the other language, D width, V vocabulary

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import MarianConfig, MarianMTModel

from benchmarks.peers.job import quiet
from benchmarks.peers.learning_job import VALIDATIONS, Curve
from benchmarks.peers.translation_job import Job, Pair, Shape, answer, read_job, read_pairs

END, PAD = 0, 1
SPECIAL = ["<|end|>", "<|pad|>"]
WARMUP = 0.1  # of the budget
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
TIMED = 3  # steps of each precision
TRANSLATED = 64  # rows at once
IGNORED = -100

Rows = list[tuple[list[int], list[int]]]  # tokens of both sides, each closed by END


def main() -> None:
    quiet()
    job = read_job()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, validation, test = (read_pairs(job, split) for split in ("train", "validation", "test"))
    tokenizer = vocabulary(train, job.shape.vocab_size)
    torch.manual_seed(job.seed)
    model = MarianMTModel(config(job.shape, tokenizer.get_vocab_size())).to(device)
    rows, held_out = (encoded(tokenizer, pairs, job.shape.longest) for pairs in (train, validation))
    precision = faster(model, rows, job.shape)
    curve = trained(model, rows, held_out, job, precision)
    translations = translated(model, tokenizer, [english for english, _ in test], job.shape)
    answer(
        translations,
        job,
        ["transformers", "tokenizers"],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=curve.step,
        minutes=curve.before / 60,
        weights_of_step=min(curve.points, key=lambda point: point[2])[0],
        lr=job.lr,
        precision=precision,
        points=[(step, round(seconds, 1), round(loss, 4)) for step, seconds, loss in curve.points],
    )


def vocabulary(pairs: list[Pair], vocab_size: int) -> Tokenizer:
    """Byte pairs of both languages together, of the training rows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((text for pair in pairs for text in pair), trainer)
    return tokenizer


def config(shape: Shape, vocab_size: int) -> MarianConfig:
    return MarianConfig(
        vocab_size=vocab_size,
        d_model=shape.width,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.feedforward,
        decoder_ffn_dim=shape.feedforward,
        dropout=shape.dropout,
        max_position_embeddings=shape.longest + 1,
        scale_embedding=True,
        pad_token_id=PAD,
        eos_token_id=END,
        forced_eos_token_id=END,
        decoder_start_token_id=PAD,
    )


def encoded(tokenizer: Tokenizer, pairs: list[Pair], longest: int) -> Rows:
    sides = [tokenizer.encode_batch([pair[side] for pair in pairs]) for side in (0, 1)]
    closed = ([[*encoding.ids, END][:longest] for encoding in side] for side in sides)
    return list(zip(*closed, strict=True))


# ------------------------------------------------------------------------------------------------------------- training


def trained(model: MarianMTModel, rows: Rows, held_out: Rows, job: Job, precision: str) -> Curve:
    """Leave the best weights in the model; the losses of the validation rows, in nats a token, over seconds of training."""
    device = model.device.type
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.lr, betas=BETAS, fused=True)
    reading = read(rows, job.shape.batch_tokens, np.random.default_rng(job.seed))
    curve, done, due = Curve(), 0.0, 1
    best, weights = float("inf"), model.state_dict()
    model.train()
    curve.start()
    while done < 1:
        one = 1 / job.steps if job.steps else done / curve.step if curve.step else 0.001  # a step's share
        for group in optimizer.param_groups:
            group["lr"] = job.lr * factor(done, one)
        with autocast(device, precision):
            loss = loss_of(model, next(reading), job.shape.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        curve.step += 1
        done = curve.step / job.steps if job.steps else curve.seconds / (60 * job.minutes)
        if done * VALIDATIONS >= due:
            due = int(done * VALIDATIONS) + 1
            with curve.standing():
                curve.validated(validated(model, held_out, job.shape.batch_tokens, precision))
                if curve.points[-1][2] < best:
                    best = curve.points[-1][2]
                    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return curve


def factor(done: float, one: float) -> float:
    """What the next step's rate is multiplied by: up in a line over the warm-up, down in a line to zero."""
    return min((done + one) / WARMUP, (1 - done) / (1 - WARMUP), 1.0)


def read(rows: Rows, batch_tokens: int, draw: np.random.Generator) -> Iterator[Rows]:
    """Epoch after epoch of batches, in an order of their own each time."""
    while True:
        batches = cut(rows, batch_tokens, draw.permutation(len(rows)))
        yield from ([rows[index] for index in batches[place]] for place in draw.permutation(len(batches)))


def cut(rows: Rows, batch_tokens: int, order: np.ndarray) -> list[list[int]]:
    """Rows of like length together, as many as fit with their padding; among equals by `order`."""
    batches: list[list[int]] = []
    widest = (0, 0)
    for index in sorted(order.tolist(), key=lambda index: (sum(map(len, rows[index])), len(rows[index][0]))):
        wider = (max(widest[0], len(rows[index][0])), max(widest[1], len(rows[index][1])))
        if batches and (len(batches[-1]) + 1) * sum(wider) <= batch_tokens:
            batches[-1].append(index)
            widest = wider
        else:
            batches.append([index])
            widest = (len(rows[index][0]), len(rows[index][1]))
    return batches


def loss_of(model: MarianMTModel, rows: Rows, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Nats a token of the other language; the decoder begins with PAD, as Marian's does."""
    given = padded([english for english, _ in rows], PAD).to(model.device)  # (B, S)
    before = padded([[PAD, *other[:-1]] for _, other in rows], PAD).to(model.device)  # (B, T)
    targets = padded([other for _, other in rows], IGNORED).to(model.device)  # (B, T)
    mask = padded([[1] * len(english) for english, _ in rows], 0).to(model.device)  # (B, S)
    logits = model(input_ids=given, attention_mask=mask, decoder_input_ids=before, use_cache=False).logits  # (B, T, V)
    flat = logits.flatten(0, 1).float()  # (B · T, V)
    return cross_entropy(flat, targets.flatten(), label_smoothing=label_smoothing, reduction=reduction)


def padded(rows: list[list[int]], value: int) -> Tensor:  # (B, longest) int64
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


@torch.no_grad()
def validated(model: MarianMTModel, rows: Rows, batch_tokens: int, precision: str) -> float:
    """Nats a token over all rows."""
    model.eval()
    total = 0.0
    for batch in cut(rows, batch_tokens, np.arange(len(rows))):
        with autocast(model.device.type, precision):
            total += float(loss_of(model, [rows[index] for index in batch], reduction="sum"))
    model.train()
    return total / sum(len(other) for _, other in rows)


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def faster(model: MarianMTModel, rows: Rows, shape: Shape) -> str:
    """bf16 or fp32: whose forward and backward passes are sooner done, in turns, before the clock starts."""
    reading = read(rows, shape.batch_tokens, np.random.default_rng(0))
    seconds = {"bf16": 0.0, "fp32": 0.0}
    model.train()
    for turn in range(TIMED + 1):
        batch = next(reading)
        for precision in seconds:
            started = time.perf_counter()
            with autocast(model.device.type, precision):
                loss = loss_of(model, batch, shape.label_smoothing)
            loss.backward()
            float(loss.detach())  # waits for a GPU
            seconds[precision] += (time.perf_counter() - started) * (turn > 0)  # the first turn warms up
            model.zero_grad(set_to_none=True)
    return min(seconds, key=lambda precision: seconds[precision])


# ---------------------------------------------------------------------------------------------------------- translating


@torch.no_grad()
def translated(model: MarianMTModel, tokenizer: Tokenizer, texts: list[str], shape: Shape) -> list[str]:
    """By beam search, short texts first; in the order of the texts."""
    model.eval()
    given = [[*encoding.ids, END][: shape.longest] for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(given)), key=lambda index: len(given[index]))
    found = [""] * len(given)
    for start in range(0, len(order), TRANSLATED):
        some = order[start : start + TRANSLATED]
        written = model.generate(
            input_ids=padded([given[index] for index in some], PAD).to(model.device),
            attention_mask=padded([[1] * len(given[index]) for index in some], 0).to(model.device),
            num_beams=shape.beams,
            max_new_tokens=shape.longest,
            bad_words_ids=[[PAD]],  # what its published models say as well
        )  # (B, T)
        for index, text in zip(some, tokenizer.decode_batch(written.tolist(), skip_special_tokens=True), strict=True):
            found[index] = text
    return found


if __name__ == "__main__":
    main()
