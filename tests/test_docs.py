"""The pages say what the program does: every key of every config stands on its page, with its default, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dougong import backbones, fields
from dougong.core.config import adapter, parse_yaml

DOCS = Path(__file__).parents[1] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .*\|$")
COMMON = {"type", "column", "weight", "kind", "init"}  # told once, on recipe.md
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")


def tables(path: Path) -> dict[str, dict[str, str]]:
    """Section of a page -> key -> default, of the tables whose columns are key, type, default, meaning."""
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ").strip()
        if match := ROW.match(line.replace(r"\|", "¦")):
            found.setdefault(section, {})[match[1]] = match[3].replace("¦", "|")
    return found


def defaults(config: Any) -> dict[str, Any]:
    """Key -> default (plain), None where there is none; `...` where the key is required."""
    properties = adapter(config).json_schema().get("properties", {})
    return {key: each.get("default", ...) for key, each in properties.items()}


def check(told: dict[str, str], config: Any, but: set[str] = frozenset()) -> None:
    expected = {key: value for key, value in defaults(config).items() if key not in but}
    assert told.keys() - but == expected.keys()
    for key, value in expected.items():
        shown = re.fullmatch(r"`(.*)`", told[key])
        if shown is None:  # said in words: nothing, as below, by data …
            assert value is None or value is ... or isinstance(value, dict | list), f"{key}: {told[key]}"
            continue
        written = parse_yaml(f"value: {shown[1]}", "page")[0]["value"]
        assert written == (value["kind"] if isinstance(value, dict) else value), key


def test_the_recipe_page_tells_every_key_of_data_and_train() -> None:
    from dougong.data import cleaning, prepare
    from dougong.layers import losses
    from dougong.training import loop

    page = tables(DOCS / "recipe.md")
    check(page["data"], prepare.Config)
    check(page["data.cleaning"], cleaning.Config)
    check(page["train"], loop.Config)
    check(page["train.loss"], losses.Loss)


@pytest.mark.parametrize("name", fields.names())
def test_each_type_has_a_page_with_all_its_keys(name: str) -> None:
    page = tables(DOCS / "fields" / f"{name}.md")
    check(page[name], fields.load(name).Config, COMMON)
    if name == "image":
        check(page["augment"], fields.load(name).Augment)


@pytest.mark.parametrize("name", backbones.names())
def test_the_backbone_page_tells_every_key_and_preset(name: str) -> None:
    module = backbones.load(name)
    check(tables(DOCS / "backbones.md")[name], module.Config, COMMON)
    section = (DOCS / "backbones.md").read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert [preset for preset in module.PRESETS if f"`{preset}`" not in section] == []


@pytest.mark.parametrize(("page", "part"), [("recipe.md", "train.optimizer"), ("recipe.md", "train.schedule")])
def test_the_kinds_and_defaults_of_optimizers_and_schedules_are_those_of_the_code(page: str, part: str) -> None:
    from dougong.training import optimizers, schedules

    union = optimizers.OptimizerConfig if part.endswith("optimizer") else schedules.ScheduleConfig
    section = (DOCS / page).read_text(encoding="utf-8").split(f"\n### {part}\n")[1].split("\n### ")[0]
    told = {}
    for line in section.splitlines():
        if match := re.match(r"\| `(\w+)` \| (.*?) \|", line):
            told[match[1]] = parse_yaml("\n".join(re.findall(r"`(\w+: .+?)`", match[2])), page)[0]
    definitions = adapter(union).json_schema()["$defs"].values()
    wanted = {
        each["properties"]["kind"]["const"]: {
            key: value["default"] for key, value in each["properties"].items() if key != "kind"
        }
        for each in definitions
        if "kind" in each.get("properties", {})
    }
    assert told == wanted


PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(DOCS.parent.glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(DOCS.parent)) for path in PAGES])
def test_every_link_leads_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, anchor


def test_both_readmes_hold_the_same_recipe_and_commands() -> None:
    def code(path: Path) -> list[str]:
        blocks = re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        return [re.sub(r"\s+#.*", "", block) for block in blocks if "cli.py" not in block]

    blocks = code(DOCS.parent / "README.md")
    assert blocks
    assert code(DOCS.parent / "README.zh-CN.md") == blocks
