"""What a run tells a person: the first lines of its training, and the content of its report."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dougong import assembly
from dougong.core.devices import device_name, place
from dougong.core.errors import Note
from dougong.data.cleaning import TEXTS
from dougong.data.loader import Loader, collate, once
from dougong.data.pictures import png
from dougong.data.prepare import SPLITS, Prepared
from dougong.data.shards import Split
from dougong.evaluation import report, sheets
from dougong.evaluation.drawing import Drawn
from dougong.evaluation.measure import Measured, read_measured
from dougong.evaluation.report import (
    CalibrationCurve,
    ClassScores,
    ConfusionMatrix,
    ReportContent,
    Sheet,
    write_report,
)
from dougong.fields import Field
from dougong.inference.neighbours import Vectors, nearest, ranks, together
from dougong.inference.predict import as_numpy
from dougong.model import Model
from dougong.recipe import Recipe
from dougong.run import PREDICT_ROWS, Run
from dougong.training import compilation, routes
from dougong.training.fit import autocast_dtype

SAMPLES = 8
PROMPT_CHARACTERS = 12
SAMPLE_TOKENS = 160
LOOKED_AMONG = 1000  # held-out rows, for the samples of a pairing
NEAREST = 3
HOLE = "▢"


def headline(recipe: Recipe, model: Model, prepared: Prepared, loader: Loader) -> str:
    """The first lines of a run: what is trained on what, and which routes were chosen."""
    device = next(model.parameters()).device
    count = sum(parameter.numel() for parameter in model.parameters())
    counts = {name: sum(prepared.rows.get(name, {}).values()) for name in SPLITS}
    rows = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    budget, amount = recipe.train.budget
    dtype = autocast_dtype(recipe.train, device, model)
    attention = routes.attention(model, recipe.train.attention, loader.plan, dtype)
    blocks = "compiled" if compilation.is_wanted(recipe.train, model, loader.plan) else "not compiled"
    pieces = len(loader.pieces(0, 0))
    ways = (
        f"{' and '.join(recipe.inputs)}: {'one encoder for both' if recipe.shares_encoder else 'each its own encoder'}"
    )
    ends = f"{', '.join(recipe.inputs) or 'nothing'} → {', '.join(recipe.outputs)}"
    return (
        f"{recipe.name}: {ends}; {recipe.model.kind}, {count:,} parameters\n"
        f"rows: {rows}; budget: {amount:,g} {budget}; {recipe.train.optimizer.kind}\n"
        f"device: {device_name(device)}; matrix products in {str(dtype).removeprefix('torch.')}; blocks {blocks}"
        f"{f'; attention {attention}' if attention else ''}"
        f"{f'; steps in {pieces} pieces' if pieces > 1 else ''}"
        f"{chr(10) + ways if recipe.paired else ''}"
    )


def write(path: Path, run: Run) -> None:
    """Write the report of a run from what stands in its folder."""
    evaluated = {split: read_measured(run.folder / "evaluations" / split) for split in run.evaluated_splits()}
    shown = evaluated.get(run.held_out or "")
    write_report(
        path,
        ReportContent(
            name=run.name,
            summary=sentence(run, shown),
            parent=run.receipt["parent"] or "",
            metrics={
                split: {name: estimate.to_json() for name, estimate in measured.metrics.items()}
                for split, measured in evaluated.items()
            },
            log=log_of(run.folder / "log.jsonl", "tokens" if reads_text(run.recipe) else "rows"),
            samples=samples(run),
            sheets=made(run),
            settled=run.receipt.get("settled", {}),
            inputs={} if shown is None else {n: d["inputs"] for n, d in shown.details.items() if "inputs" in d},
            classes=classes(shown),
            confusion=confusions(run, shown),
            calibration=calibrations(shown),
            data=run.prepared.report.summary(),
            parameters=parameters_by_part(run.model),
            recipe=run.recipe.text,
            overrides=run.receipt["overrides"],
            receipt={key: value for key, value in run.receipt.items() if key != "settled"},  # it has its own section
        ),
    )


def sentence(run: Run, measured: Measured | None) -> str:
    receipt = run.receipt
    rows = receipt["data"]["rows"].get("train", 0)
    kind = run.recipe.model.kind
    article = "An" if kind in ("mlp", "identity") else "A"  # em el pee
    head = f"{article} {kind} from {', '.join(run.recipe.inputs) or 'nothing'} to {', '.join(run.recipe.outputs)}"
    minutes, steps = receipt["training"]["seconds"] / 60, receipt["training"]["steps"]
    body = f"trained on {rows:,} rows in {minutes:.1f} minutes ({steps:,} steps)"
    if measured is None:
        return f"{head}, {body}."
    name, first = next(iter(measured.metrics.items()))
    told = f"{name} {first.value:.4f} on {measured.rows:,} {measured.split} rows"
    return f"{head}, {body}; {told} (95 % interval {first.low:.4f} to {first.high:.4f})."


def reads_text(recipe: Recipe) -> bool:
    """Whether there are tokens: without text a token would be but another name for a row."""
    return any(config.type in TEXTS for config in [*recipe.inputs.values(), *recipe.outputs.values()])


def log_of(path: Path, unit: str) -> list[dict[str, Any]]:
    """The log as the report's charts take it: steps and their speed in tokens or rows, validation losses beside them."""
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "validation" in record:
            if "loss" in record["validation"]:
                records.append({"step": record["step"], "val_loss": record["validation"]["loss"]})
            continue
        seconds = max(record["step_seconds"], 1e-9)
        kept = {key: record[key] for key in ("step", "loss", "lr", "grad_norm", "memory_bytes") if key in record}
        if "wait_seconds" in record:  # a part of the step's
            kept["wait_share"] = record["wait_seconds"] / seconds
        records.append(kept | {f"{unit}_per_second": record[unit] / seconds})
    return records


def samples(run: Run) -> list[dict[str, Any]]:
    """What the model makes of a few held-out rows: continuations of beginnings, or predictions and what is right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # a sample may well end where the model's positions do, or be cut
        return _samples(run)


def _samples(run: Run) -> list[dict[str, Any]]:
    if run.held_out is None or run.made is not None:  # of pictures there are sheets
        return []
    if run.recipe.paired:
        return _searched(run)
    if run.words:
        return _neighbours(run.words, run.model.arrival(run.words).encoder.table().detach().cpu().numpy())
    if run.model.masked:
        return _told(run)
    if run.converses:  # what the evaluation has asked already
        measured = read_measured(run.folder / "evaluations" / run.held_out)
        return [_spoken(each) for each in measured.details[str(run.recipe.written)].get("golden", ())]
    if place_of := next((field for field in run.outputs if getattr(field.type, "OF", None) == "image"), None):
        return _drawn(run, place_of)
    split = run.prepared.split(run.held_out)
    columns = split.take(np.linspace(0, split.rows - 1, min(SAMPLES, split.rows)).astype(np.int64))
    decoded = {field.name: _decoded(field, columns) for field in [*run.inputs, *run.outputs]}
    if run.recipe.written and not run.inputs:
        prompts = [str(text)[:PROMPT_CHARACTERS] for text in decoded[run.recipe.written]]
        texts = run.generate(prompts, max_tokens=SAMPLE_TOKENS)
        return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
    rows = [
        {field.column: decoded[field.name][index] for field in run.inputs}
        for index in range(len(next(iter(decoded.values()))))
    ]
    targets = [{field.name: decoded[field.name][index] for field in run.outputs} for index in range(len(rows))]
    answers = run.predict(rows)
    if len(run.outputs) == 1 and getattr(run.outputs[0].type, "NAMES", None) == "words":
        output, texts = run.outputs[0].name, decoded[run.outputs[0].config.of]
        return [
            _tagged(text, answer[output]["value"], target[output])
            for text, answer, target in zip(texts, answers, targets, strict=True)
        ]
    return [
        {
            **_seen([(field, row[field.column]) for field in run.inputs]),
            "prediction": _lines({name: said["value"] for name, said in answer.items()}),
            "target": _lines(target),
            "right": None
            if any(isinstance(value, float) for value in target.values())  # a number is near, or far, never right
            else all(said["value"] == target[name] for name, said in answer.items()),
        }
        for row, target, answer in zip(rows, targets, answers, strict=True)
    ]


@torch.inference_mode()
def _drawn(run: Run, field: Field) -> list[dict[str, Any]]:
    """A few held-out pictures with the boxes told of them, and those that are right."""
    split = run.prepared.split(run.held_out or "")
    rows = np.linspace(0, split.rows - 1, min(SAMPLES, split.rows)).astype(np.int64)
    columns = split.take(rows)
    batch = collate(columns, rows, assembly.limits_of([*run.inputs, *run.outputs]))
    with run.autocast():
        outputs = run.model.predict(place(batch, next(run.model.parameters()).device))
    answers = field.codec.answers({key: as_numpy(value) for key, value in outputs[field.name].items()})
    right = field.codec.decode(_of(columns, field.name))
    seen = next(each for each in run.inputs if each.name == field.config.of)
    pixels = seen.codec.decode(_of(columns, seen.name))
    sizes = np.asarray(columns[f"{field.name}.size"]).tolist()
    return [
        {
            "drawn": Drawn(
                png(shown),
                (size[0], size[1]),
                [
                    ((x, y, far, low), label, score)
                    for (x, y, far, low, label), score in zip(answer["value"], answer["scores"], strict=True)
                ],
                [((x, y, far, low), label or "(not seen in training)") for x, y, far, low, label in true],
            )
        }
        for shown, size, answer, true in zip(pixels, sizes, answers, right, strict=True)
    ]


def made(run: Run) -> list[Sheet]:
    """Of a run that makes pictures a grid of them, and the same few as they were at each validation of its training."""
    if run.made is None or run.held_out is None:
        return []
    grid, said = sheets.grid(run.model, run.prepared.split(run.held_out), run.autocast)
    _, watched = sheets.asked(run.prepared.split("validation"), run.inputs) if sheets.kept(run.folder) else ({}, [])
    columns = [text.replace("\n", ", ") for text in said]
    found = [Sheet("Made", grid, columns, "Each column is made of what stands above it, each line from other noise.")]
    for path in sheets.kept(run.folder):
        head = watched if path == sheets.kept(run.folder)[0] else []
        found.append(Sheet(f"step {sheets.step_of(path):,}", path.read_bytes(), head, ""))
    return found


def _decoded(field: Field, columns: Any) -> list[Any]:
    """The values of some rows as a file would hold them: of pictures the bytes of a file each, of clips those of all frames."""
    values: list[Any] = field.codec.decode(_of(columns, field.name))
    return [field.codec.file(value) for value in values] if hasattr(field.codec, "file") else values


def _seen(values: list[tuple[Field, Any]]) -> dict[str, Any]:
    """What a model looked at: pictures as they are, everything else in words."""
    pictures = [picture for field, value in values for picture in _pictures(field, value)]
    said = {field.column: shown(field, value) for field, value in values if not _pictures(field, value)}
    return ({"pictures": pictures} if pictures else {}) | ({"input": _lines(said)} if said else {})


def _pictures(field: Field, value: Any) -> list[bytes]:
    """The files of a picture, or of the frames of a clip; none of any other type."""
    return (value if isinstance(value, list) else [value]) if hasattr(field.codec, "file") else []


def _tagged(text: str, told: list[str], right: list[str | None]) -> dict[str, Any]:
    """The words of a text with their tags, those that are wrong marked; a word that was not read has none."""
    tags = [*told, *[None] * len(right)]
    words = [
        {
            "word": word,
            "told": tag or "–",
            "target": wanted or "(not seen in training)",
            "": "" if tag == wanted else "✗",
        }
        for word, tag, wanted in zip(text.split(), tags, right, strict=False)
    ]
    return {"words": words, "right": not any(word[""] for word in words)}


@torch.inference_mode()
def _neighbours(field: Field, vectors: np.ndarray) -> list[dict[str, Any]]:
    """A few words, frequent ones and rarer ones, and the three that are nearest; `vectors` (V, E) of length 1."""
    words = field.codec.words  # the most frequent first
    some = np.unique(np.geomspace(1, len(words), min(SAMPLES, len(words))).astype(np.int64) - 1)
    found, scores = nearest(vectors[some], vectors, NEAREST + 1)  # and the word itself
    return [
        {
            "word": words[row],
            "nearest": [
                {"score": float(score), "word": words[index]}
                for index, score in zip(near, each, strict=True)
                if index != row
            ][:NEAREST],
        }
        for row, near, each in zip(some.tolist(), found, scores, strict=True)
    ]


def _told(run: Run) -> list[dict[str, Any]]:
    """Beginnings of held-out windows with the hidden tokens that an evaluation hides, and what the model tells of them."""
    (field,) = run.outputs
    plan = assembly.plan_of(run.recipe, run.prepared.split(run.held_out or ""), run.inputs, run.outputs)
    batch = place(next(once(plan)), next(run.model.parameters()).device)
    batch = run.model.measured({key: value[:SAMPLES] for key, value in batch.items()})
    with run.autocast():
        features = run.model(batch)
        likeliest = run.model.head(field).logits(features.values).argmax(-1)  # (B, T)
    tokens, hidden = batch[f"{field.name}.tokens"].cpu(), batch[f"{field.name}.hidden"].cpu()
    lengths = batch[f"{field.name}.tokens.length"].tolist()
    found = []
    for row, length in enumerate(lengths):
        shown = slice(0, min(length, SAMPLE_TOKENS))
        said, holes = tokens[row, shown].tolist(), hidden[row, shown].tolist()
        told = likeliest[row, shown].tolist()
        pieces = [
            {"told": _visible(field, guess), "target": _visible(field, token), "": "" if guess == token else "✗"}
            for token, guess, hole in zip(said, told, holes, strict=True)
            if hole
        ]
        found.append({"hidden": _with_holes(field, said, holes), "tokens": pieces})
    return found


def _visible(field: Field, token: int) -> str:
    """A token by itself; one that is but white space, or ends a text, would look like none."""
    text: str = field.codec.text([token])
    return text.replace(" ", "␣").replace("\n", "⏎") or "(end)"


def _with_holes(field: Field, tokens: list[int], holes: list[bool]) -> str:
    """The text of some tokens, those that are hidden as HOLE."""
    text = ""
    for hole, run_of in groupby(zip(tokens, holes, strict=True), key=lambda each: each[1]):
        told = [token for token, _ in run_of]
        text += HOLE * len(told) if hole else field.codec.text(told)
    return text


def _searched(run: Run) -> list[dict[str, Any]]:
    """A few that ask, the place of what is right among the first held-out rows, and the three that are nearest."""
    if any(field.config.type != "text" for field in run.inputs):
        return []
    split, paired = run.prepared.split(run.held_out or ""), run.space
    columns = split.take(np.arange(min(LOOKED_AMONG, split.rows)))
    names = [field.name for field in run.inputs]
    asks = names.index(paired.config.asks or names[0])
    hashes = np.asarray(columns[f"{paired.name}.hashes"])[:, [asks, 1 - asks]]  # (N, 2)
    asking, found = (_vectors(run, run.inputs[side], split, len(hashes)) for side in (asks, 1 - asks))
    rank = ranks(asking, found, hashes)
    different = np.unique(hashes[:, 1], return_index=True)[1]  # (P,) a row of each value that can be found
    some = np.linspace(0, len(hashes) - 1, min(SAMPLES, len(hashes))).astype(np.int64)
    near, scores = nearest(asking[some], found[different], NEAREST)
    queries, passages = (run.inputs[side].codec.decode(_of(columns, names[side])) for side in (asks, 1 - asks))
    return [
        {
            "query": queries[row],
            "passage": passages[row],
            "rank": f"{rank[row]:,} of {len(different):,}",
            "nearest": [
                {"score": float(score), "passage": passages[different[index]]}
                for index, score in zip(near_rows, each, strict=True)
            ],
            "right": bool(rank[row] == 1),
        }
        for row, near_rows, each in zip(some.tolist(), near, scores, strict=True)
    ]


@torch.inference_mode()
def _vectors(run: Run, field: Field, split: Split, rows: int) -> Vectors:  # of N rows
    """The embeddings of one input of the first rows of a split."""
    device, limits = next(run.model.parameters()).device, assembly.limits_of([field])
    own = [name for name in split.names if name.startswith(f"{field.name}.") and limits.get(name) != 0]
    pieces = []
    for some in np.split(np.arange(rows), range(PREDICT_ROWS, rows, PREDICT_ROWS)):
        batch = place(collate(split.take(some, own), some, limits), device)
        with run.autocast():
            pieces.append(run.model.embed(field, batch).float().cpu().numpy())
    return together(pieces, run.space.config.length_discount)


def _spoken(golden: dict[str, Any]) -> dict[str, str]:
    said = [f"{message['role']}: {message['content']}\n" for message in golden["messages"]]
    return {"prompt": "".join([*said, "assistant: "]), "text": golden["reply"]}


def shown(field: Field, value: Any) -> Any:
    """A decoded value, or what its codec says of one that is no text."""
    return field.codec.shown(value) if hasattr(field.codec, "shown") else value


def _lines(values: dict[str, Any]) -> str:
    said = {name: report.number(value) if isinstance(value, float) else value for name, value in values.items()}
    return "\n".join(f"{name}: {value}" for name, value in said.items())


def _of(columns: Any, name: str) -> Any:
    return {key.removeprefix(f"{name}."): column for key, column in columns.items() if key.startswith(f"{name}.")}


def classes(measured: Measured | None) -> dict[str, ClassScores]:
    details = measured.details if measured else {}
    return {
        name: ClassScores(detail["classes"], detail["unseen"])
        for name, detail in details.items()
        if "classes" in detail
    }


def confusions(run: Run, measured: Measured | None) -> dict[str, ConfusionMatrix]:
    details = measured.details if measured else {}
    labels = {field.name: getattr(field.codec, "classes", []) for field in run.outputs}
    return {
        name: ConfusionMatrix(labels[name], detail["confusion"])
        for name, detail in details.items()
        if "confusion" in detail
    }


def calibrations(measured: Measured | None) -> dict[str, CalibrationCurve]:
    curves = {}
    for name, detail in (measured.details if measured else {}).items():
        if "calibration" in detail:
            bins = [bin for bin in zip(*detail["calibration"], strict=True) if bin[2]]
            curves[name] = CalibrationCurve(*(list(column) for column in zip(*bins, strict=True)))
    return curves


def parameters_by_part(model: Model) -> dict[str, int]:
    parts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        parts[name.split(".")[0]] += parameter.numel()
    return dict(parts)
