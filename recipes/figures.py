"""Run every recipe as it stands and write down what it reached: docs/figures.md, and the tables of both READMEs.

    python recipes/figures.py                 # all of which anything has changed since: `make figures`
    python recipes/figures.py sentiment …     # these, in any case; the others keep their lines

A recipe's header says what it asks (`# asks: label.accuracy >= 0.96`, or `>= baseline`, or `>= baseline + 0.05`), what
computes the baseline (`# against: python …`, which prints {name: figure} last), what its data needs (`# data: python …`),
and whose run it begins with (`# after: dougong train …`). A recipe that only stands beside another one says
`# shows: label.accuracy`. Rows that are measured apart are named by `# apart: data/prepared/….jsonl`.

With each figure hashes are kept of what it follows from: the recipe's keys, dougong's code, the header's scripts, the data.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dougong
from dougong import recipe as recipes
from dougong.core.artefacts import read_json, write_file, write_json
from dougong.core.devices import cpu_name

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
KEPT = ROOT / "docs" / "figures.json"
PAGES = (ROOT / "docs" / "figures.md", ROOT / "README.md", ROOT / "README.zh-CN.md")
COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt}
Figures = dict[str, Any]


def main(names: list[str]) -> None:
    """Train the named recipes, or all that have changed, and write the table anew."""
    for path in in_order(FOLDER.glob("*.yaml")):
        header = path.read_text(encoding="utf-8")
        if (names and path.stem not in names) or not re.search("^# (asks|shows):", header, re.M):
            continue
        said(header, "data")
        follows = follows_from(path)
        if not names and kept().get(path.stem, {}).get("follows_from") == follows:
            print(f"{path.stem}: nothing has changed since its figure was written down", flush=True)
            continue
        if parent := comes_after(header):
            dougong.train(ROOT / parent)  # at once where its run is finished
        figure = {path.stem: reached(path, header) | {"follows_from": follows}}
        print(json.dumps(figure), flush=True)
        results = kept() | figure  # read now: others may have been written meanwhile
        write_json(KEPT, results)
        write_file(path, with_figure(header, figure[path.stem]).encode())
        for page in PAGES:
            write_table(page, results)


def kept() -> dict[str, Figures]:
    return read_json(KEPT) if KEPT.exists() else {}


def follows_from(path: Path) -> dict[str, str]:
    """Hashes of all that a recipe's figure follows from; of another's run that it begins with, all that this follows from."""
    header = path.read_text(encoding="utf-8")
    scripts = [ROOT / script for script in re.findall(r"^# (?:data|against): +python (\S+\.py)", header, re.M)]
    data = recipes.load(path).data
    apart = [FOLDER / other for other in re.findall(r"^# apart: +(\S+)", header, re.M)]
    found = {
        "recipe": hashed("\n".join(line for line in header.splitlines() if not line.startswith("#")).encode()),
        "code": hashed(*map(Path.read_bytes, (*sorted((ROOT / "dougong").rglob("*.py")), *scripts))),
        "data": hashed(*contents(path for path in (data.train, data.validation, data.test, *apart) if path)),
    }
    parent = comes_after(header)
    return found | {"after": hashed(json.dumps(follows_from(ROOT / parent)).encode())} if parent else found


def contents(sources: Iterable[Any]) -> Iterator[bytes]:
    """Of files, of all files of folders, and of what a pattern finds."""
    for source in sources:
        for each in source if isinstance(source, list | tuple) else (source,):
            place = Path(each)
            files = place.rglob("*") if place.is_dir() else place.parent.glob(place.name)
            yield from (file.read_bytes() for file in sorted(files) if file.is_file())


def hashed(*parts: bytes) -> str:
    """One hash of some bytes after others."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def in_order(paths: Iterable[Path]) -> list[Path]:
    """By name, those that begin with another's run behind all that do not."""
    return sorted(paths, key=lambda path: (comes_after(path.read_text(encoding="utf-8")) is not None, path))


def comes_after(header: str) -> str | None:
    """The recipe whose run this one begins with."""
    found = re.search(r"^# after: +dougong train (\S+)", header, re.M)
    return found and found[1]


def said(header: str, key: str) -> str:
    """What the script prints that a header names under `key`; nothing where it names none."""
    script = re.search(rf"^# {key}: +python (\S+(?: \S+\.yaml)?)", header, re.M)
    if script is None:
        return ""
    command = [sys.executable, *shlex.split(script[1])]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def reached(path: Path, header: str) -> Figures:
    """What one recipe reached, next to what it asks."""
    wanted = re.search(
        r"^# (?:asks|shows): +(\S+)(?: (>=|<=|<|>) ([\d.]+|baseline)(?: ([+-]) ([\d.]+))?)?", header, re.M
    )
    if wanted is None:
        raise SystemExit(f"{path}: write '# asks: output.metric >= 0.9' into its header")
    metric, sign, asked, *beyond = wanted.groups()
    printed = said(header, "against")
    baselines: dict[str, float] = json.loads(printed.splitlines()[-1]) if printed else {}
    if asked == "baseline":
        asked = floor(baselines, sign, *beyond)
    run = dougong.train(path, fresh=True)
    assert run.held_out is not None
    found = run.metrics()[run.held_out][metric]
    others = re.findall(r"^# apart: +(\S+)", header, re.M)
    apart = {Path(other).stem: dougong.evaluate(run, data=FOLDER / other).metrics[metric].to_json() for other in others}
    return {
        "metric": metric,
        "asked": f"{sign} {asked}" if sign else "",
        "baselines": baselines,
        "value": found["value"],
        "low": found["low"],
        "high": found["high"],
        "rows": found["rows"],
        "split": run.held_out,
        "apart": apart,
        "met": bool(COMPARE[sign](found["value"], float(asked))) if sign else None,
        "minutes": round(run.receipt["training"]["seconds"] / 60, 1),
        "machine": f"{cpu_name()}, {run.receipt['machine']['device'].rsplit(', ', 1)[-1]}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def floor(baselines: dict[str, float], sign: str, way: str | None, margin: str | None) -> str:
    """What `baseline + 0.05` is: the best of them, and so much more."""
    best = (max if ">" in sign else min)(baselines.values())
    return f"{best + float((way or '+') + (margin or '0')):.4f}"


def with_figure(header: str, found: Figures) -> str:
    """The recipe with its line `# reached: …` as the figure now is."""
    mark = ", not met" if found["met"] is False else ""
    value = f"{found['metric']} {found['value']:.4f} (95 % {found['low']:.4f} to {found['high']:.4f}){mark}"
    line = f"# reached: {value}, in {found['minutes']} minutes of training"
    for other, each in found.get("apart", {}).items():
        line += f"\n# reached: {found['metric']} {each['value']:.4f} (95 % {each['low']:.4f} to {each['high']:.4f}) on {other}"
    without = re.sub(r"^# reached:.*\n", "", header, flags=re.M)
    return re.sub(r"^(# run: .*\n)", lambda run: f"{run[1]}{line}\n", without, count=1, flags=re.M)


def told(found: Figures) -> str:
    return f"{found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def write_table(page: Path, results: dict[str, Figures]) -> None:
    """Put the table between the marks `<!-- figures -->` and `<!-- /figures -->`."""
    lines = ["| recipe | asks | reached (95 % interval) | rows | training |", "|---|---|---|---|---|"]
    for name, found in sorted(results.items()):
        asks = f"`{found['metric']}` {found['asked']}".strip()
        link = f"[{name}]({'../' if page.parent.name == 'docs' else ''}recipes/{name}.yaml)"
        mark = " — not met" if found["met"] is False else ""
        minutes = f"{found['minutes']} min"
        lines.append(f"| {link} | {asks} | {told(found)}{mark} | {found['rows']:,} {found['split']} | {minutes} |")
        for other, each in found.get("apart", {}).items():
            lines.append(f"| {link} | `{found['metric']}` | {told(each)} | {each['rows']:,} {other} | |")
    table = "\n".join(lines)
    text = page.read_text(encoding="utf-8") if page.exists() else "# Figures\n\n<!-- figures -->\n<!-- /figures -->\n"
    whole = f"<!-- figures -->\n{table}\n<!-- /figures -->"
    write_file(page, re.sub("<!-- figures -->.*?<!-- /figures -->", lambda _: whole, text, flags=re.S).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
