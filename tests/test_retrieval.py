"""Embeddings of rows, and search in a corpus, from Python and from the command line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dougong
from dougong.core.errors import DataError, FieldError, Note
from dougong.retrieval import Corpus
from tests.clear_error import clear_error
from tests.small_runs import run
from tests.test_cli import answer, call

ROWS = [{"text": "even number 4", "reply": "4!"}, {"reply": "17!"}, {"text": "third number 9", "reply": None}]
REPLIES = [{"reply": f"{number}!"} for number in range(200)]


def vectors(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name]["embedding"] for row in dougong.predict(run("pairs"), rows, embed=True)])


def test_each_input_that_a_row_has_is_embedded_with_length_one() -> None:
    found = dougong.predict(run("pairs"), ROWS, embed=True)
    assert found == run("pairs").embed(ROWS)
    assert [sorted(row) for row in found] == [["reply", "text"], ["reply"], ["text"]]
    for row in found:
        for each in row.values():
            assert np.linalg.norm(each["embedding"]) == pytest.approx(1, abs=1e-5)
    first, second = (np.array(found[0][name]["embedding"]) for name in ("text", "reply"))
    (said,) = run("pairs").predict(ROWS[:1])
    assert said["match"]["value"] == pytest.approx(float(first @ second), abs=1e-5)


def test_a_row_is_embedded_as_it_would_be_alone_however_many_there_are() -> None:
    together = vectors(REPLIES, "reply")
    assert np.allclose(
        together[[0, 63, 64, 199]], vectors([REPLIES[row] for row in (0, 63, 64, 199)], "reply"), atol=1e-5
    )


def test_the_nearest_of_a_corpus_are_those_of_brute_force() -> None:
    questions = [{"text": f"even number {number}"} for number in range(70)]
    scores = vectors(questions, "text") @ vectors(REPLIES, "reply").T
    found = dougong.predict(run("pairs"), questions, corpus=REPLIES, top=3)
    for said, expected in zip(found, scores, strict=True):
        near = said["match"]["nearest"]
        assert [each["score"] for each in near] == pytest.approx(np.sort(expected)[::-1][:3].tolist(), abs=1e-5)
        assert [expected[each["row"] - 1] for each in near] == pytest.approx([each["score"] for each in near], abs=1e-5)
        assert [each["value"] for each in near] == [REPLIES[each["row"] - 1]["reply"] for each in near]
    assert len(dougong.predict(run("pairs"), questions, corpus=REPLIES)[0]["match"]["nearest"]) == 10
    assert len(dougong.predict(run("pairs"), questions, corpus=REPLIES[:4])[0]["match"]["nearest"]) == 4


def test_a_late_interaction_is_searched_by_the_score_it_tells() -> None:
    late = run("pairs-late")
    assert late.space.config.length_discount > 0
    rows = [{"text": f"even number {number}", "reply": f"{'long ' * number}{number}!"} for number in range(5)]
    found = dougong.predict(
        late, [{"text": row["text"]} for row in rows], corpus=[{"reply": row["reply"]} for row in rows]
    )
    for number, (row, said) in enumerate(zip(rows, found, strict=True), 1):
        (own,) = [each["score"] for each in said["match"]["nearest"] if each["row"] == number]
        assert own == pytest.approx(late.predict([row])[0]["match"]["value"], abs=1e-5)


def test_which_side_is_searched_follows_from_the_columns_and_from_who_asks() -> None:
    both = [{"text": f"number {number}", "reply": f"{number}!"} for number in range(20)]
    assert Corpus.of(run("pairs"), both).side.name == "reply"  # the recipe says that text asks
    assert Corpus.of(run("pairs"), [{"text": row["text"]} for row in both]).side.name == "text"
    alike = dougong.predict(run("pairs"), REPLIES[5:6], corpus=REPLIES, top=1)[0]["match"]["nearest"][0]
    assert (alike["row"], alike["value"]) == (6, "5!")  # of the same side: the row itself
    assert alike["score"] == pytest.approx(1, abs=1e-5)
    corpus = Corpus.of(run("pairs"), REPLIES)
    assert corpus.answer(both[:1], Counter()) == corpus.answer([{"text": both[0]["text"]}], Counter())


def test_files_are_embedded_and_searched_and_bad_rows_are_counted(tmp_path: Path) -> None:
    questions, corpus = tmp_path / "questions.jsonl", tmp_path / "corpus.jsonl"
    questions.write_text('{"text": "even number 4"}\n{"other": "x"}\n')
    corpus.write_text("".join(json.dumps(row) + "\n" for row in [{"reply": None}, *REPLIES]))
    folder = run("pairs").folder
    found = answer("predict", folder, questions, "--embed")
    assert (found["rows"], found["errors"]) == (2, 1)
    assert "none of the columns reply, text has a value; it has other" in found["predictions"][1]["error"]
    assert len(found["predictions"][0]["text"]["embedding"]) == 16
    result = call("predict", folder, questions, "--corpus", corpus, "--top", 2)
    assert f"1 rows of {corpus} could not be read and are not searched" in result.stderr
    near = json.loads(result.stdout.splitlines()[0])["match"]["nearest"]
    expected = dougong.predict(folder, [{"text": "even number 4"}], corpus=REPLIES, top=2)[0]["match"]["nearest"]
    assert [each["value"] for each in near] == [each["value"] for each in expected]
    assert [each["row"] - 1 for each in near] == [each["row"] for each in expected]  # the bad row has a number, too
    out = tmp_path / "answers.jsonl"
    assert answer("predict", folder, questions, "--embed", "-o", out)["output"] == str(out)
    assert len(out.read_text().splitlines()) == 2


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    trained, rows = run("pairs"), ROWS[:1]
    with clear_error("embed", "one of embed and corpus", error=FieldError):
        dougong.predict(trained, rows, embed=True, corpus=REPLIES)
    with clear_error("top = 3", "a corpus to search in", error=FieldError):
        dougong.predict(trained, rows, top=3)
    with clear_error("top = 0", "1 or more", error=FieldError):
        dougong.predict(trained, rows, corpus=REPLIES, top=0)
    for more in ({"embed": True}, {"corpus": REPLIES}):
        with clear_error("'reviews'", "a run that has learnt a pairing; this one gives label", "match: pairing"):
            dougong.predict(run("reviews"), ["good"], **more)
    with clear_error("rows[1]", "none of the columns reply, text", error=DataError):
        dougong.predict(trained, [*rows, {"x": 1}], embed=True)
    with clear_error("rows[0] = 'a text'", "a dict with one of the columns reply, text", error=FieldError):
        dougong.predict(trained, ["a text"], embed=True)
    with clear_error("corpus", "no row that can be read", error=DataError):
        dougong.predict(trained, rows, corpus=[])


def test_rows_of_a_corpus_that_lack_the_side_that_is_searched_are_counted() -> None:
    corpus = [*REPLIES[:3], {"text": "one"}, {"reply": None, "text": "two"}, *REPLIES[3:5]]
    with pytest.warns(Note, match="corpus: 2 rows have no 'reply' and are not searched"):
        (found,) = dougong.predict(run("pairs"), ROWS[:1], corpus=corpus)
    assert sorted(each["row"] for each in found["match"]["nearest"]) == [1, 2, 3, 6, 7]


def test_texts_that_are_cut_are_noted() -> None:
    with pytest.warns(Note, match=r"in 1 rows: text: 1 cut to 48 tokens"):
        run("pairs").embed([{"text": "long " * 40}])


def test_a_late_interaction_gives_a_vector_for_each_position_and_searches_by_all_of_them() -> None:
    trained = run("pairs-late")
    rows = [{"text": f"even number {number}"} for number in range(5)]
    found = dougong.predict(trained, rows, corpus=REPLIES[:20], top=3)
    for row, said in zip(rows, found, strict=True):
        scores = [each["match"]["value"] for each in trained.predict([row | reply for reply in REPLIES[:20]])]
        near = said["match"]["nearest"]
        assert [each["score"] for each in near] == pytest.approx(sorted(scores)[::-1][:3], abs=1e-5)
        assert [scores[each["row"] - 1] for each in near] == pytest.approx([each["score"] for each in near], abs=1e-5)
    short, long = (row["reply"]["embedding"] for row in trained.embed([{"reply": "4!"}, {"reply": "third 16!"}]))
    assert (len(short), len(long)) == (3, 10)  # bytes and the end
    assert np.allclose(np.linalg.norm(long, axis=1), 1, atol=1e-5)
    with clear_error("corpus", "'text'", "interaction: late", error=DataError):
        dougong.predict(trained, rows, corpus=rows)
