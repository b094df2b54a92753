"""The tables of docs/benchmarks.md, from what was measured and kept in benchmarks/results.jsonl.

    python -m benchmarks.table             # print them
    python -m benchmarks.table --write     # and put them into the page

Of each benchmark the last run on each machine counts; a shape or a size of text is a table of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Column = tuple[str, Callable[[Result], str]]
RESULTS = Path(__file__).with_name("results.jsonl")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"
NONE = "Nothing has been measured yet: benchmarks/results.jsonl holds no result."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    arguments = parser.parse_args()
    text = tables(read(RESULTS))
    print(text)
    if arguments.write:
        PAGE.write_text(placed(PAGE.read_text("utf-8"), text), "utf-8")


def read(path: Path) -> list[Result]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def placed(page: str, text: str) -> str:
    """The page with the tables between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no {BEGIN} … {END} to write between")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def tables(results: list[Result]) -> str:
    """Everything as Markdown."""
    if not results:
        return NONE
    parts = []
    for group in latest(results):
        first = group[0]
        parts += [f"### {TITLES[first['benchmark']](first)}", circumstances(group), TABLES[first["benchmark"]](group)]
    return "\n\n".join(parts)


def latest(results: list[Result]) -> list[list[Result]]:
    """The results of the last run of each benchmark, by kind and machine, in the order in which they came first."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        kind = [str(result.get(key, "")) for key in ("benchmark", "part", "shape", "megabytes", "device", "machine")]
        group = groups.setdefault(tuple(kind), [])
        # Of tokenization a run may be of one task alone: the other's results stay.
        group[:] = [
            known for known in group if known["run"] == result["run"] or known.get("task") != result.get("task")
        ]
        group.append(result)
    return list(groups.values())


def circumstances(group: list[Result]) -> str:
    first = group[0]
    versions: dict[str, str] = {}
    for result in group:
        versions |= result.get("versions", {})
    commits = ", ".join(dict.fromkeys(result["commit"] for result in group))
    parts = [first["machine"], f"dougong at {commits}", first["run"][:10]]
    if limits := first.get("ceilings"):
        bf16, fp32, copy = limits["bf16"] / 1e12, limits["fp32"] / 1e12, limits["copy"] / 1e9
        parts.append(f"matrix product {bf16:.2f} TFLOP/s in bf16, {fp32:.3f} in fp32; copy {copy:.1f} GB/s")
    parts.append(", ".join(f"{name} {number}" for name, number in sorted(versions.items())))
    return "; ".join(part for part in parts if part) + "."


def markdown(columns: list[Column], results: Iterable[Result]) -> str:
    rows = [[cell(result) for _, cell in columns] for result in results]
    lines = [[name for name, _ in columns], ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pretraining(results: list[Result]) -> str:
    """The contestants of one shape, fastest first. The best peer is the fastest that is not dougong."""
    peers = [result for result in results if not is_ours(result)]
    fastest = max(peers, key=lambda result: result["tokens_per_second"], default={})
    best, held = fastest.get("tokens_per_second", 0.0), fastest.get("peak_memory", 0)
    columns: list[Column] = [
        ("contestant", lambda result: result["label"]),
        ("tokens/s", lambda result: f"{result['tokens_per_second']:,.0f}"),
        ("× best peer", lambda result: ratio(result["tokens_per_second"], best)),
        ("share of ceiling", lambda result: f"{result['share_of_ceiling']:.0%}"),
        ("peak memory", lambda result: gigabytes(result["peak_memory"])),
        ("× its memory", lambda result: ratio(result["peak_memory"], held)),
        ("loss", lambda result: f"{result['losses'][0]:.3f} → {result['losses'][-1]:.3f}"),
        ("waits for data", lambda result: share(result, "waiting_share")),
        ("bookkeeping", lambda result: share(result, "bookkeeping_share")),
        ("rounds", lambda result: ", ".join(f"{speed:,.0f}" for speed in result["rounds"])),
    ]
    return markdown(columns, sorted(results, key=lambda result: -result["tokens_per_second"]))


def tokenizing(results: list[Result]) -> str:
    """Text to shards, and the training of tokenizers."""
    encoded = [result for result in results if result["task"] == "encode"]
    trained = [result for result in results if result["task"] == "train"]
    best = max((result["tokens_per_second"] for result in encoded if not is_ours(result)), default=0.0)
    columns: list[Column] = [
        ("text to shards", lambda result: result["label"]),
        ("tokens/s", lambda result: f"{result['tokens_per_second']:,.0f}"),
        ("× best peer", lambda result: ratio(result["tokens_per_second"], best)),
        ("seconds", lambda result: f"{result['seconds']:.1f}"),
        ("tokens", lambda result: f"{result['tokens']:,}"),
        ("peak memory, all processes", lambda result: gigabytes(result["tree_memory"])),
    ]
    training: list[Column] = [
        ("training a BPE", lambda result: result["label"]),
        ("seconds", lambda result: f"{result['seconds']:.1f}"),
        ("characters read", lambda result: f"{result['characters']:,}"),
        ("vocabulary", lambda result: f"{result['vocab_size']:,}"),
        ("peak memory, all processes", lambda result: gigabytes(result["tree_memory"])),
    ]
    parts = [markdown(columns, sorted(encoded, key=lambda result: result["seconds"]))] if encoded else []
    parts += [markdown(training, sorted(trained, key=lambda result: result["seconds"]))] if trained else []
    return "\n\n".join(parts)


def starting(results: list[Result]) -> str:
    columns: list[Column] = [
        ("what", lambda result: result["label"]),
        ("seconds", lambda result: f"{result['seconds']:.2f}"),
        ("rounds", lambda result: ", ".join(f"{seconds:.2f}" for seconds in result["rounds"])),
    ]
    return markdown(columns, results)


def learning(results: list[Result]) -> str:
    """One part of it: who is first at the plain loop's loss, or whose loss is lowest."""
    shared: list[Column] = [
        ("parameters", lambda result: f"{result['parameters']:,}"),
        ("steps", lambda result: f"{result['steps']:,.0f}"),
        ("seconds", lambda result: f"{result['seconds']:.1f}"),
        ("peak memory", lambda result: gigabytes(result["peak_memory"])),
        ("seeds", lambda result: ", ".join(f"{value:.3f}" for value in result["rounds"])),
    ]
    if results and results[0]["part"] == "sooner":
        columns: list[Column] = [
            ("contestant", lambda result: result["label"]),
            ("loss at its end", lambda result: f"{result['loss']:.4f}"),
            ("seconds to plain's loss", lambda result: reached(result["seconds_to_loss"])),
            ("× sooner", lambda result: f"{result['times_sooner']:.2f}"),
        ]
        return markdown([*columns, *shared], sorted(results, key=lambda result: -result["times_sooner"]))
    columns = [
        ("contestant", lambda result: result["label"]),
        ("lowest loss", lambda result: f"{result['loss']:.4f}"),
        ("× best plain loop's", lambda result: f"{result['share_of_plain']:.3f}"),
    ]
    return markdown([*columns, *shared], sorted(results, key=lambda result: result["loss"]))


def reached(seconds: float | None) -> str:
    return "not in all seeds" if seconds is None else f"{seconds:.1f}"


def finetuning(results: list[Result]) -> str:
    best = max((result["rows_per_second"] for result in results if not is_ours(result)), default=0.0)
    columns: list[Column] = [
        ("contestant", lambda result: result["label"]),
        ("rows/s", lambda result: f"{result['rows_per_second']:,.1f}"),
        ("× best peer", lambda result: ratio(result["rows_per_second"], best)),
        ("tokens/s", lambda result: f"{result['tokens_per_second']:,.0f}"),
        ("peak memory", lambda result: gigabytes(result["peak_memory"])),
        ("parameters", lambda result: f"{result['parameters']:,}"),
        ("loss, first and last quarter", lambda result: " → ".join(f"{mean:.3f}" for mean in result["quarters"])),
        ("rounds", lambda result: ", ".join(f"{speed:,.1f}" for speed in result["rounds"])),
    ]
    return markdown(columns, sorted(results, key=lambda result: -result["rows_per_second"]))


def growing(results: list[Result]) -> str:
    columns: list[Column] = [
        ("what grows", lambda result: result["label"]),
        ("to", lambda result: f"{result['size']:,g}{' MB' if result['axis'] == 'data' else ''}"),
        ("seconds", lambda result: f"{result['seconds']:.3f}"),
        ("exponent", lambda result: slope(result, "time_exponent")),
        ("memory", lambda result: gigabytes(result["memory"])),
        ("its exponent", lambda result: slope(result, "memory_exponent")),
        ("peak memory", lambda result: gigabytes(result["peak_memory"])),
    ]
    return markdown(columns, results)


def slope(result: Result, key: str) -> str:
    """Of a whole axis; in the line with which it begins."""
    return f"{result[key]:z.2f}" if result["times"] == 1 and result[key] is not None else ""


TABLES: dict[str, Callable[[list[Result]], str]] = {
    "pretrain": pretraining,
    "tokenization": tokenizing,
    "startup": starting,
    "learning": learning,
    "finetuning": finetuning,
    "growth": growing,
}
LEARNING = {
    "sooner": "Learning: seconds to the loss of the plain loop's {budget:,} steps",
    "minutes": "Learning: the lowest loss within {budget:g} minutes of training",
}
TITLES: dict[str, Callable[[Result], str]] = {
    "pretrain": lambda result: f"Pretraining, shape {result['shape']}, {result['device']}, {result['threads']} threads",
    "tokenization": lambda result: f"Tokenization, {result['megabytes']:g} MB",
    "startup": lambda result: "Start-up",
    "learning": lambda result: LEARNING[result["part"]].format(budget=result["budget"]),
    "finetuning": lambda result: f"Fine-tuning, {result['rows']:,} rows, {result['threads']} threads",
    "growth": lambda result: "Growth",
}


def is_ours(result: Result) -> bool:
    return str(result["contestant"]).startswith("dougong")


def ratio(value: float, best: float) -> str:
    return f"{value / best:.2f}" if best else "–"


def share(result: Result, key: str) -> str:
    return f"{result[key]:.1%}" if key in result else "–"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
