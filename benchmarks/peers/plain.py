"""The plain PyTorch loop: what people write who need no framework, after the published description of nanoGPT.

GPT-2's decoder (Radford et al. 2019): learned positions, pre-norm LayerNorm and linear maps without bias, GELU, a tied head;
weights from N(0, 0.02²), those that end a residual branch smaller by √(2 · layers). AdamW with betas 0.9 and 0.95, decay
0.1 on matrices, gradients clipped to norm 1, no dropout, autocast to bf16. AdamW is fused on a GPU only, as is usual.
"""

# B batch, T context, D width, H heads, K = D // H, V vocabulary

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.job import Clock, read_job
from benchmarks.shapes import Shape, batch


class Model(nn.Module):
    """Tokens and the tokens after them -> the mean loss."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.places = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        self.head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * shape.layers) if ".out." in name else 1))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:  # (B, T), (B, T) -> ()
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width, bias=False)
        self.attention = Attention(shape)
        self.hidden_norm = nn.LayerNorm(shape.width, bias=False)
        self.hidden = Hidden(shape)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        x = x + self.attention(self.attention_norm(x))
        return x + self.hidden(self.hidden_norm(x))


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.into = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.into(x).chunk(3, dim=2))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, K)
        return self.out(x.transpose(1, 2).flatten(2))


class Hidden(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.into = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.out = nn.Linear(4 * shape.width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        return self.out(F.gelu(self.into(x)))


def optimizer_of(
    model: nn.Module, lr: float, device: str, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=device == "cuda")


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor, precision: AbstractContextManager[object]
) -> float:
    """One step on these rows (B, T + 1); the loss."""
    with precision:
        loss: Tensor = model(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def main() -> None:
    job = read_job()
    torch.manual_seed(job.seed)
    tokens = job.tokens()
    model = Model(job.shape).to(job.device)
    optimizer = optimizer_of(model, job.shape.lr, job.device)
    forward: Any = torch.compile(model) if job.compile else model  # with the same parameters
    clock = Clock(job.device)
    for step in range(job.steps):
        rows = torch.from_numpy(batch(tokens, job.shape, step)).to(job.device)  # (B, T + 1)
        clock.step(train_step(forward, optimizer, rows, autocast(job.device, job.precision)))
    clock.answer(job, [])


if __name__ == "__main__":
    main()
