"""Fine-tuning: rows a second of a BERT-shaped classifier on texts of very unlike lengths; dougong and transformers' Trainer.

    benchmarks/setup.sh                                      # once: the peers' environments
    .venv/bin/python -m benchmarks.finetuning --repeats 3
    .venv/bin/python -m benchmarks.finetuning --rows 320 --repeats 1 --dry       # tries everything, keeps nothing

4 layers of width 256, 4 heads, 8,192 byte pairs, from scratch; 32 rows a step, one epoch. The texts have real words and
log-normal lengths (mean 75 tokens, at most 512), and a class that leans to the words of its part of the alphabet; all read the
same tokens. Checked before anything is said of speed: as many tokens read, a first loss near the logarithm of the classes,
and dougong's mean losses of the first and of the last quarter within 3 and 10 per cent of the Trainer's, over all rounds, each of
which has a seed of its own. (Not of `trainer grouped`, whose batches come from long to short, again and again.)

Trials that mattered, what was predicted and what came out:
    attention with dropout as products   predicted 1.5 of the attention: torch goes the plain way in fp32 there; 224 ms for 358
                                         there and back (32, 4, 256, 64), one thread; without dropout 82 for 160
    dropout by 16 random bits            predicted 3; 8.4 million numbers there and back 45 to 82 ms for 107 to 159
"""

from __future__ import annotations

import argparse
import json
import math
import statistics

from benchmarks import contest, table
from benchmarks.contest import OURS, PEERS, Contestant, Result
from benchmarks.data import LABELS, ROOT, classified_file

RECIPE = ROOT / "benchmarks" / "finetuning.yaml"
CONTESTANTS: dict[str, Result] = {  # what its job says
    "trainer": {"precision": "bf16", "grouped": False},
    "trainer grouped": {"precision": "bf16", "grouped": True},
    "trainer fp32": {"precision": "fp32", "grouped": False},
    "dougong": {"precision": "auto", "grouped": True},
}
USUAL = "trainer,trainer grouped,dougong"
NEAR = 0.15  # the first loss may differ from log C by this share
SAME = (0.03, 0.10)  # and the mean of the first, of the last quarter from the Trainer's: late, seeds differ by so much


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", default=USUAL, help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--rows", type=int, default=6400, help="of the one epoch")
    parser.add_argument("--warmup", type=int, default=5, help="steps that are not timed")
    parser.add_argument("--dropout", type=float, default=0.1, help="of all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    arguments = parser.parse_args()
    names = arguments.contestants.split(",")
    if unknown := [name for name in names if name not in CONTESTANTS]:
        parser.error(f"--contestants: {unknown[0]!r} is none of {', '.join(CONTESTANTS)}")
    rows_file, tokenizer = classified_file(arguments.rows)
    common = {"rows_file": str(rows_file), "tokenizer": str(tokenizer), "rows": arguments.rows}
    common |= {"warmup": arguments.warmup, "dropout": arguments.dropout}

    if "dougong" in names:
        contest.prepare(RECIPE, [f"data.train={rows_file}"])

    contest.warn_if_busy()
    shared = contest.circumstances() | {"benchmark": "finetuning", "dropout": arguments.dropout}
    answers = contest.rounds([contestant(name, common) for name in names], arguments.repeats, seeds=True)
    results = [shared | summary(name, found) for name, found in answers.items()]
    print()
    print(table.finetuning(results))
    wrong = [f"{name}: no result" for name in names if name not in answers] + wrong_with(results)
    contest.end(results, wrong, dry=arguments.dry)


def contestant(name: str, common: Result) -> Contestant:
    ours = name == "dougong"
    module = f"benchmarks.peers.finetune_{'dougong' if ours else 'trainer'}"
    job = common | CONTESTANTS[name] | {"contestant": name}
    return Contestant(name, module, OURS if ours else PEERS, (json.dumps(job),))


def summary(name: str, answers: list[Result]) -> Result:
    """The result of one contestant: medians over the rounds."""
    last = answers[-1]
    told = ("contestant", "precision", "rows", "steps", "tokens", "parameters", "losses", "threads", "versions")
    return {
        **{key: last[key] for key in told},
        "label": name,
        "rows_per_second": contest.median(answers, "rows_per_second"),
        "tokens_per_second": contest.median(answers, "tokens_per_second"),
        "rounds": [answer["rows_per_second"] for answer in answers],
        "peak_memory": contest.median(answers, "peak_memory"),
        "quarters": [
            statistics.fmean(each) for each in zip(*(quarters(one["losses"]) for one in answers), strict=True)
        ],
    }


def quarters(losses: list[float]) -> tuple[float, float]:
    """The mean loss of the first quarter of the steps, and of the last."""
    size = max(len(losses) // 4, 1)
    return statistics.fmean(losses[:size]), statistics.fmean(losses[-size:])


def wrong_with(results: list[Result]) -> list[str]:
    """What speaks against comparing the contestants' speed."""
    told, expected = [], math.log(len(LABELS))
    if len({result["tokens"] for result in results}) > 1:
        counts = ", ".join(f"{result['label']} {result['tokens']:,}" for result in results)
        told.append(f"numbers of tokens differ: {counts}")
    peer = next((result for result in results if result["contestant"] == "trainer"), None)
    for result in results:
        label, first, (early, late) = result["label"], result["losses"][0], result["quarters"]
        if not abs(first - expected) <= NEAR * expected:
            told.append(f"{label}: the first loss is {first:.2f}, far from log({len(LABELS)}) = {expected:.2f}")
        if not late < early:
            told.append(f"{label}: the loss does not fall: {early:.3f} in the first quarter, {late:.3f} in the last")
        wanted_of = peer["quarters"] if peer and table.is_ours(result) else result["quarters"]
        for which, share, mean, wanted in zip(("first", "last"), SAME, (early, late), wanted_of, strict=True):
            if not abs(mean - wanted) <= share * wanted:
                told.append(f"{label}: mean loss of the {which} quarter {mean:.3f}, the trainer's is {wanted:.3f}")
    return told


if __name__ == "__main__":
    main()
