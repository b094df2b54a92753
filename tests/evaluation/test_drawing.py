"""Boxes drawn on pictures: safe with hostile labels, and where they are."""

from __future__ import annotations

from html.parser import HTMLParser

from dougong.evaluation.drawing import Drawn, svg
from dougong.evaluation.report import ReportContent, render

HOSTILE = "</text><script>alert('x')</script>"
DRAWN = Drawn(b"\x89PNG", (48, 64), [((10, 20, 30, 40.04), HOSTILE, 0.876)], [((11, 21, 31, 41), "cat")])


def tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    found: list[tuple[str, dict[str, str | None]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attrs)))

    Parser().feed(html)
    return found


def test_boxes_lie_in_the_pixels_of_the_picture() -> None:
    found = tags(svg(DRAWN))
    assert found[0][1]["viewbox"] == "0 0 64 48"
    rectangles = [attributes for tag, attributes in found if tag == "rect"]
    assert [(each["class"], each["x"], each["y"], each["width"], each["height"]) for each in rectangles] == [
        ("right", "11.0", "21.0", "20.0", "20.0"),
        ("told", "10.0", "20.0", "20.0", "20.0"),
    ]
    assert "0.88" in svg(DRAWN)


def test_a_label_stays_text_and_only_a_report_with_pictures_may_show_them() -> None:
    page = render(ReportContent(name="x", samples=[{"drawn": DRAWN}]))
    assert "script" not in [tag for tag, _ in tags(page)]
    assert "img-src data:" in page
    assert "img-src" not in render(ReportContent(name="x", samples=[{"input": "a", "prediction": "b", "target": "c"}]))


def test_names_lie_in_the_picture_and_none_on_another() -> None:
    near = [((40.0, 20.0 + step, 60.0, 40.0), "a tree", 0.5 + step / 10) for step in range(3)]
    far = [((2.0, 45.0, 9.0, 47.0), "a cat", 0.3)]
    names = [attributes for tag, attributes in tags(svg(Drawn(b"", (48, 64), near + far, []))) if tag == "text"]
    assert len(names) == 2
    assert "a tree 0.70" in svg(Drawn(b"", (48, 64), near + far, []))  # the surest
    letter = 64 / 24
    assert float(str(names[0]["x"])) + 0.62 * letter * len("a tree 0.70") <= 64 + 0.1
    assert all("tree" in title for title in svg(Drawn(b"", (48, 64), near, [])).split("<title>")[1:])


def test_where_many_boxes_have_one_name_it_is_said_by_their_titles_alone() -> None:
    rows = [((5.0 * place, 20.0, 5.0 * place + 4, 40.0), "tree", 0.5) for place in range(12)]
    drawn = svg(Drawn(b"", (200, 200), rows, []))
    assert ">0.50</text>" in drawn
    assert "tree 0.50</text>" not in drawn
    assert drawn.count("<title>tree 0.50</title>") == 12
