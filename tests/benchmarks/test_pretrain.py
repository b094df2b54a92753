"""What the pretraining benchmark accepts on its command line, and what it holds against a result."""

from __future__ import annotations

import math

import pytest

from benchmarks import pretrain


def test_a_name_means_all_its_usual_forms_and_parts_choose_one() -> None:
    assert pretrain.forms("plain") == [("plain", form) for form in pretrain.PLAIN]
    assert pretrain.forms("trainer:bf16:compile") == [("trainer", ("bf16", True))]
    assert pretrain.forms("trainer:fp32") == [("trainer", ("fp32", False))]
    assert pretrain.forms("dougong:fp32") == [("dougong", ("fp32", None))]  # it chooses itself whether to compile


@pytest.mark.parametrize("text", ["keras", "plain:fp8", "plain:bf16:fast", "plain:bf16:compile:more"])
def test_what_it_does_not_know_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        pretrain.forms(text)


def test_losses_have_to_begin_at_the_logarithm_of_the_vocabulary_and_to_fall() -> None:
    assert pretrain.wrong_with([4.2, 3.5], 65) == []
    assert "far from log(65) = 4.17" in pretrain.wrong_with([8.0, 3.5], 65)[0]
    assert pretrain.wrong_with([19.2, 3.5], 65, highest=19.6) == []
    assert "far from log(65)" in pretrain.wrong_with([22.0, 3.5], 65, highest=19.6)[0]
    assert "far from log(65)" in pretrain.wrong_with([2.0, 1.5], 65, highest=19.6)[0]
    assert "does not fall" in pretrain.wrong_with([4.2, 4.3], 65)[0]
    assert "does not fall" in pretrain.wrong_with([4.2, math.nan], 65)[0]


def test_a_summary_takes_medians_and_the_ceiling_of_the_precision_that_was_computed_in() -> None:
    answer = {
        "contestant": "dougong", "shape": "baby", "precision": "auto", "compile": None, "device": "cpu", "steps": 3,
        "threads": 2, "peak_memory": 10, "losses": [4.2, 3.0], "versions": {}, "computed_in": "fp32",
        "waiting_share": 0.01,
    }  # fmt: skip
    answers = [answer | {"tokens_per_second": speed} for speed in (100.0, 300.0, 200.0)]
    flops = pretrain.SHAPES["baby"].flops_per_token
    found = pretrain.summary("dougong auto", answers, {"bf16": 1e12, "fp32": 200.0 * flops})
    assert found["tokens_per_second"] == 200
    assert found["share_of_ceiling"] == 1
    assert found["rounds"] == [100, 300, 200]
    assert found["waiting_share"] == 0.01
    assert found["wrong"] == []
