"""Any field fits any backbone wherever that makes sense: every such pair trains, is saved, reloaded, and predicts the same.

What makes sense follows from the contracts: an output that is written step by step needs a backbone that can look back
only, one that is made from noise a backbone that makes it. Types and backbones are found by their file names; a new one is
tried unasked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dougong import backbones, fields, lifecycle
from dougong import recipe as recipes
from dougong import run as runs
from dougong.core.errors import RecipeError
from dougong.core.strict_json import parse_json
from dougong.data.rows import has_column
from dougong.inference import generate
from dougong.model import Model
from dougong.run import Run
from tests.clear_error import check_clear
from tests.contracts.values import ROWS, values_of, with_side


def writes(kind: str) -> bool:
    return bool(fields.load(kind).Head.AUTOREGRESSIVE)


def only(kind: str) -> str | None:
    return fields.only_backbone(fields.load(kind).Config())


def apart(kind: str) -> bool:
    return fields.reads_apart(fields.load(kind).Config())


def causal(backbone: str) -> bool:
    return bool(backbones.load(backbone).Backbone.CAUSAL)


def made(kind: str) -> bool:
    return fields.made(fields.load(kind).Config())


def fits(backbone: str, out: str) -> bool:
    """Whether what is made from noise meets what makes it, and nothing else does."""
    return made(out) == backbones.makes(backbone)


def of(kind: str) -> str | None:
    return None if getattr(fields.load(kind), "ALONE", False) else getattr(fields.load(kind), "OF", None)


def follows(into: str, out: str) -> bool:
    """Whether every place of the input tells what comes out, so that the backbone may only look back."""
    return getattr(fields.load(out), "OF", None) == into and hasattr(fields.load(out), "CAUSAL")


def places(backbone: str) -> bool:
    return bool(backbones.load(backbone).Backbone.PLACES)


def takes_inputs(kind: str) -> bool:
    return not writes(kind) or hasattr(fields.load(kind), "ANSWERS")


ALL = [
    (into, backbone, out)
    for into in with_side("Encoder")
    for backbone in backbones.names()
    for out in with_side("Head")
    if takes_inputs(out)
]
SENSIBLE = [
    (into, backbone, out)
    for into, backbone, out in ALL
    if fits(backbone, out)
    and (causal(backbone) or not (writes(out) or follows(into, out)))
    and (not of(out) or (of(out) == into and places(backbone)))
]
WRITERS = [
    (backbone, out)
    for backbone in backbones.names()
    for out in with_side("Head")
    if causal(backbone) and writes(out) and not only(out)
]

MAKERS = [
    (backbone, out) for backbone in backbones.names() for out in with_side("Head") if fits(backbone, out) and made(out)
]


def covering(triples: list[tuple[str, str, str]]) -> list[Any]:
    """All of them, those nightly that bring no two parts together which others before have not: types grow, tests stay quick."""
    seen: set[tuple[str, str, str]] = set()
    found = []
    kinds, names = fields.names(), backbones.names()

    def diagonal(triple: tuple[str, str, str]) -> int:  # along it each triple brings three new pairs
        into, backbone, out = triple
        return (kinds.index(into) + kinds.index(out) - names.index(backbone)) % len(names)

    for into, backbone, out in sorted(triples, key=diagonal):
        pairs = {("in", into, backbone), ("out", backbone, out), ("ends", into, out)}
        found.append(pytest.param(into, backbone, out, marks=pytest.mark.nightly if pairs <= seen else ()))
        seen |= pairs
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One table that has each type as an input and as an output."""
    file = tmp_path_factory.mktemp("pairs") / "rows.parquet"
    columns = {
        f"{side}_{kind}": [values_of(kind).make(row + shift) for row in range(ROWS)]
        for side, shift in (("in", 0), ("out", 1))
        for kind in fields.names()
        if has_column(fields.load(kind))
    }
    pq.write_table(pa.table(columns), file)
    return file


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Model]]:
    """The models that were trained, as they were in memory when their run was written."""
    models: list[Model] = []
    finish = runs.finish

    def noting(folder: Path, recipe: recipes.Recipe, model: Model, receipt: dict[str, Any]) -> Run:
        models.append(model)
        return finish(folder, recipe, model, receipt)

    monkeypatch.setattr(runs, "finish", noting)
    monkeypatch.setitem(generate.Config.__init__.__kwdefaults__ or {}, "max_tokens", 8)
    return models


def recipe_of(data: Path, into: str | None, backbone: str, out: str) -> recipes.Recipe:
    def field(side: str, kind: str) -> dict[str, Any]:
        return {"type": kind, "column": f"{side}_{kind}", **values_of(kind).settings}

    inputs = {"x": field("in", into)} if into else {}
    output = field("out", out)
    if apart(out):
        inputs["z"] = field("out", into or "")
        del output["column"]
    return recipes.load(
        {
            "name": "pair",
            "data": {"train": str(data), "split": {"test": 0.1}, "cache": str(data.parent / "prepared")},
            "inputs": inputs,
            "outputs": {"y": output},
            "model": {"kind": backbone, "preset": "tiny"},
            "train": {"steps": 2, "batch_size": 16, "device": "cpu"},
        }
    )


def train(recipe: recipes.Recipe, folder: Path) -> Run:
    """`dougong.train` without evaluation and report, which are tested elsewhere."""
    run = lifecycle._train(recipe, folder, True, lambda _: None)
    lines = (folder / "log.jsonl").read_bytes().splitlines()
    losses = [record["loss"] for line in lines if "loss" in (record := parse_json(line, "log.jsonl"))]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    return run


@pytest.mark.parametrize(("into", "backbone", "out"), covering(SENSIBLE), ids=lambda name: name)
def test_pair_trains_saves_reloads_and_predicts_the_same(
    into: str, backbone: str, out: str, data: Path, tmp_path: Path, trained: list[Model]
) -> None:
    run = train(recipe_of(data, into, backbone, out), tmp_path / "run")
    rows = [values_of(into).make(row) for row in range(3)]
    rows += [] if writes(out) else [None, values_of(into).unseen]
    rows = [{f"in_{into}": row, f"out_{into}": row} for row in rows] if apart(out) else rows
    reloaded = runs.open_run(tmp_path / "run")
    run.__dict__["model"] = trained[-1].eval()
    if made(out):
        makes_the_same(run, reloaded, [{f"in_{into}": row} for row in rows])
    else:
        answers = reloaded.predict(rows)
        assert [list(answer) for answer in answers] == [["y"]] * len(rows)
        assert all("value" in answer["y"] for answer in answers)
        assert run.predict(rows) == answers
    assert runs.verify(tmp_path / "run").damaged == ()


def makes_the_same(run: Run, reloaded: Run, prompts: list[Any]) -> None:
    """And other ones from other noise; what is made beside it changes none."""
    found = reloaded.generate(prompts, count=2, seed=3)
    assert len(found) == 2 * len(prompts)
    assert found[0].shape == found[-1].shape
    assert not np.array_equal(found[0], found[1])
    assert all(np.array_equal(*pair) for pair in zip(run.generate(prompts, count=2, seed=3), found, strict=True))
    alone = reloaded.generate(prompts[:1], seed=3)[0]
    assert np.abs(alone.astype(int) - found[0].astype(int)).max() <= 1  # sums in another order


@pytest.mark.parametrize(("backbone", "out"), MAKERS, ids=lambda name: name)
def test_a_backbone_that_makes_its_output_does_so_without_any_input(
    backbone: str, out: str, data: Path, tmp_path: Path, trained: list[Model]
) -> None:
    run = train(recipe_of(data, None, backbone, out), tmp_path / "run")
    run.__dict__["model"] = trained[-1].eval()
    makes_the_same(run, runs.open_run(tmp_path / "run"), [""])


@pytest.mark.parametrize(("backbone", "out"), WRITERS, ids=lambda name: name)
def test_a_backbone_that_looks_back_writes_without_any_input(
    backbone: str, out: str, data: Path, tmp_path: Path, trained: list[Model]
) -> None:
    run = train(recipe_of(data, None, backbone, out), tmp_path / "run")
    reloaded = runs.open_run(tmp_path / "run")
    run.__dict__["model"] = trained[-1].eval()
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 7, "top_p": 0.9}):
        texts = reloaded.generate(["", "row"], max_tokens=12, **options)
        assert run.generate(["", "row"], max_tokens=12, **options) == texts
        assert all(isinstance(text, str) for text in texts)
    assert reloaded.generate(["row"], seed=1) == reloaded.generate(["row"], seed=1)


@pytest.mark.parametrize(
    ("into", "backbone", "out"), [pair for pair in ALL if pair not in SENSIBLE], ids=lambda name: name
)
def test_a_pair_that_makes_no_sense_is_refused_with_the_recipe(into: str, backbone: str, out: str, data: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(data, into, backbone, out)
    if not fits(backbone, out):
        check_clear(str(caught.value), "model.kind", backbone, "from noise")
    elif of(out) in (None, into):
        why = "step by step" if writes(out) else "look back only" if follows(into, out) else "places"
        check_clear(str(caught.value), "model.kind", backbone, why)
    else:
        check_clear(str(caught.value), "outputs.y.of", f"an input of type {of(out)}")


@pytest.mark.parametrize("into", with_side("Encoder"))
@pytest.mark.parametrize("out", [kind for kind in with_side("Head") if not takes_inputs(kind)])
def test_an_input_beside_a_type_that_takes_none_is_refused_with_the_recipe(into: str, out: str, data: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(data, into, "transformer", out)
    check_clear(str(caught.value), "inputs", "'x'", f"none beside a {out}")


def test_every_input_type_at_once_meets_every_head_that_is_not_written(
    data: Path, tmp_path: Path, trained: list[Model]
) -> None:
    """Many in, many out: multimodal and multi-task are no special cases."""
    recipe = recipes.load(
        {
            "name": "mixture",
            "data": {"train": str(data), "split": {"test": 0.1}, "cache": str(tmp_path / "prepared")},
            "inputs": {f"in_{kind}": {"type": kind, **values_of(kind).settings} for kind in with_side("Encoder")},
            "outputs": {
                f"out_{kind}": {"type": kind, **values_of(kind).settings}
                for kind in with_side("Head")
                if not writes(kind)
                and not apart(kind)
                and not fields.quotes(fields.load(kind).Config())
                and of(kind) != "image"  # boxes are told of the image alone
                and not made(kind)
            },
            "model": {"kind": "transformer", "preset": "tiny"},
            "train": {"steps": 2, "batch_size": 16, "device": "cpu"},
        }
    )
    run = train(recipe, tmp_path / "run")
    rows = [{f"in_{kind}": values_of(kind).make(row) for kind in with_side("Encoder")} for row in range(3)]
    answers = runs.open_run(tmp_path / "run").predict(rows)
    assert all(set(answer) == set(recipe.outputs) for answer in answers)
    run.__dict__["model"] = trained[-1].eval()
    assert run.predict(rows) == answers
