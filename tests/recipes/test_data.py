"""The scripts that make the recipes' tables: what they keep, what they leave out, and which side it falls on. No network."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts import load

fetch = load("recipes/data/fetch.py")
tables = load("recipes/data/tables.py")
orange = load("recipes/data/orange.py")
sentiment_zh = load("recipes/data/sentiment_zh.py")
descriptions = load("recipes/data/descriptions.py")
package_questions = load("recipes/data/package_questions.py")
peoples_daily = load("recipes/data/peoples_daily.py")
chatterbot = load("recipes/data/chatterbot.py")
chitchat = load("recipes/data/chitchat.py")
fashion_mnist = load("recipes/data/fashion_mnist.py")
moving_fashion = load("recipes/data/moving_fashion.py")
wesnoth = load("recipes/data/wesnoth.py")
sprites = load("recipes/data/sprites.py")
majority_baseline = load("benchmarks/majority_baseline.py")
tags_baseline = load("benchmarks/tags_baseline.py")

PACKAGES = """Package: gcc-12-doc
Source: gcc-12 (12.2.0-1)
Tag: role::documentation,
 works-with::text

Package: tree
Version: 2.1.0-1
"""
TEXTS = """Package: gcc-12-doc
Description-md5: 0
Description-en: documentation of the compilers
 The manual, and
 its index.
 .
 Formats:
  * info
  * html
 and no other.
 .
 End.

Package: tree
Description-en: displays an indented directory tree
 Draws a tree.

Package: tree-copy
Description-en: displays an indented directory tree
 Draws a tree.

Package: bare
Description-en: says nothing more
"""


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "PREPARED", tmp_path / "prepared")
    return tmp_path / "prepared"


def test_a_corpus_of_orange_keeps_its_own_split_under_the_name_that_is_asked(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "Category\tText\nd\tstring\nclass\t\n\n"  # an empty line follows the three rows
    (tmp_path / "c-train.tab").write_text(header + 'sci.space\tthe "moon"\nrec.autos\ta car\n')
    (tmp_path / "c-test.tab").write_text(header + "sci.space\tmars\n")
    monkeypatch.setattr(fetch, "pypi", lambda *_, keep: tmp_path if keep == "*/c-*.tab" else None)
    orange.write("c", "news", label="group")
    assert read(prepared / "news-train.jsonl") == [
        {"text": 'the "moon"', "group": "sci.space"},
        {"text": "a car", "group": "rec.autos"},
    ]
    assert read(prepared / "news-test.jsonl") == [{"text": "mars", "group": "sci.space"}]


def test_split_jsonl_keeps_equal_keys_together_and_loses_no_row(prepared: Path) -> None:
    rows = [{"text": f"{number}", "key": f"{number // 4}"} for number in range(400)]
    tables.split_jsonl("t", rows, key=lambda row: row["key"])
    train, test = read(prepared / "t-train.jsonl"), read(prepared / "t-test.jsonl")
    assert sorted(train + test, key=lambda row: int(row["text"])) == rows
    assert len(test) == pytest.approx(80, abs=40)
    assert not {row["key"] for row in train} & {row["key"] for row in test}


def test_reviews_that_differ_in_spaces_and_punctuation_are_one_and_contradictions_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [
        ("很好！", "positive"),
        ("很 好", "positive"),
        ("一般", "positive"),
        ("一般。", "negative"),
        ("ＯＫ", "positive"),
    ]
    assert sentiment_zh.distinct(lines) == [
        {"review": "很好！", "label": "positive"},
        {"review": "ＯＫ", "label": "positive"},
    ]
    assert capsys.readouterr().out == "5 lines: 2 copies, 1 with both labels\n"
    assert sentiment_zh.letters("ＯＫ, 好_的") == "ok好的"


def test_records_of_a_control_file_hold_lines_that_go_on() -> None:
    first, second = descriptions.records(PACKAGES)
    assert first["Source"] == "gcc-12 (12.2.0-1)"
    assert first["Tag"] == "role::documentation,\n works-with::text"
    assert second == {"Package": "tree", "Version": "2.1.0-1"}


def test_lines_of_a_description_are_joined_unless_they_are_a_list() -> None:
    first = descriptions.summary(next(descriptions.records(TEXTS)))
    assert first == {
        "name": "gcc-12-doc",
        "synopsis": "documentation of the compilers",
        "description": "The manual, and its index.\n\nFormats:\n* info\n* html\nand no other.\n\nEnd.",
    }


def test_copies_and_packages_without_a_description_are_left_out_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = descriptions.distinct(map(descriptions.summary, descriptions.records(TEXTS)))
    assert [row["name"] for row in rows] == ["gcc-12-doc", "tree"]
    assert capsys.readouterr().out == "left out: 1 without a long description, 1 copies\n"


def test_packages_of_one_source_and_versions_of_it_fall_on_one_side() -> None:
    assert descriptions.family("gcc-12") == descriptions.family("gcc-11") != descriptions.family("gcl")


@pytest.fixture
def fake_apt(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt-get that knows one release, and apt-helper that prints a file."""
    (tmp_path / "packages").write_text(PACKAGES)
    (tmp_path / "texts").write_text(TEXTS)
    targets = f"Packages\tsid\t99\t{tmp_path}/packages\nTranslations\tsid\t99\t{tmp_path}/texts\n"
    monkeypatch.setattr(descriptions, "LISTS", tmp_path / "apt")
    monkeypatch.setattr(descriptions, "apt", lambda verb, *_: targets if verb == "indextargets" else "")
    monkeypatch.setattr(descriptions, "cat", lambda path: Path(path).read_text())


@pytest.mark.usefixtures("fake_apt")
def test_descriptions_are_written_with_the_release_that_they_are_of(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["descriptions.py"])
    descriptions.main()
    assert capsys.readouterr().out.startswith("sid 99\n")
    rows = read(prepared / "descriptions-train.jsonl") + read(prepared / "descriptions-test.jsonl")
    assert sorted(row["name"] for row in rows) == ["gcc-12-doc", "tree"]
    assert all(list(row) == ["name", "synopsis", "description"] for row in rows)


@pytest.mark.usefixtures("fake_apt")
def test_a_release_that_apt_does_not_know_is_named_with_those_it_knows() -> None:
    with pytest.raises(
        fetch.FetchError, match=r"--release potato: no package lists\. Fix: name one of apt's sources: sid\."
    ):
        descriptions.lists("potato")


def test_a_machine_without_apt_is_told_so() -> None:
    with pytest.raises(fetch.FetchError, match=r"no-such-apt is not installed\. Fix: run this on Debian or Ubuntu"):
        descriptions.run(["no-such-apt"])
    with pytest.raises(fetch.FetchError, match="ended with 3: broken"):
        descriptions.run([sys.executable, "-c", "import sys; print('broken', file=sys.stderr); sys.exit(3)"])


RECORD = {
    "Package": "tree",
    "Version": "2.1.0-1",
    "Maintainer": "Ann Example <ann@example.org>",
    "Section": "utils",
    "Architecture": "amd64",
    "Priority": "optional",
    "Installed-Size": "120",
    "Depends": "libc6 (>= 2.34), a | b, c:any, d",
    "Suggests": "forest",
}
TOLD = {"name": "tree", "synopsis": "draws a tree", "description": "Draws directories " + "and files " * 40}


def test_answers_stand_in_their_passage_and_some_questions_have_none() -> None:
    known = package_questions.facts(RECORD)
    assert known["depends"] == "libc6, a and c"
    assert "homepage" not in known
    seen = [fact for fact in package_questions.FACTS if fact not in package_questions.UNSEEN]
    made = [package_questions.question(TOLD, known, seen, random.Random(draw)) for draw in range(300)]
    rows = [row for row in made if row]
    answers = [row["answer"] for row in rows]
    assert {answer["text"] for answer in answers if answer} == {known[fact] for fact in seen if fact in known}
    assert sum(answer is None for answer in answers) == pytest.approx(60, abs=30)
    for row in rows:
        assert not {"optional", "forest"} & set(row["passage"].replace(".", "").split())
        if answer := row["answer"]:
            assert row["passage"][answer["start"] :].startswith(answer["text"])
        assert "$" not in row["question"] + row["passage"]


def test_packages_of_one_source_ask_on_one_side_and_facts_unseen_beside_the_test_alone() -> None:
    sides: dict[str, set[str]] = {}
    for number in range(200):
        for name in (f"p{number}", f"p{number}-doc"):
            record = {**RECORD, "Package": name, "Source": f"s{chr(97 + number % 26)}{chr(97 + number // 26)} (1)"}
            for split, asked in package_questions.splits(record):
                sides.setdefault(record["Source"], set()).add(split)
                assert (asked == package_questions.UNSEEN) == (split == "unseen")
    assert {tuple(sorted(each)) for each in sides.values()} == {("train",), ("validation",), ("test", "unseen")}


def test_a_long_description_is_cut_between_words() -> None:
    cut = package_questions.beginning(TOLD["description"])
    assert len(cut) <= package_questions.LONGEST + 2
    assert cut.endswith(("and …", "files …"))
    assert package_questions.beginning("short\nand whole.") == "short and whole."


def test_a_line_of_tagged_words_is_cut_into_sentences_behind_what_closes_them() -> None:
    found = list(peoples_daily.sentences("“/w 好/a ！/w ”/w １/2/m  来/v 。/w"))
    assert found == [
        {"words": ["“", "好", "！", "”"], "tags": ["w", "a", "w", "w"]},
        {"words": ["１/2", "来", "。"], "tags": ["m", "v", "w"]},
    ]
    assert peoples_daily.distinct([*found, found[0]]) == found


def test_a_word_gets_its_most_frequent_tag_and_an_unknown_one_that_of_rare_words() -> None:
    train = [{"words": ["a", "a", "a", "b"], "tags": ["v", "v", "n", "q"]}]
    test = [{"words": ["a", "b", "c", "a"], "tags": ["v", "q", "q", "n"]}]
    assert tags_baseline.accuracy(train, test) == 0.75


def test_the_first_two_turns_of_a_conversation_are_a_question_and_its_answer_and_copies_are_one() -> None:
    text = "categories: [x]\nconversations:\n- - How many?\n  - 42\n  - Thanks\n- - nobody answers\n- - how many\n  - '42.'\n"
    rows = chatterbot.pairs(text, "x.yml")
    assert rows == [{"question": "How many?", "answer": "42"}, {"question": "how many", "answer": "42."}]
    assert chatterbot.distinct(rows) == rows[:1]


def test_few_rows_are_so_many_of_each_label_whatever_their_order() -> None:
    rows = [{"text": f"post {number}", "label": "abc"[number % 3]} for number in range(60)]
    chosen = tables.few(rows, 4, text="text", label="label")
    assert sorted(row["label"] for row in chosen) == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    assert tables.few(rows[::-1], 4, text="text", label="label") == chosen
    assert tables.few(rows[:6], 4, text="text", label="label") == sorted(
        rows[:6], key=lambda row: tables.place(row["text"])
    )
    assert [row["text"] for row in chosen] != sorted(row["text"] for row in chosen)  # not the first that come


def test_a_conversation_has_one_part_and_copies_of_it_the_same() -> None:
    said = [
        [{"role": "user", "content": f"hello {number}"}, {"role": "assistant", "content": "hi"}]
        for number in range(500)
    ]
    parts = [chitchat.part_of(messages) for messages in said]
    swapped = [[{**message, "role": "user"} for message in messages] for messages in said]
    assert [chitchat.part_of(messages) for messages in swapped] == parts
    counts = [parts.count(part) for part in ("test", "train", "pretrain")]
    assert counts == [pytest.approx(50, abs=25), pytest.approx(50, abs=25), pytest.approx(400, abs=40)]


def test_what_a_person_sent_in_pieces_is_one_message() -> None:
    def piece(sender: str, text: str) -> dict[str, str]:
        return {"sender": sender, "text": text}

    turns = [[piece("x", "Hi "), piece("x", " "), piece("x", "there")], [piece("y", " ")], [piece("y", "Hello")]]
    assert chitchat.conversation({"messages": turns}) == [
        {"role": "user", "content": "Hi\nthere"},
        {"role": "assistant", "content": "Hello"},
    ]


def test_a_garment_moves_as_its_label_says_and_comes_in_again_where_it_left() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[0, 0] = 255
    for motion, there in (("north-east fast", (38, 39)), ("south slow", (1, 37)), ("west fast", (0, 35))):
        frames = moving_fashion.moving(image, motion, np.array([0, 37]))
        assert frames.shape == (8, 40, 40)
        assert [tuple(map(int, np.argwhere(frame)[0])) for frame in frames[:2]] == [(0, 37), there]
        assert frames.sum((1, 2)).tolist() == [255] * 8
    assert len(moving_fashion.MOTIONS) == 16


def test_a_unit_acts_as_the_last_word_of_its_files_says_and_its_frames_are_in_order() -> None:
    names = [f"orcs/grunt-se-attack-{number}.png" for number in (10, 9, 1)]
    names += [
        "orcs/grunt+female-defend-1.png",
        "orcs/grunt+female-defend-2.png",
        "orcs/grunt-die-1.png",
        "orcs/grunt.png",
    ]
    names += ["elves/lady-laugh-1.png", "elves/lady-laugh-2.png"]
    rows, left_out = sprites.clips(names)
    assert rows == [
        {"frames": names[3:5], "action": "defend", "unit": "orcs/grunt"},
        {"frames": names[2::-1], "action": "attack", "unit": "orcs/grunt"},
    ]
    assert left_out == 1


def test_a_sprite_stands_in_the_middle_of_its_field(tmp_path: Path) -> None:
    Image.new("RGBA", (10, 4), (255, 0, 0, 255)).save(tmp_path / "unit.png")
    pixels = np.asarray(Image.open(io.BytesIO(sprites.framed(tmp_path / "unit.png"))))
    assert pixels.shape == (96, 96, 3)
    found = np.argwhere((pixels == [255, 0, 0]).all(-1))
    assert (found.min(0).tolist(), found.max(0).tolist()) == ([46, 43], [49, 52])
    assert (pixels[0, 0] == 255).all()


def test_the_most_frequent_class_is_that_of_the_training_rows() -> None:
    assert majority_baseline.majority(["a", "b", "b"], ["a", "b", "a", "c"]) == 0.25
    assert majority_baseline.majority(["b", "a"], ["a"]) == 1.0
