"""Pretraining: tokens a second and peak memory of dougong and its peers, on the same data, interleaved.

    benchmarks/setup.sh                                      # once: the peers' environments
    .venv/bin/python -m benchmarks.pretrain baby --repeats 3 --steps 20
    .venv/bin/python -m benchmarks.pretrain small --contestants plain:bf16:compile,trainer,dougong
    .venv/bin/python -m benchmarks.pretrain tiny --steps 4 --warmup 1 --repeats 1 --dry       # tries everything, keeps nothing

A contestant is a name, or name:precision, or name:precision:compile|eager; the name alone means all its usual forms. Each is
a process of its own; it gets the same tokens and the same number of steps, of which the first are not timed. Checked before
anything is said of speed: the loss begins near the logarithm of the vocabulary, and falls.

Trials that mattered, what was predicted and what came out:
    blocks compiled              predicted 1.3 to 1.5; baby 1.85 beside plain eager, where uncompiled is 1.01; the same losses
    freed memory kept (mallopt)  predicted a tenth; page faults a step 30,000 to 60,000 -> 6,000 to 9,000, time within the noise
    dY transposed for dW = dYᵀX  products alone are twice as fast with dY transposed before; in compiled blocks 1 % in the
                                 median and 12 % at best, on a machine that varied by more: not taken
    first loss at log V          learns no faster: docs/benchmarks.md
    step cut into pieces of      predicted the same speed and less memory; baby 3.3 -> 1.5 GB uncompiled, as fast or faster;
      4,096 tokens × 384         small in pieces of 2,048 tokens as fast, of 1,024 a fifth slower
    head of 50,257 in chunks     predicted a few percent; chunks of 83 rows read the weights and added to their gradient 49 times
      of 512 rows, not 83        a step: the head alone 4.5 -> 1.7 s for 1,024 targets on one thread
    attention as products up     predicted a tenth; small, compiled, 297 -> 376 tokens/s in pieces of 4,096 tokens, 303 -> 421 of
      to 512 positions           2,048; 0.3 GB more. Fused kernel's way there and products' way back, no shares kept: 1.3 × as long
    six tenths of a block's      predicted a third of the memory for a twentieth of the time: small 4.5 -> 3.6 GB in pieces of
      activations kept           2,048 tokens, baby a quarter slower (2.0 to 3.3 s a step for 2.5 to 3.8, in turns): a key, not the
                                 default. Pieces of 1,024 and 512 tokens with all kept: 3.9 and 3.6 GB, a third slower. Of 3.6 GB
                                 2.5 are weights, AdamW's state, gradients, imports: see the next
    state and gradients in       predicted 2.8 GB: small 4.3 -> 3.7 GB; with pieces of 1,024 tokens 3.1, with six tenths of the
      bf16                         activations too 2.7, with the head's gradient as one product 2.5; the time the same to a tenth.
                                   1.8 of these are live, 0.3 are libraries, the rest is what the heap cannot use again, 2.4 to 2.7
                                   by chance; it grew to 3.1 where the state was made before the first step, so that comes
                                   lazily. Blocks of 32 MB and more given back at once, the head's weights freed before its last
                                   product, the embedding's gradient in bf16: 2.36 after 3 steps, 2.48 after 8. Four tenths of the
                                   activations, predicted as fast (one thread, 3 steps): 2.39 GB for 2.48, 361 tokens/s for 398,
                                   where all of it kept, and fp32, has 421. Pieces of 512 tokens, one thread: 2.08, 6 % slower
    products cut to what the     predicted 1.3, since 768 × 768 weights fit the second cache; no difference but for the head, whose
      second cache holds         part is told below
    huge pages (THP_MEM_ALLOC_   predicted a tenth of the products; within the noise. Asked for alone, a block of 77 MB costs 5 ms
      ENABLE=1)                  in place of 24; in a step of `small` in little memory that same block took 55 ms for 16: not taken
  Since then on two cores with avx512_bf16 and no AMX, where the step of `small` was 9.3 s and plain's 11.1 (trainer compiled 12.0 s
  and 6.3 GB, litgpt 12.5 s and 7.7 GB); ours vary by 6 % from process to process (459 and 431 tokens/s in two runs):
    head's products by blocks    predicted 0.3 s; slopes by features 309 -> 209 ms for 1,024 targets, logits 221 -> 192: a step
      of 2,048 tokens            9.3 -> 9.1 s. Their weights cast in each block, not held: 0.1 GB less, the time the same
    causal attention in strips   predicted 0.3 s: 44 -> 34 ms a layer of 2,048 tokens, 9.1 -> 8.8 s, 0.1 GB less; at 1,024
                                 positions 84 -> 57 ms, where the fused kernel takes 99
    casts, norms, activations    predicted a tenth of the memory for 2 % of the time: small 4.16 -> 3.85 GB, baby 1.25 -> 1.12,
      computed again             a hundredth of the time or less
    freed memory given back      predicted nothing; 0.1 GB that compiling left behind
      once, after compiling
    lean, in pieces of 1,024     predicted 2.4 GB and 1.2 × the peer: 2.51 GB, 1.12 × (433 and 398 tokens/s); with seven tenths of
                                 activations 2.42 and 3 % slower, by hand; of 512: 2.22 GB, 0.99 ×
    an embedding's gradient as   predicted 1 % of the lean one: torch adds it to the head's in new memory: nothing gained
      few rows
    head in chunks of 256 rows   predicted 77 MB less of the lean one: 25 MB more, since logits below 32 MB stay in the heap
    gradients of the vocabulary  predicted 2 % and 77 MB of the lean one; in turns, the default 9.65 -> 9.43 s, 3.84 -> 3.63 GB
      added where they lie,      (2,048 targets' logits are held, not a float32 sum of two products), the lean one 2.51 -> 2.47 GB;
      not by torch's engine      its peak was then the norm of the gradients, of which torch made a float32 copy: by pieces 2.42
    one exponential of each      predicted 1 %: 1,024 targets 73 -> 37 ms; in the step within the noise (8.8 to 9.4 s)
      logit, not two
    lean, in pieces of 1,024     0.60 × the peer's memory at 1.09 × its speed, the default 1.14 ×, beside all compiled peers. By
      tokens, once more          hand, in the same hour, ours took 8.8 s and 9.5; plain varies by 2 %. Pieces of 512: 2.11 GB
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contest, table
from benchmarks.contest import LITGPT, OURS, PEERS, Contestant, Result
from benchmarks.data import recipe_of, token_file
from benchmarks.shapes import SHAPES
from benchmarks.table import is_ours

Form = tuple[str, bool | None]  # precision, compiled


@dataclass(frozen=True)
class Peer:
    module: str
    python: Path
    forms: tuple[Form, ...]  # that its name alone means


PLAIN: tuple[Form, ...] = (("bf16", False), ("bf16", True), ("fp32", False))
PEERS_BY_NAME = {
    "plain": Peer("plain", OURS, PLAIN),
    "trainer": Peer("trainer", PEERS, (("bf16", False), ("bf16", True))),
    "litgpt": Peer("litgpt_loop", LITGPT, (("bf16", True),)),
    "lightning": Peer("lightning_loop", PEERS, (("bf16", False),)),
    "dougong": Peer("dougong_run", OURS, (("auto", None),)),
    "dougong-lean": Peer("dougong_run", OURS, (("auto", True),)),
    "dougong-gpt2": Peer("dougong_run", OURS, (("auto", None),)),
}
NEAR = 0.1  # the first loss may differ from log V by this share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument(
        "--contestants", default="plain,trainer,litgpt,lightning,dougong,dougong-lean", help="names, with commas"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5, help="steps that are not timed")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dry", action="store_true", help="keep no results")
    arguments = parser.parse_args()
    if not 0 < arguments.warmup < arguments.steps:
        parser.error("--warmup: at least 1, and fewer than --steps")
    try:
        wanted = [form for text in arguments.contestants.split(",") for form in forms(text)]
    except ValueError as error:
        parser.error(str(error))
    tokens = token_file(arguments.shape)
    common = {"shape_name": arguments.shape, "steps": arguments.steps, "warmup": arguments.warmup}
    common |= {"tokens_file": str(tokens), "device": arguments.device}
    contestants = [contestant(name, form, common) for name, form in wanted]
    if any(name.startswith("dougong") for name, _ in wanted):
        contest.prepare(recipe_of(arguments.shape))

    contest.warn_if_busy()
    shared = contest.circumstances() | {"benchmark": "pretrain", "warmup": arguments.warmup}
    before = ceilings(arguments.device)
    answers = contest.rounds(contestants, arguments.repeats)
    after = ceilings(arguments.device)
    shared["ceilings"] = {key: max(before[key], after[key]) for key in before}
    results = [shared | summary(label, found, shared["ceilings"]) for label, found in answers.items()]
    print()
    print(table.pretraining(results))
    wrong = [f"{result['label']}: {told}" for result in results for told in result["wrong"]]
    wrong += [f"{one.label}: no result" for one in contestants if one.label not in answers]
    contest.end(results, wrong, dry=arguments.dry)


def forms(text: str) -> list[tuple[str, Form]]:
    """`plain:bf16:compile` -> what to run; a name alone is all its usual forms."""
    name, *told = text.strip().split(":")
    if name not in PEERS_BY_NAME:
        raise ValueError(f"--contestants: {name!r} is none of {', '.join(PEERS_BY_NAME)}")
    if not told:
        return [(name, form) for form in PEERS_BY_NAME[name].forms]
    known = {"compile": True, "eager": False}
    if told[0] not in ("bf16", "fp32", "auto") or len(told) > 2 or (told[1:] and told[1] not in known):
        raise ValueError(f"--contestants: {text!r} is not name:bf16|fp32:compile|eager")
    ours = name.startswith("dougong")
    return [(name, (told[0], known[told[1]] if told[1:] else None if ours else False))]


def contestant(name: str, form: Form, common: Result) -> Contestant:
    precision, compiled = form
    job = common | {"contestant": name, "precision": precision, "compile": compiled}
    peer = PEERS_BY_NAME[name]
    label = " ".join([name, precision, {True: "compiled", False: "eager", None: ""}[compiled]]).strip()
    return Contestant(label, f"benchmarks.peers.{peer.module}", peer.python, (json.dumps(job),))


def ceilings(device: str) -> dict[str, float]:
    """In a process of its own, as the contestants are."""
    found: dict[str, float] = contest.run(Contestant("ceilings", "benchmarks.ceilings", OURS, ("--device", device)))
    return found


def summary(label: str, answers: list[Result], limits: dict[str, float]) -> Result:
    """The result of one contestant: medians over the rounds."""
    last, shape = answers[-1], SHAPES[answers[-1]["shape"]]
    speed = contest.median(answers, "tokens_per_second")
    extra: Result = {key: contest.median(answers, key) for key in ("waiting_share", "bookkeeping_share") if key in last}
    precision = str(last.get("computed_in", last["precision"]))  # where the contestant chose
    return {
        **{key: last[key] for key in ("contestant", "shape", "precision", "compile", "device", "steps", "threads")},
        "label": label,
        "tokens_per_second": speed,
        "rounds": [answer["tokens_per_second"] for answer in answers],
        "peak_memory": contest.median(answers, "peak_memory"),
        "computed_in": precision,
        "share_of_ceiling": speed * shape.flops_per_token / limits[precision],
        "losses": last["losses"],
        "wrong": wrong_with(last["losses"], shape.vocab_size, math.sqrt(shape.width) if is_ours(last) else None),
        "versions": last["versions"],
        **extra,
    }


def wrong_with(losses: list[float], vocab_size: int, highest: float | None = None) -> list[str]:
    """What is wrong with the losses of a run that is said to learn. `highest`: what the first may be above log V.

    dougong's tied head first predicts the token before, with a logit of √D: its branches begin at zero, so that the
    features are that token's embedding. A start at log V was tried and learns no faster (docs/benchmarks.md).
    """
    expected, told = math.log(vocab_size), []
    highest = (1 + NEAR) * max(expected, highest or 0.0)
    if not (1 - NEAR) * expected <= losses[0] <= highest:
        told.append(f"the first loss is {losses[0]:.2f}, far from log({vocab_size}) = {expected:.2f}")
    if not losses[-1] < losses[0]:  # not finite is wrong, too
        told.append(f"the loss does not fall: {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")
    return told


if __name__ == "__main__":
    main()
