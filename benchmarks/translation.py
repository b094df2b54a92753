"""Translation: chrF and BLEU of a recipe, and of a MarianMT of its size, after as long a training on the same rows.

    python recipes/data/wesnoth.py                            # once: the texts
    benchmarks/setup.sh                                       # once: the peers' environments
    .venv/bin/python -m benchmarks.translation --language de --minutes 20
    .venv/bin/python -m benchmarks.translation --who peer --steps 3      # tries everything; its figures say nothing

The peer takes over what the recipe says of size and training (benchmarks/peers/translate_marian.py says what is its own, and why);
it reads the training, validation and test rows as dougong's preparation splits them. Each is a process of its own, one after
the other, and writes its translations of all test rows, by as many beams, to a file; both files are scored here, by the metrics
that evaluate dougong's runs. Only training counts as time: no validation, no saving, no translating. For each one JSON line is
printed; the weights are those of its best validation loss.

Reached, Chinese, 20 minutes on one core each, at the same time on an otherwise quiet machine (AMD EPYC, avx512_bf16, both in
bf16, 2026-11-29): the peer chrF 2.95, BLEU 0.96, validation 6.26 nats a token after 657 steps; ours (`python recipes/figures.py
translation-zh`) chrF 6.10, BLEU 4.15, validation 5.12 after 811 steps.

Reached, German, 20 minutes on one core each, one after the other on a busy machine (AMD EPYC, avx512_bf16, 2026-11-29): the
peer chrF 9.26, BLEU 0.12, validation 5.88 nats a token after 572 steps in bf16; ours chrF 13.23, BLEU 1.89, validation 4.63
after 317 steps in fp32, before dougong took to bf16 there. The peer's rate was chosen on validation rows, batches of 1,024
tokens, nats after 100 steps: weights drawn with 1 / √D 7.49 (3e-4) and 7.56 (7e-4, warm-up 0.3); with 0.02, its default, 7.40
(5e-4) and 7.42 (1e-3). At 1e-3, drawn with 1 / √D, it had stayed at 7.08, which is what counting words gives, for 477 steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contest
from benchmarks.contest import PEERS, Contestant, Failed, Result
from benchmarks.data import PREPARED, ROOT, WORK
from benchmarks.peers.translation_job import Job, Pair, Shape, write_lines
from dougong import assembly
from dougong import recipe as recipes
from dougong.layers.feedforward import hidden_width
from dougong.metrics.writing import BLEU, CHRF, text_column
from dougong.recipe import Recipe

RECIPES = {"de": "translation-de", "zh_CN": "translation-zh"}
MODULES = {"peer": "benchmarks.peers.translate_marian", "ours": "benchmarks.peers.translate_dougong"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=RECIPES, default="de")
    parser.add_argument("--who", choices=[*MODULES, "both"], default="both")
    parser.add_argument("--minutes", type=float, default=20, help="of training, for each")
    parser.add_argument("--steps", type=int, help="train for so many steps instead, to try everything")
    parser.add_argument(
        "--lr", type=float, default=5e-4, help="the highest rate of the peer; ours stands in the recipe"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=Path, default=PEERS, help="the python of the peer's environment")
    arguments = parser.parse_args()
    contest.warn_if_busy()
    budget = {"minutes": arguments.minutes, "steps": arguments.steps, "seed": arguments.seed, "lr": arguments.lr}
    pythons = {"peer": arguments.peers, "ours": Path(sys.executable)}
    who = list(MODULES) if arguments.who == "both" else [arguments.who]
    path = ROOT / "recipes" / f"{RECIPES[arguments.language]}.yaml"
    try:
        for result in results(path, {name: pythons[name] for name in who}, budget):
            print(json.dumps({"language": arguments.language} | result, ensure_ascii=False), flush=True)
    except Failed as error:
        sys.exit(str(error))


def results(path: Path, pythons: dict[str, Path], budget: Result) -> Iterator[Result]:
    """The answer of each contestant with its figures, as soon as it has come."""
    recipe = recipes.load(path, [f"data.cache={PREPARED}"])
    (output,) = recipe.outputs.values()
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        splits = pairs_of(recipe)
        for split, pairs in splits.items():
            write_lines(Path(folder, f"{split}.jsonl"), pairs)
        for name, python in pythons.items():
            written = Path(folder, f"{name}.jsonl")
            job = Job(
                contestant=name, recipe=str(path), rows=folder, written=str(written), shape=shape(recipe), **budget
            )
            answer = contest.run(Contestant(f"translation {name}", MODULES[name], python, (json.dumps(asdict(job)),)))
            translations = [json.loads(line) for line in written.read_text("utf-8").splitlines()]
            right = [other for _, other in splits["test"]]
            yield {"who": name} | figures(translations, right, output.bleu_tokenize) | answer


def pairs_of(recipe: Recipe) -> dict[str, list[Pair]]:
    """English and the other language of every row of each split, as dougong's preparation has cleaned and split them."""
    prepared = assembly.prepared_data(recipe)
    (english,), (other,) = assembly.fitted(recipe, prepared)
    pairs = {}
    for name in ("train", "validation", "test"):
        split = prepared.split(name)
        columns = split.take(np.arange(split.rows))
        sides = (field.codec.decode({"tokens": columns[f"{field.name}.tokens"]}) for field in (english, other))
        pairs[name] = list(zip(*sides, strict=True))
    return pairs


def shape(recipe: Recipe) -> Shape:
    """What the peer takes over. Its one vocabulary has as many tokens as dougong's two, or as the one that both share."""
    (english,), (other,), model, train = recipe.inputs.values(), recipe.outputs.values(), recipe.model, recipe.train
    tokens = other.tokenizer.vocab_size + (0 if other.shares else english.tokenizer.vocab_size)
    return Shape(
        layers=model.layers,
        width=model.width,
        heads=model.heads,
        feedforward=model.feedforward or hidden_width(model.width, model.activation),
        dropout=model.dropout,
        vocab_size=tokens,
        longest=max(english.max_length, other.max_length),
        beams=other.beams,
        batch_tokens=train.batch_tokens,
        label_smoothing=train.loss.label_smoothing,
    )


def figures(written: list[str], right: list[str], tokenize: str) -> dict[str, Any]:
    """Of all translations at once, by the metrics that evaluate a run."""
    if len(written) != len(right):  # sacrebleu would score those that there are
        raise Failed(f"{len(written):,} translations of {len(right):,} test rows")
    prediction, target = {"text": text_column(written)}, {"text": text_column(right)}
    found: dict[str, Any] = {"test_rows": len(right)}
    for metric in (CHRF(), BLEU(tokenize)):
        found[metric.name] = float(metric.value(metric.statistics(prediction, target).sum(axis=0)))
        found[f"{metric.name}_signature"] = metric.signature
    return found


if __name__ == "__main__":
    main()
