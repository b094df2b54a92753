"""The judge of what is made from noise: a finished run that looks at pictures, and tells what they show.

A judge that tells a category says of each picture its class, and its features are those that it tells it by. One that has
learnt a pairing of pictures and texts gives embeddings, and is asked to find a picture's text among those of all rows.
"""

# N rows, d features, T texts

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dougong import run as runs
from dougong.core.devices import place
from dougong.core.errors import bad_field
from dougong.data.columns import Columns
from dougong.fields import Field, metrics_of
from dougong.inference.predict import Predicted, as_numpy
from dougong.metrics.making import Coverage, Found, FrechetDistance, Precision, Recognised
from dougong.metrics.metric import Metric
from dougong.run import PREDICT_ROWS, Run


def all_metrics(output: Field, inputs: Sequence[Field], *, answers: bool) -> list[Metric]:
    """The metrics of an output, those that its judge tells before the others; `answers`: of what is written or made, too."""
    own: list[Metric] = metrics_of(output, answers=answers and bool(inputs))
    judge = Judge.of(output, inputs) if answers else None
    return own if judge is None else [*judge.metrics(), *own]


class Judge:
    """A run with one picture as input (and, of a pairing, a text), and what it tells of pictures that were made."""

    def __init__(self, run: Run, made: Field, inputs: Sequence[Field]):
        self.run, self.made = run, made
        key = f"outputs.{made.name}.judge"
        told = [output for output in run.outputs if output.config.type in ("category", "pairing")]
        seen = [field for field in run.inputs if field.config.type == "image"]
        self.pairs = run.recipe.paired is not None
        if len(seen) != 1 or len(told) != 1 or len(run.inputs) != (2 if self.pairs else 1):
            expected = "a run from one image to a category, or one with a pairing of an image and a text"
            raise bad_field(key, str(run.folder), expected, "train such a run, and name it here")
        (self.seen,), (self.told_by,) = seen, told
        self.words = next((field for field in run.inputs if field is not self.seen), None)
        kind = self.words.config.type if self.words else "category"
        can = [field for field in inputs if field.config.type == kind and made.config.asks in (None, field.name)]
        if made.config.asks is not None and not can:
            expected = f"an input of type {kind}, which {run.folder} can recognise"
            raise bad_field(f"outputs.{made.name}.asks", made.config.asks, expected, "remove it, or name another")
        self.asked: Field | None = can[0] if len(can) == 1 else None

    @classmethod
    def of(cls, output: Field, inputs: Sequence[Field]) -> Judge | None:
        """The judge that an output names, if it does."""
        name = getattr(output.config, "judge", None)
        return None if name is None else cls(runs.open_run(name), output, inputs)

    def metrics(self) -> list[Metric]:
        asked: list[Metric] = []
        if self.asked is not None and self.pairs:
            asked = [Found(10), Found(1), Found(10, real=True), Found(1, real=True)]
        elif self.asked is not None:
            asked = [Recognised(), Recognised(real=True)]
        return [*asked, FrechetDistance(), Precision(), Coverage()]

    def begin(self, split: Any, rows: np.ndarray) -> None:
        """Read what all rows ask, before they come: a picture's text is looked for among these."""
        self.split = split
        if self.asked is None or not self.pairs:
            return
        asked = self._asked(rows)
        self.texts = sorted(set(asked))
        texts = [{self._column(self.words): text} for text in self.texts]
        pieces = [texts[start : start + PREDICT_ROWS] for start in range(0, len(texts), PREDICT_ROWS)]
        self.vectors = np.concatenate([self._embedded(self.words, piece) for piece in pieces])  # (T, d)

    def told(self, predicted: Predicted) -> Predicted:
        """What it tells of a batch of pictures, made ones and real ones, in place of the pictures."""
        name = self.made.name
        made, real = predicted.predictions[name], predicted.targets[name]
        asked = self._asked(predicted.rows) if self.asked is not None else None
        prediction, target = self._looked_at(made["pixels"], asked), self._looked_at(real["pixels"], asked)
        if asked is not None and not self.pairs:
            target["asked"] = self._index(asked)
        prediction |= {key: column for key, column in made.items() if key != "pixels"}
        target |= {key: column for key, column in real.items() if key != "pixels"}
        return replace(predicted, predictions={name: prediction}, targets={name: target})

    def _looked_at(self, pixels: Any, asked: list[str] | None) -> Columns:
        rows = [{self._column(self.seen): self.made.codec.file(picture)} for picture in np.asarray(pixels)]
        parts = [self._seen(rows[start : start + PREDICT_ROWS]) for start in range(0, len(rows), PREDICT_ROWS)]
        found: Columns = {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}
        if self.pairs and asked is not None:
            found["rank"] = self._ranks(np.asarray(found["features"]), asked)
        return found

    @torch.inference_mode()
    def _seen(self, rows: list[dict[str, Any]]) -> Columns:
        """{"features": (N, d)} of pictures, and of a classifier {"told": (N,)}, the class."""
        if self.pairs:
            return {"features": self._embedded(self.seen, rows)}
        run = self.run
        batch = place(run.encode([run.read(row, number) for number, row in enumerate(rows)]), _device(run))
        with run.autocast():
            features = run.model(batch)
            out = run.model.head(self.told_by).predict(features, batch, self.told_by.name)
        return {
            "features": as_numpy(features.mean().float()),
            "told": as_numpy(out["probabilities"]).argmax(1).astype(np.int64),
        }

    def _embedded(self, field: Field | None, rows: list[dict[str, Any]]) -> np.ndarray:
        assert field is not None
        parsed = [self.run.read(row, number, [field]) for number, row in enumerate(rows)]
        return self.run.vectors(field, parsed, Counter())

    def _asked(self, rows: np.ndarray) -> list[str]:
        """What the rows ask to be made, as it stands in their column."""
        assert self.asked is not None
        name = self.asked.name
        columns = self.split.take(rows, [each for each in self.split.names if each.startswith(f"{name}.")])
        own = {key.removeprefix(f"{name}."): column for key, column in columns.items()}
        return [str(value) for value in self.asked.codec.decode(own)]

    def _index(self, asked: list[str]) -> np.ndarray:
        """The judge's classes that are asked; -1 for one that it does not know."""
        classes = {value: index for index, value in enumerate(self.told_by.codec.classes)}
        return np.array([classes.get(value, -1) for value in asked], dtype=np.int64)

    def _ranks(self, vectors: np.ndarray, asked: list[str]) -> np.ndarray:
        """At which place of all texts each picture finds its own; wrong ones with an equal score go before it."""
        scores = vectors @ self.vectors.T  # (N, T)
        own = scores[np.arange(len(scores)), np.searchsorted(self.texts, asked)]
        return (scores >= own[:, None]).sum(1)

    @staticmethod
    def _column(field: Field | None) -> str:
        assert field is not None
        return field.column


def _device(run: Run) -> torch.device:
    return next(run.model.parameters()).device
