"""Growth: how dougong's time and memory grow with the data, and with the depth, the width and the context of the model.

    .venv/bin/python -m benchmarks.growth --repeats 3
    .venv/bin/python -m benchmarks.growth --mb 0.02 --steps 3 --warmup 1 --repeats 1 --dry      # tries it, keeps nothing

`data`: `dougong.prepare` of a text of 1, 10 and 100 times as many megabytes, without imports; memory of all its processes.
`layers`, `width`, `context`: a training step of the recipe benchmarks/growth.yaml with one of them 2, 4, 8 times as large, the rows
of a step as many; memory is what training adds to that of the imports. The exponent is the slope of the best line
through the logarithms: 0 is flat, 1 in proportion, 2 its square.

Trials that mattered, what was predicted and what came out:
    (none yet)
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from benchmarks import contest, table
from benchmarks.contest import OURS, Contestant, Result
from benchmarks.data import text_file, tokenizer_file
from benchmarks.peers.growth_step import RECIPE
from benchmarks.tokenization import once
from dougong import recipe as recipes

KEYS = {"layers": "model.layers", "width": "model.width", "context": "outputs.text.max_length"}
TIMES = {"data": (1, 10, 100), "layers": (1, 2), "width": (1, 2), "context": (1, 2, 4, 8)}
Place = tuple[str, int]  # what grows, and how many times as large it is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(TIMES), help=f"of {', '.join(TIMES)}")
    parser.add_argument("--mb", type=float, default=1.0, help="the smallest text")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    arguments = parser.parse_args()
    if not 0 < arguments.warmup < arguments.steps:
        parser.error("--warmup: at least 1, and fewer than --steps")
    axes = arguments.axes.split(",")
    if unknown := [axis for axis in axes if axis not in TIMES]:
        parser.error(f"--axes: {unknown[0]!r} is none of {', '.join(TIMES)}")

    contest.warn_if_busy()
    shared = contest.circumstances() | {"benchmark": "growth", "contestant": "dougong"}
    answers = stepped([axis for axis in axes if axis != "data"], arguments) if set(axes) != {"data"} else {}
    answers |= prepared(arguments) if "data" in axes else {}
    results = [shared | result for axis in axes for result in grown(axis, sizes(axis, arguments.mb), answers)]
    print()
    print(table.growing(results))
    missing = [place for place in places(axes) if place not in answers]
    for axis, times in missing:
        print(f"WRONG  {axis} × {times}: no result", file=sys.stderr)
    if not arguments.dry:
        contest.keep(results)
    sys.exit(1 if missing else 0)


def places(axes: list[str]) -> list[Place]:
    return [(axis, times) for axis in axes for times in TIMES[axis]]


def sizes(axis: str, megabytes: float) -> dict[int, float]:
    """By the factor, what it comes to."""
    if axis == "data":
        return {times: megabytes * times for times in TIMES[axis]}
    recipe = recipes.load(RECIPE)
    base = recipe.outputs["text"].max_length if axis == "context" else getattr(recipe.model, axis)
    return {times: base * times for times in TIMES[axis]}


def prepared(arguments: argparse.Namespace) -> dict[Place, list[Result]]:
    """`dougong prepare` of each text, the sizes interleaved."""
    tokenizer, end = tokenizer_file()
    answers: dict[Place, list[Result]] = {}
    for _ in range(arguments.repeats):
        for times in TIMES["data"]:
            text = text_file(arguments.mb * times)
            job = {"text": str(text), "tokenizer": str(tokenizer), "end": end, "vocab_size": 0}
            found = once("encode", "dougong", OURS, job)
            answers.setdefault(("data", times), []).extend(
                answer | {"memory": answer["tree_memory"], "peak_memory": answer["tree_memory"]} for answer in found
            )
    return {place: found for place, found in answers.items() if found}


def stepped(axes: list[str], arguments: argparse.Namespace) -> dict[Place, list[Result]]:
    """Training steps in each size; the first, which all axes begin with, is trained once a round."""
    grown = [place for place in places(axes) if place[1] > 1]
    for axis, times in [("base", 1), *grown]:
        contest.prepare(RECIPE, overridden(axis, times))
    contestants = {place: contestant(*place, arguments.steps, arguments.warmup) for place in [("base", 1), *grown]}
    found = contest.rounds(list(contestants.values()), arguments.repeats)
    answers = {place: found[one.label] for place, one in contestants.items() if one.label in found}
    base = answers.pop(("base", 1), None)
    return answers | ({(axis, 1): base for axis in axes} if base else {})


def contestant(axis: str, times: int, steps: int, warmup: int) -> Contestant:
    job = {"overrides": overridden(axis, times), "steps": steps, "warmup": warmup}
    return Contestant(f"{axis} x {times}", "benchmarks.peers.growth_step", OURS, (json.dumps(job),))


def overridden(axis: str, times: int) -> list[str]:
    return [] if axis == "base" else [f"{KEYS[axis]}={int(sizes(axis, 0)[times])}"]


def grown(axis: str, size: dict[int, float], answers: dict[Place, list[Result]]) -> list[Result]:
    """The results along one axis, each with the exponents of the whole axis."""
    found = {times: answers[axis, times] for times in TIMES[axis] if (axis, times) in answers}
    medians = {
        key: [contest.median(each, key) for each in found.values()] for key in ("seconds", "memory", "peak_memory")
    }
    slopes = {key: exponent(list(found), values) for key, values in medians.items()}
    return [
        {
            "axis": axis,
            "times": times,
            "size": size[times],
            "label": f"{axis} × {times}",
            **{key: values[index] for key, values in medians.items()},
            "time_exponent": slopes["seconds"],
            "memory_exponent": slopes["memory"],
            "rounds": [answer["seconds"] for answer in each],
            "versions": each[-1]["versions"],
        }
        for index, (times, each) in enumerate(found.items())
    ]


def exponent(times: list[int], values: list[float]) -> float | None:
    """The slope of the line that fits the logarithms best; None where there is nothing to fit."""
    if len(times) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(times), np.log(values), 1)[0])


if __name__ == "__main__":
    main()
