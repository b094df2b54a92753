"""A run: a trained model with its recipe and its fields; how one is opened, finished, gone on with and verified."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dougong import assembly, run_folder
from dougong.core import artefacts
from dougong.core.artefacts import (
    read_json,
    read_manifest,
    read_sealed,
    verify_folder,
    write_folder,
    write_json,
    write_sealed,
)
from dougong.core.errors import ArtefactError, DataError, Note, bad_field
from dougong.core.tensors import load_tensors, save_tensors
from dougong.data import cleaning, preparation, prepare, tokenizers
from dougong.data.columns import Columns, cut
from dougong.data.loader import Batch, collate
from dougong.data.windows import Held
from dougong.fields import Field, has_vectors
from dougong.inference import generate, making
from dougong.inference.predict import as_numpy, best_windows
from dougong.metrics.writing import texts
from dougong.model import Model
from dougong.recipe import Recipe
from dougong.run_folder import MODEL, RUNS
from dougong.training import checkpoint
from dougong.training.fit import autocast_for

PREDICT_ROWS = 64
Notes = Counter[tuple[str, str]]
"""(column, what is to be said of it) -> how often."""


class Run:
    """A finished run: its recipe, its fields, and its model, loaded when first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        run_folder.check_sealed(folder, but=run_folder.READ_LATER)
        self.recipe = run_folder.read_recipe(folder)
        self.inputs, self.outputs = run_folder.read_fields(folder, self.recipe)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def receipt(self) -> dict[str, Any]:
        return read_sealed(self.folder / "receipt.json")

    @cached_property
    def model(self) -> Model:
        """The trained model on this machine's device; every byte of it is checked first."""
        verify_folder(self.folder / MODEL, MODEL)
        run_folder.read_resolved(self.folder / MODEL / "config.json")  # refuses one of a newer dougong
        built = assembly.build(self.recipe, self.inputs, self.outputs)
        assembly.fill(built, load_tensors(self.folder / MODEL / "model.safetensors"), self.folder / MODEL)
        return built.eval()

    @property
    def weights(self) -> str:
        """The sha256 of its weights, by which an evaluation says what it measured."""
        return read_manifest(self.folder / MODEL).files["model.safetensors"].sha256

    @property
    def autocast(self) -> Any:
        return autocast_for(self.recipe.train, next(self.model.parameters()).device, self.model)

    @property
    def converses(self) -> bool:
        """Whether it replies to what is said, and does not write on."""
        return any(hasattr(field.codec, "render") for field in self.outputs)

    @property
    def made(self) -> Field | None:
        """The output that it makes from noise, if there is one."""
        return next((field for field in self.outputs if field.name == self.recipe.made), None)

    @property
    def held_out(self) -> str | None:
        """The split that a run is judged on: test where there is one; None where no row was held out."""
        rows = self.receipt["data"]["rows"]
        return next((split for split in ("test", "validation") if rows.get(split)), None)

    def evaluated_splits(self) -> list[str]:
        return sorted(
            path.name
            for path in (self.folder / "evaluations").glob("*")
            if path.is_dir() and not path.name.startswith(".")
        )

    def metrics(self) -> dict[str, Any]:
        """What its evaluations say: split -> metric -> value, low, high, rows."""
        return {
            split: read_json(self.folder / "evaluations" / split / "result.json")["metrics"]
            for split in self.evaluated_splits()
        }

    @cached_property
    def prepared(self) -> prepare.Prepared:
        """The prepared data of this run, made again if it is gone; refused if the files are no longer those it was trained on."""
        folder = self.cached
        if (
            folder.is_dir()
        ):  # its key is a hash of the contents: it is the data that this run knows, whatever came since
            return prepare.Prepared(folder)
        found = assembly.prepared_data(self.recipe)
        if found.key != folder.name:
            raise DataError(
                f"{self.folder}: the data files, or dougong's way to prepare them, have changed since this run was trained. "
                "Fix: bring the files (or the version of dougong in receipt.json) back, or train anew."
            )
        return found

    @property
    def cached(self) -> Path:
        """Where its prepared data is, unless somebody removed it."""
        return Path(self.recipe.data.cache) / self.receipt["data"]["key"]

    def data_changed(self) -> bool:
        """Whether the data files are no longer those that the run was trained on. DataError where they are gone."""
        return assembly.contents_of(self.recipe) != self.receipt["data"]["contents"]

    def predict(self, rows: Iterable[Any], *, top: int | None = None) -> list[dict[str, Any]]:
        """For each row (a dict of the inputs' columns, or the bare value where there is one input) the value of each output.

        A category gives {"value", "probability", "top"}, labels {"value", "probabilities", "threshold"} ("thresholds" where
        each label has its own), a number or a text {"value"}, a span {"value", "start", "end", "probability"},
        an item {"value", "top"}, the `top` best ones.
        Values that the model cannot know (unseen ones, cut texts) are counted in a Note.
        """
        notes: Notes = Counter()
        answers = self.answer(listed(rows), notes, top)
        tell(notes, len(answers))
        return answers

    @property
    def lists(self) -> int:
        """How many an answer may list, best first, as the question says; 0 where none does."""
        return max(getattr(field.type, "TOP", 0) for field in self.outputs)

    def answer(self, rows: Sequence[Any], notes: Notes, top: int | None = None) -> list[dict[str, Any]]:
        """As `predict`; what it has to note is added to `notes`. `top`: how many are listed, where an answer lists some."""
        if self.made is not None:
            raise bad_field("run", self.name, f"a model that answers; this one makes {self.made.name}", "use generate")
        if not self.inputs:
            if has_vectors(self.outputs[0].config):
                fix = "use embed for their vectors, or top for the words that are nearest"
                raise bad_field("run", self.name, "a model with inputs; this one has learnt vectors of words", fix)
            if self.recipe.masked:
                fix = f"start another recipe from it: model: {{init: {self.folder}}}"
                raise bad_field("run", self.name, "a model with inputs; this one tells hidden tokens", fix)
            raise bad_field("run", self.name, "a model with inputs; this one writes text from nothing", "use generate")
        results: list[dict[str, Any]] = []
        for start in range(0, len(rows), PREDICT_ROWS):
            chunk = [self.read(row, start + index) for index, row in enumerate(rows[start : start + PREDICT_ROWS])]
            results += self._answers(chunk, notes, top)
        return results

    def generate(self, prompts: str | Sequence[Any] = ("",), **options: Any) -> list[Any]:
        """The continuation of each prompt, or the reply to each conversation; or pictures of each, (H, W, C) uint8.

        The options are those of `dougong generate` (max_tokens, temperature, seed …; of pictures count, seed, guidance …).
        Of pictures a prompt is the value of the one input, or a dict of the inputs' columns; without inputs there is none.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if self.made is not None:
            return self._make(self.made, list(prompts), options)
        return generate.generate(self.model, prompts, generate.options(options))

    def _make(self, made: Field, prompts: list[Any], given: Mapping[str, Any]) -> list[np.ndarray]:
        """Pictures of each prompt, one after the other; each has its own random numbers, from the seed and its place."""
        options, way = making.options(given, self.recipe.model)
        none = prompts == [""]
        if self.inputs and none:
            wanted = ", ".join(field.column for field in self.inputs)
            raise bad_field("prompt", None, f"what shall be made: {wanted}", "give a prompt")
        if not self.inputs and not none:
            raise bad_field(
                "prompt", prompts[0], "none: this run makes pictures from nothing", "leave it out, say count"
            )
        notes: Notes = Counter()
        rows = [{} if none else self.read(prompt, number) for number, prompt in enumerate(prompts)]
        each = self.encode(rows, notes)
        batch = {name: value.repeat_interleave(options.count, 0) for name, value in each.items()}
        seeds = [options.seed + place for place in range(len(batch["row"]))]
        arrays = making.make(self.model, batch, seeds, way, precise=self.autocast)
        tell(notes, len(rows))
        return list(made.codec.decode(arrays))

    def embed(self, rows: Iterable[Any]) -> list[dict[str, Any]]:
        """For each row (a dict with the column of one input, or of both) the embedding of each that it has.

        `{"query": {"embedding": [0.1, …]}}`, of length 1. For a run that has learnt a pairing; or vectors of words, of
        which a row, a dict or a bare text, holds one or more: then the mean of its words. Of a pairing with a late
        interaction a list of them, one for each position.
        """
        notes: Notes = Counter()
        answers = self.embedded(listed(rows), notes)
        tell(notes, len(answers))
        return answers

    def embedded(self, rows: Sequence[Any], notes: Notes) -> list[dict[str, Any]]:
        """As `embed`; what it has to note is added to `notes`."""
        results: list[dict[str, Any]] = [{} for _ in rows]
        for start in range(0, len(rows), PREDICT_ROWS):
            chunk = list(enumerate(rows[start : start + PREDICT_ROWS], start))
            given = {number: self.given(row, number) for number, row in chunk}
            for field in self.sides:
                having = [(number, row) for number, row in chunk if field in given[number]]
                parsed = [self.read(row, number, [field]) for number, row in having]
                vectors = self.vectors(field, parsed, notes) if parsed else ()
                for (number, _), vector in zip(having, vectors, strict=True):
                    real = vector if vector.ndim == 1 else vector[vector.any(1)]
                    results[number][field.name] = {"embedding": real.tolist()}
        return results

    @property
    def space(self) -> Field:
        """The output that has learnt a space of vectors: a pairing of the inputs, or words. Refused where there is none."""
        found = next((field for field in self.outputs if field.name == self.recipe.paired), None) or self.words
        if found is None:
            expected = (
                f"a run that has learnt a pairing; this one gives {', '.join(field.name for field in self.outputs)}"
            )
            raise bad_field("run", self.name, expected, "train one with outputs: {match: pairing}")
        return found

    @property
    def words(self) -> Field | None:
        """The output whose words have vectors, if there is one."""
        return next((field for field in self.outputs if has_vectors(field.config)), None)

    @property
    def sides(self) -> list[Field]:
        """The fields whose values have a place in that space."""
        return [self.words] if self.words else self.inputs

    def given(self, row: Any, number: int) -> list[Field]:
        """The inputs that a row has a value of; at least one. Of words the output itself."""
        if self.words:
            return [self.words]
        columns = ", ".join(field.column for field in self.inputs)
        if not isinstance(row, Mapping):
            raise bad_field(
                f"rows[{number}]", row, f"a dict with one of the columns {columns}", "write {column: value}"
            )
        found = [field for field in self.inputs if row.get(field.column) is not None]
        if not found:
            raise DataError(
                f"rows[{number}]: none of the columns {columns} has a value; it has {', '.join(map(str, row))}. "
                "Fix: give one of them."
            )
        return found

    @torch.inference_mode()
    def vectors(self, field: Field, rows: Sequence[dict[str, Any]], notes: Notes) -> np.ndarray:  # (N, E) float32
        """The embeddings of one input of parsed rows; of a late interaction (N, T, E), zeros where nothing is."""
        device = next(self.model.parameters()).device
        batch = self.encode(rows, notes, [field])
        with self.autocast():
            return self.model.embed(field, {key: value.to(device) for key, value in batch.items()}).cpu().numpy()

    def read(self, row: Any, number: int, inputs: Sequence[Field] | None = None) -> dict[str, Any]:
        """One raw row -> parsed values by input (or only some). Raises DataError that names the row and the column."""
        inputs = self.inputs if inputs is None else inputs
        if isinstance(row, Mapping) and len(row) == 1 and list(inputs) == [self.words]:
            (row,) = row.values()  # a list of words may call its column as it likes
        if not isinstance(row, Mapping):
            if len(inputs) != 1:
                columns = ", ".join(field.column for field in inputs)
                raise bad_field(
                    f"rows[{number}]", row, f"a dict with the columns {columns}", "write {column: value, …}"
                )
            row = {inputs[0].column: row}
        for field in inputs:
            if field.column not in row:
                raise DataError(
                    f"rows[{number}]: no column {field.column!r}; it has {', '.join(map(str, row))}. "
                    "Fix: add it (None if it is missing)."
                )
        kinds = {field.name: field.config.type for field in inputs}  # by name: two may read one column
        loose = cleaning.Config(
            unicode=self.recipe.data.cleaning.unicode,
            repair=self.recipe.data.cleaning.repair,
            missing="keep",
            empty="keep",
        )
        cleaned = cleaning.clean({field.name: row[field.column] for field in inputs}, kinds, loose)
        if cleaned.values is None:
            raise DataError(f"rows[{number}]: {cleaned.bad or cleaned.dropped}. Fix: correct the value.")
        try:
            parsed = {field.name: field.codec.parse(cleaned.values[field.name], field.config) for field in inputs}
            for field in inputs:
                if field is self.words:
                    field.codec.check_known(parsed[field.name])
            return parsed
        except ValueError as error:
            raise DataError(f"rows[{number}]: {error}. Fix: correct the value.") from None

    def encode(
        self, rows: Sequence[dict[str, Any]], notes: Notes | None = None, inputs: Sequence[Field] | None = None
    ) -> Batch:
        """Parsed rows -> one batch of the inputs (or only some); `notes` counts what the model cannot know of them."""
        inputs = self.inputs if inputs is None else inputs
        return collate(self.encoded(rows, notes, inputs), np.arange(len(rows)), assembly.limits_of(inputs))

    def encoded(self, rows: Sequence[dict[str, Any]], notes: Notes | None, inputs: Sequence[Field]) -> Columns:
        """The columns of parsed rows."""
        columns: Columns = {}
        for field in inputs:
            encoded, counts = field.codec.encode([row[field.name] for row in rows])
            counts |= cut(field.codec, encoded)
            if notes is not None:
                counts.pop("missing", None)  # the caller knows of those
                notes.update({(field.column, what): count for what, count in counts.items() if count})
            columns |= {f"{field.name}.{key}": column for key, column in encoded.items()}
        return columns

    @torch.inference_mode()
    def _answers(self, rows: Sequence[dict[str, Any]], notes: Notes, top: int | None) -> list[dict[str, Any]]:
        if self.model.quoting is not None:
            return self._quotes(self.encoded(rows, notes, self.inputs), len(rows), self.model.quoting)
        batch = self.encode(rows, notes)
        if self.model.written is not None:
            written = generate.answers(self.model, batch, precise=self.autocast)
            return [{self.model.written.name: {"value": text}} for text in written]
        outputs = self._outputs(batch)
        more = {field.name: {"top": top} if hasattr(field.type, "TOP") else {} for field in self.outputs}
        answers = {field.name: field.codec.answers(outputs[field.name], **more[field.name]) for field in self.outputs}
        return [{name: answer[index] for name, answer in answers.items()} for index in range(len(rows))]

    def _outputs(self, batch: Batch) -> dict[str, Columns]:
        """What the model predicts for each output."""
        device = next(self.model.parameters()).device
        with self.autocast():
            outputs = self.model.predict({key: value.to(device) for key, value in batch.items()})
        return {name: {key: as_numpy(value) for key, value in out.items()} for name, out in outputs.items()}

    def _quotes(self, columns: Columns, rows: int, quoting: Field) -> list[dict[str, Any]]:
        """The best answer in any window of each row's text, as it stands there."""
        windows = assembly.windows_of(Held(columns, rows), self.inputs, quoting)
        limits = assembly.limits_of(self.inputs)

        def read() -> Iterator[tuple[np.ndarray, Columns]]:
            for start in range(0, windows.rows, PREDICT_ROWS):
                some = np.arange(start, min(start + PREDICT_ROWS, windows.rows))
                batch = collate(windows.take(some), windows.numbers(some), limits)
                yield windows.numbers(some), self._outputs(batch)[quoting.name]

        passages = texts({"text": columns[f"{quoting.config.of}.text"]})
        answers: list[dict[str, Any]] = []
        for found, best in best_windows(read(), windows.of_row):  # row after row, as their windows come
            quoted = quoting.codec.quote(best, [passages[row] for row in found])
            answers += [{quoting.name: answer} for answer in quoting.codec.answers(quoted)]
        return answers


def listed(rows: Iterable[Any]) -> list[Any]:
    """The rows as a list. A text would be taken letter by letter, a mapping or a table by the names of its columns."""
    fix = 'as in run.predict(["a text"]); of a table, run.predict(table.to_dict("records")) or .to_pylist()'
    single = isinstance(rows, str | bytes | Mapping)
    if single or hasattr(rows, "columns") or not isinstance(rows, Iterable):
        raise bad_field("rows", rows if single else type(rows).__name__, "a list of rows", f"write a list, {fix}")
    return list(rows)


def tell(notes: Notes, rows: int) -> None:
    """Warn of values that the model has to guess at."""
    if notes:
        told = "; ".join(f"{column}: {count:,} {what}" for (column, what), count in notes.items())
        warnings.warn(f"in {rows:,} rows: {told}. The model has not learnt from such values.", Note, stacklevel=3)


# --------------------------------------------------------------------------------------------------- from folder to run


def open_run(source: Run | str | Path) -> Run:
    """A run by its folder, or by its name under runs/."""
    if isinstance(source, Run):
        return source
    path = Path(source)
    folder = path if path.is_dir() else RUNS / path
    if not (folder / "resolved.json").is_file():
        there = sorted(each.parent.name for each in RUNS.glob("*/resolved.json"))
        raise ArtefactError(
            f"{source}: no run there; under {RUNS}/ there are {', '.join(there) or 'none'}. Fix: give the folder of a run."
        )
    if not run_folder.is_finished(folder):
        raise ArtefactError(f"{folder}: this run has not finished. Fix: run the same dougong train command again.")
    return Run(folder)


@dataclass(frozen=True)
class Begun:
    """Which of a model's weights came from another run, and which began anew."""

    run: Run
    taken: tuple[str, ...]
    anew: tuple[str, ...]
    parameters: tuple[int, int]  # numbers in those taken, and in all

    def text(self) -> str:
        parts = sorted({name.split(".")[0] for name in self.anew})
        taken, every = self.parameters
        count = f"{len(self.taken):,} of {len(self.taken) + len(self.anew):,} tensors, {taken:,} of {every:,} numbers"
        return f"begins with weights of {self.run.folder}: {count}; anew: {', '.join(parts) or 'nothing'}"

    def to_json(self) -> dict[str, Any]:
        weights = artefacts.read_manifest(self.run.folder).files[f"{MODEL}/model.safetensors"].sha256
        return {"run": str(self.run.folder), "weights": weights, "taken": list(self.taken), "anew": list(self.anew)}


def begin_with(model: Model, parent: Run) -> Begun:
    """Fill a new model with a run's weights wherever names and shapes agree, and the field speaks of the same values."""
    ours, folder = model.weights(), parent.folder / MODEL
    other = other_values(model, parent)
    verify_folder(folder, MODEL)
    theirs = load_tensors(folder / "model.safetensors")
    taken = tuple(
        name
        for name, weight in ours.items()
        if name in theirs and theirs[name].shape == weight.shape and name.split(".")[0] not in other
    )
    if not taken:
        expected = "a run with weights of the names and shapes that this model has"
        fix = f"give model the kind and the sizes that {folder / 'config.json'} tells"
        raise bad_field("model.init", str(parent.folder), expected, fix)
    with torch.no_grad():
        for name in taken:
            ours[name].copy_(theirs[name])
    anew = tuple(name for name in ours if name not in taken)
    return Begun(
        parent, taken, anew, (sum(ours[name].numel() for name in taken), sum(t.numel() for t in ours.values()))
    )


def _learnt_as(codec: Any) -> Any:
    """What a codec knows that its weights depend on: all of it, unless it says so itself."""
    return codec.learnt_as() if hasattr(codec, "learnt_as") else codec.to_json()


def other_values(model: Model, parent: Run) -> set[str]:
    """The modules of fields that in the parent had other classes or statistics. Refuses another tokenizer."""
    known = {field.name: field for field in [*parent.inputs, *parent.outputs]}
    texts = [field for field in known.values() if hasattr(field.codec, "tokenizer")]
    other: set[str] = set()
    for field in [*model.inputs, *model.outputs]:
        if field.name not in known or _learnt_as(field.codec) == _learnt_as(known[field.name].codec):
            continue
        if hasattr(field.codec, "tokenizer") and known[field.name] in texts:
            expected = f"the tokenizer of {parent.folder}, whose embeddings the model begins with (model.init)"
            fix = "write tokenizer: init"
            raise bad_field(f"{field.name}.tokenizer", field.config.tokenizer.kind, expected, fix)
        other |= {f"in_{field.name}", f"out_{field.name}"}
    return other


def folder_of(source: Run | str | Path) -> Path:
    """The folder of a run, finished or not, that may be damaged."""
    if isinstance(source, Run):
        return source.folder
    path = Path(source)
    folder = path if path.is_dir() else RUNS / path
    if not folder.is_dir():
        raise ArtefactError(f"{source}: no run there. Fix: give the folder of a run.")
    return folder


def finish(folder: Path, recipe: Recipe, model: Model, receipt: dict[str, Any]) -> Run:
    """Write model and receipt, and seal the run with a manifest."""
    with write_folder(folder / MODEL, MODEL, {"run": recipe.name}) as temporary:
        save_tensors(temporary / "model.safetensors", model.weights(), {"format": "pt"})
        write_json(temporary / "config.json", run_folder.stamped(recipe))
        texts = [field for field in [*model.inputs, *model.outputs] if hasattr(field.codec, "tokenizer")]
        for field in texts:
            ending, content = tokenizers.as_file(field.codec.tokenizer)
            name = tokenizers.file_name(ending, None if len(texts) == 1 else field.name)
            (temporary / name).write_bytes(content)
    write_sealed(folder / "receipt.json", receipt)
    run_folder.seal(folder)
    return Run(folder)


def going_on(folder: Path, recipe: Recipe, accept_changes: bool) -> Run | None:
    """The run if it has finished with this recipe; None if it is to be begun, or gone on with. Refuses a changed recipe."""
    if not (folder / "resolved.json").is_file():
        return None
    run = Run(folder) if run_folder.is_finished(folder) else None
    run_folder.check_changes(folder, recipe, finished=run is not None, accept=accept_changes)
    if run and run.data_changed():
        raise run_folder.other_data(folder, "was trained on")
    return run


@dataclass(frozen=True)
class Verified:
    """What `verify` found: the parts that are whole, and what is wrong with the others."""

    good: tuple[str, ...]
    damaged: tuple[str, ...]


def verify(folder: Path) -> Verified:
    """Check every file of a run against its manifests: the run itself, checkpoints, evaluations, its prepared data."""
    good: list[str] = []
    damaged: list[str] = []

    def check(name: str, look: Any) -> None:
        try:
            look()
            good.append(name)
        except ArtefactError as error:
            damaged.append(str(error))

    if (folder / MODEL).exists() or (folder / artefacts.MANIFEST).exists():
        check("run", lambda: run_folder.check_sealed(folder))
        if "run" in good and (cached := Run(folder).cached).is_dir():
            check(f"prepared data {cached.name}", lambda: verify_folder(cached, preparation.KIND))
    for path in sorted((folder / "checkpoints").glob("step-*")):
        check(f"checkpoints/{path.name}", lambda path=path: checkpoint.verify(path))
    for path in sorted((folder / "evaluations").glob("[!.]*")):
        check(f"evaluations/{path.name}", lambda path=path: verify_folder(path, "evaluation"))
    if not good and not damaged:
        raise ArtefactError(
            f"{folder}: nothing to verify: no finished run, no checkpoint, no evaluation. Fix: give the folder of a run."
        )
    return Verified(tuple(good), tuple(damaged))
