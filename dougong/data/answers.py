"""Answers that stand in a text: as data files write them, and where in their passage they stand.

A data file holds nothing (null, "", []) where the passage has no answer; the text of one, {text, start}, a list of right
answers, or SQuAD's own {"text": [...], "answer_start": [...]} (Rajpurkar et al. 2016, arXiv:1606.05250). Of several the
first is learnt, and all judge. `start` counts characters of the passage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dougong.core.errors import shown
from dougong.data.json_lines import JSON
from dougong.data.records import Unreadable

EXPECTED = (
    'a text of the passage, {text, start}, {"text": […], "answer_start": […]}, or nothing where there is no answer'
)


class Answer(dict[str, Any]):
    """{texts, start, times}: all right texts, none where the passage has no answer; and the place of the first of them.

    `start` is None as long as nobody has said; `times`: how often it stands in the passage, where that had to be found.
    """


def read(value: object, clean: Callable[[str], str] = str) -> Answer:
    """An answer as a data file holds it, its texts passed through `clean`. ValueError says what it should be."""
    if isinstance(value, Answer):
        return value
    said, starts = _parts(_from_json(value) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value)
    texts = [text for text in said if isinstance(text, str)]
    if len(texts) < len(said):
        raise ValueError(f"expected {EXPECTED}")
    start = starts[0] if starts else None
    if start is not None and (not isinstance(start, int) or isinstance(start, bool) or start < 0):
        raise ValueError(f"expected a start in characters, from 0, found {shown(start)}")
    first = clean(texts[0]) if texts else ""
    kept = [text for text in dict.fromkeys(clean(text).strip() for text in texts) if text]
    if not kept or not first.strip():
        return Answer(texts=[], start=None, times=1)
    if start is not None:
        start += len(first) - len(first.lstrip())
    return Answer(texts=kept, start=start, times=1)


def _parts(value: object) -> tuple[list[object], list[object]]:
    """Texts and starts, of all or of none."""
    if value is None or isinstance(value, str):
        return [value or ""], []
    if isinstance(value, dict) and "text" in value and value.keys() <= {"text", "start", "answer_start"}:
        texts, start = value["text"], value.get("answer_start", value.get("start"))
        texts = texts if isinstance(texts, list) else [texts]
        starts = start if isinstance(start, list) else [] if start is None else [start]
        if len(starts) not in (0, len(texts)):
            raise ValueError(f"expected a start for each text, found {len(starts)} for {len(texts)}")
        return texts, starts
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):  # SQuAD's file has them one by one
        pairs = [_parts(each) for each in value]
        return [text for texts, _ in pairs for text in texts], [start for _, starts in pairs for start in starts]
    if isinstance(value, list):
        return value, []
    raise ValueError(f"expected {EXPECTED}")


def _from_json(text: str) -> object:
    """What is written as JSON; a text that only looks like it, `[1]` say, is a text."""
    try:
        value = JSON.decode(text.strip())
    except (ValueError, RecursionError, Unreadable):
        return text
    return value if isinstance(value, dict) or not value or isinstance(value[0], str | dict) else text


def placed(answer: Answer, passage: str | None) -> Answer:
    """The answer with its place in the passage. ValueError where it does not stand there."""
    if not answer["texts"]:
        return answer
    text, start = answer["texts"][0], answer["start"]
    if not passage or passage.isspace():
        raise ValueError(f"the answer {shown(text)} has an empty passage; write null where there is none")
    if start is not None and passage.startswith(text, start):
        return answer
    found = places(text, passage)
    if not found:
        raise ValueError(f"the answer {shown(text)} is not in the passage")
    if start is None:
        return Answer(texts=answer["texts"], start=found[0], times=len(found))
    nearest = min(found, key=lambda place: abs(place - start))
    raise ValueError(
        f"the answer {shown(text)} does not stand at character {start:,} of the passage, but at {nearest:,}: "
        f"write start: {nearest}"
    )


def places(text: str, passage: str) -> list[int]:
    """Where a text begins in a passage, in rising order; two places may overlap."""
    found = []
    place = passage.find(text)
    while place >= 0:
        found.append(place)
        place = passage.find(text, place + 1)
    return found
