"""Making pictures: the verb, its options, the files; what is kept of a training, and that it goes on bit for bit."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import dougong
from dougong import cli
from dougong.core.errors import FieldError
from dougong.evaluation import sheets
from dougong.training import fit
from tests.clear_error import clear_error
from tests.small_runs import recipe_of, run


def test_pictures_of_each_prompt_come_one_after_the_other() -> None:
    found = run("pictures").generate(["left", "right"], count=2, seed=5)
    assert [picture.shape for picture in found] == [(8, 6, 1)] * 4
    assert found[0].dtype == np.uint8
    np.testing.assert_array_equal(run("pictures").generate([{"label": "left"}], seed=6)[0], found[1])
    assert len(run("pictures-of-nothing").generate(count=3)) == 3


def test_guidance_and_steps_change_what_is_made_and_the_gan_has_neither() -> None:
    plain = run("pictures").generate(["left"])[0]
    for options in ({"guidance": 5.0}, {"sampling_steps": 1}):
        assert not np.array_equal(run("pictures").generate(["left"], **options)[0], plain)
    with pytest.raises(FieldError, match=r"generate\.guidance = 2\.0: expected one of count, seed\. Fix: "):
        run("pictures-gan").generate(["left"], guidance=2.0)
    with pytest.raises(
        FieldError,
        match=r"generate\.temperature = 0\.5: expected one of count, seed, guidance, sampler, sampling_steps",
    ):
        run("pictures").generate(["left"], temperature=0.5)
    with pytest.raises(FieldError, match=r"generate\.count = 0"):
        run("pictures").generate(["left"], count=0)


def test_how_codes_are_chosen_can_be_asked_for() -> None:
    coded = run("pictures-autoregressive")
    plain = coded.generate(["left"])[0]
    for options in ({"guidance": 1000.0}, {"temperature": 0.05}, {"top_k": 1}):
        assert not np.array_equal(coded.generate(["left"], **options)[0], plain), options
    likeliest = [coded.generate(["left"], top_k=1, seed=seed)[0] for seed in range(2)]
    np.testing.assert_array_equal(*likeliest)
    with pytest.raises(
        FieldError, match=r"generate\.sampler = 'ddim': expected one of count, seed, guidance, temperature, top_k"
    ):
        coded.generate(["left"], sampler="ddim")


def test_what_cannot_be_asked_is_refused_with_the_fix() -> None:
    with clear_error("prompt", "what shall be made: label", "give a prompt"):
        run("pictures").generate()
    with clear_error("prompt", "none: this run makes pictures from nothing", "count"):
        run("pictures-of-nothing").generate(["left"])
    with clear_error("run", "this one makes image", "use generate"):
        run("pictures").predict(["left"])
    with clear_error("output", "a run that makes pictures", "leave it out"):
        dougong.generate(run("poems"), ["a"], output="there")
    with clear_error("messages", "a run whose output is a chat"):
        dougong.generate(run("pictures"), ["left"], messages="a.jsonl")


def test_the_verb_writes_files_and_tells_of_which_prompt_each_is(tmp_path: Path) -> None:
    command = ["generate", str(run("pictures").folder), "left", "right", "--count", "2", "--seed", "5", "--json"]
    done = CliRunner().invoke(cli.main, [*command, "--output", str(tmp_path / "made")])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])["pictures"]
    assert [each["prompt"] for each in told] == ["left", "left", "right", "right"]
    expected = run("pictures").generate(["left", "right"], count=2, seed=5)
    for each, picture in zip(told, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(each["file"])), picture[..., 0])
    refused = CliRunner().invoke(cli.main, command)
    assert refused.exit_code == 2
    assert "output = None: expected a folder for the pictures" in refused.output


def test_the_report_shows_a_grid_and_the_same_pictures_at_each_validation() -> None:
    trained = run("pictures")
    kept = sheets.kept(trained.folder)
    assert [sheets.step_of(path) for path in kept] == [15, 30]
    assert dougong.verify(trained).damaged == ()
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    shown = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert shown[1:] == [path.read_bytes() for path in kept]
    assert Image.open(trained.folder / "samples" / kept[0].name).size == (2 * 6 + 2, 8)  # of both labels
    assert "img-src data:" in page
    assert '<span title="left">left</span>' in page
    assert "step 15" in page


@pytest.mark.parametrize("name", ["pictures", "pictures-autoregressive", "pictures-gan"])
def test_a_training_that_was_interrupted_goes_on_bit_for_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(name)
    recipe["train"] = {
        "steps": 7,
        "batch_size": 16,
        "checkpoint_every": 3,
        "validate_every": 2,
        "device": "cpu",
        "ema": 0.9,
    }
    with contextlib.chdir(tmp_path):
        whole = dougong.train(recipe)
        shutil.move("runs", "whole")
        told = fit.report_bad

        def stops(session: Any, numbers: Any, monitor: Any) -> None:
            told(session, numbers, monitor)
            if session.progress.step == 5:
                raise RuntimeError("the power is gone")

        monkeypatch.setattr(fit, "report_bad", stops)
        with pytest.raises(RuntimeError, match="the power is gone"):
            dougong.train(recipe)
        monkeypatch.setattr(fit, "report_bad", told)
        again = dougong.train(recipe)
        for file in ("model/model.safetensors", *(f"samples/{path.name}" for path in sheets.kept(again.folder))):
            assert (Path("whole") / name / file).read_bytes() == (again.folder / file).read_bytes(), file
        assert len(sheets.kept(again.folder)) == 4
    assert whole.name == again.name
