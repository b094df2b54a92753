"""Beam search: the most likely text that a search along several at once finds.

A finished text is judged by its log-probability over its length to the power of `length_penalty` (Wu et al. 2016,
arXiv:1609.08144): above 0 longer texts are favoured, 0 takes the plain sum.
"""

# B rows, K beams, V vocabulary

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from dougong.inference.writer import Writer

Scored = tuple[float, list[int]]


@dataclass
class Search:
    """One row's search: its beams, and the best texts that have ended."""

    beams: list[Scored]  # log-probability and tokens, best first
    ended: list[Scored] = field(default_factory=list)  # score and tokens

    def end(self, score: float, tokens: list[int], most: int) -> None:
        self.ended = sorted([*self.ended, (score, tokens)], key=lambda one: -one[0])[:most]


def search(writer: Writer, beams: int, length_penalty: float) -> list[list[int]]:
    """The best text of each of the writer's rows, without its end token."""
    end = writer.field.codec.end
    searches = [Search([(0.0, [])]) for _ in writer.known]
    going = list(searches)  # the rows that the writer holds, each as often as it has beams
    for length in range(1, writer.most + 1):
        rows: list[int] = []
        still: list[Search] = []
        first = 0  # the writer's row of a search's first beam
        for one, found in zip(going, candidates(writer, going, beams), strict=True):
            width, kept = len(one.beams), []
            for rank, (score, beam, token) in enumerate(found):
                tokens = one.beams[beam][1]
                if token != end:
                    kept.append((score, beam, [*tokens, token]))
                elif rank < beams:
                    one.end(score / length**length_penalty, tokens, beams)
            kept = kept[:beams]
            full = len(one.ended) == beams
            if kept and not (full and one.ended[-1][0] >= kept[0][0] / length**length_penalty):
                one.beams = [(score, tokens) for score, _, tokens in kept]
                rows += [first + beam for _, beam, _ in kept]
                still.append(one)
            else:
                one.beams = []
            first += width
        going = still
        if not going or length == writer.most:
            break
        writer.choose(rows)
        writer.append([tokens[-1] for one in going for _, tokens in one.beams])
    for one in going:
        for score, tokens in one.beams:
            one.end(score / max(len(tokens), 1) ** length_penalty, tokens, beams)
    return [max(one.ended, key=lambda each: each[0])[1] if one.ended else [] for one in searches]


def candidates(writer: Writer, going: list[Search], beams: int) -> list[list[tuple[float, int, int]]]:
    """The 2 K best continuations of each search: log-probability, beam, token. Of 2 K at least K do not end."""
    # Restricted afterwards: a text is judged by what the model says of it, among those that may be written.
    logs = writer.restrict(writer.logits.log_softmax(-1))  # (all beams, V)
    result, first = [], 0
    for one in going:
        sums = (
            torch.tensor([score for score, _ in one.beams], device=logs.device)[:, None]
            + logs[first : first + len(one.beams)]
        )
        best, place = sums.flatten().topk(min(2 * beams, sums.numel()))
        pairs = zip(best.tolist(), place.tolist(), strict=True)
        result.append(
            [(score, where // logs.shape[1], where % logs.shape[1]) for score, where in pairs if score > -math.inf]
        )
        first += len(one.beams)
    return result
