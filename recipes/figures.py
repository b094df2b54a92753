"""Run every recipe as it stands and write down what it reached: docs/figures.md, and the tables of both READMEs.

    python recipes/figures.py                 # all of them: `make figures`
    python recipes/figures.py sentiment …     # these; the others keep their lines

A recipe's header says what it asks (`# asks: label.accuracy >= 0.96`) and what its data needs (`# data: python …`).
"""

from __future__ import annotations

import json
import operator
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dougong
from dougong.core.artefacts import read_json, write_file, write_json
from dougong.core.devices import cpu_name

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
KEPT = ROOT / "docs" / "figures.json"
PAGES = (ROOT / "docs" / "figures.md", ROOT / "README.md", ROOT / "README.zh-CN.md")
COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt}


def main(names: list[str]) -> None:
    """Train the named recipes (all unless named) and write the table anew."""
    results = read_json(KEPT) if KEPT.exists() else {}
    for path in sorted(FOLDER.glob("*.yaml")):
        header = path.read_text(encoding="utf-8")
        if (names and path.stem not in names) or "# asks:" not in header:
            continue
        if script := re.search(r"^# data: +python (\S+)", header, re.M):
            subprocess.run([sys.executable, *shlex.split(script[1])], check=True, cwd=ROOT)
        results[path.stem] = reached(path, header)
        print(json.dumps({path.stem: results[path.stem]}), flush=True)
        write_json(KEPT, results)
        for page in PAGES:
            write_table(page, results)


def reached(path: Path, header: str) -> dict[str, object]:
    """What one recipe reached, next to what it asks."""
    asked = re.search(r"^# asks: +(\S+) (>=|<=|<|>) ([\d.]+)", header, re.M)
    if asked is None:
        raise SystemExit(f"{path}: write '# asks: output.metric >= 0.9' into its header")
    run = dougong.train(path, fresh=True)
    split, metrics = next(iter(run.metrics().items()))
    found = metrics[asked[1]]
    return {
        "metric": asked[1],
        "asked": f"{asked[2]} {asked[3]}",
        "value": found["value"],
        "low": found["low"],
        "high": found["high"],
        "rows": found["rows"],
        "split": split,
        "met": bool(COMPARE[asked[2]](found["value"], float(asked[3]))),
        "minutes": round(run.receipt["training"]["seconds"] / 60, 1),
        "machine": f"{cpu_name()}, {run.receipt['machine']['device'].rsplit(', ', 1)[-1]}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_table(page: Path, results: dict[str, dict[str, object]]) -> None:
    """Put the table between the marks `<!-- figures -->` and `<!-- /figures -->`."""
    lines = ["| recipe | asks | reached (95 % interval) | rows | training |", "|---|---|---|---|---|"]
    for name, found in sorted(results.items()):
        value = f"{found['value']:.4f} ({found['low']:.4f} to {found['high']:.4f})"
        mark = "" if found["met"] else " — not met"
        lines.append(
            f"| [{name}]({'../' if page.parent.name == 'docs' else ''}recipes/{name}.yaml) | `{found['metric']}` {found['asked']} "
            f"| {value}{mark} | {found['rows']:,} {found['split']} | {found['minutes']} min |"
        )
    table = "\n".join(lines)
    text = page.read_text(encoding="utf-8") if page.exists() else "# Figures\n\n<!-- figures -->\n<!-- /figures -->\n"
    write_file(
        page,
        re.sub(
            r"<!-- figures -->.*?<!-- /figures -->",
            lambda _: f"<!-- figures -->\n{table}\n<!-- /figures -->",
            text,
            flags=re.S,
        ).encode(),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
