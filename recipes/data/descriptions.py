"""What a distribution's packages say of themselves, at length and in a line -> descriptions-{train,test}.jsonl.

    python recipes/data/descriptions.py [--release bookworm]

The columns are name, synopsis and description, of the package lists that this machine's apt reads (on Debian and Ubuntu:
needs apt-get and apt-helper, no root). The lists are fetched anew into a folder of their own; another release gives other
rows, so its name and version are printed. Split by source package, whose packages often share whole paragraphs; a text that
several sources share stands on one side. Mixed free licences: fetched, never shipped.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator

import fetch
import tables

HELPER = "/usr/lib/apt/apt-helper"
LISTS = fetch.DOWNLOADS / "apt"
TARGET = "$(IDENTIFIER)\t$(CODENAME)\t$(VERSION)\t$(FILENAME)"
Record = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", help="code name; the first one in apt's sources unless given")
    packages, texts = lists(parser.parse_args().release)
    sources = {record["Package"]: record.get("Source", record["Package"]).split()[0] for record in records(packages)}
    rows = distinct(map(summary, records(texts)))
    home: dict[str, str] = {}
    for row in rows:
        home.setdefault(row["description"], family(sources.get(row["name"], row["name"])))
    tables.split_jsonl("descriptions", rows, key=lambda row: home[row["description"]])


def lists(release: str | None) -> tuple[str, str]:
    """A release's list of packages and that of their English descriptions, fetched and checked by apt."""
    (LISTS / "partial").mkdir(parents=True, exist_ok=True)
    apt("update", "-qq")
    targets = [line.split("\t") for line in apt("indextargets", "--format", TARGET).splitlines()]
    release = release or targets[0][1]
    found = {kind: (version, path) for kind, name, version, path in reversed(targets) if name == release}
    if not {"Packages", "Translations"} <= set(found):
        known = ", ".join(dict.fromkeys(name for _, name, _, _ in targets))
        raise fetch.FetchError(f"--release {release}: no package lists. Fix: name one of apt's sources: {known}.")
    print(f"{release} {found['Packages'][0]}")
    return cat(found["Packages"][1]), cat(found["Translations"][1])


def apt(*arguments: str) -> str:
    """What apt-get prints, with lists of its own: those of the machine need root, and may leave descriptions out."""
    options = [f"Dir::State::lists={LISTS}", f"Dir::Cache={LISTS}", "Acquire::Languages=en"]
    command = ["apt-get", *arguments, *(part for option in options for part in ("-o", option))]
    return run(command)


def cat(path: str) -> str:
    """A list, which apt may keep compressed."""
    return run([HELPER, "cat-file", path])


def run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    except FileNotFoundError:
        raise fetch.FetchError(f"{command[0]} is not installed. Fix: run this on Debian or Ubuntu.") from None
    if done.returncode:
        said = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise fetch.FetchError(f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.stdout


# -------------------------------------------------------------------------------------------------------------- reading


def records(text: str) -> Iterator[Record]:
    """The fields of each paragraph of a Debian control file; lines that go on begin with a space."""
    for paragraph in re.split(r"\n{2,}", text):
        record: Record = {}
        key = ""
        for line in paragraph.splitlines():
            if line.startswith((" ", "\t")):
                record[key] += f"\n{line}"
            else:
                key, _, value = line.partition(":")
                record[key] = value.strip()
        if record:
            yield record


def summary(record: Record) -> Record:
    synopsis, _, description = record["Description-en"].partition("\n")
    return {"name": record["Package"], "synopsis": synopsis.strip(), "description": paragraphs(description)}


def paragraphs(description: str) -> str:
    """The text of a long description (Debian Policy 5.6.13): lines are joined, unless they stand as they are written.

    A line that holds a dot alone parts paragraphs; one that begins with two spaces is a list or a table.
    """
    text = ""
    joined = False
    for line in description.splitlines():
        words = line.strip()
        verbatim = line.startswith(("  ", " \t"))
        if words == ".":
            text, joined = f"{text.rstrip()}\n\n", False
        else:
            text += (
                f" {words}" if joined and not verbatim else words if text.endswith("\n\n") or not text else f"\n{words}"
            )
            joined = not verbatim
    return text.strip()


def family(source: str) -> str:
    """A source package without its version: gcc-11 and gcc-12 say the same of themselves."""
    return re.sub(r"[\d.]+", "", source)


def distinct(rows: Iterator[Record]) -> list[Record]:
    """Each pair of description and synopsis once, of those that have both; what is left out is counted and told."""
    first: dict[tuple[str, str], Record] = {}
    bare = copies = 0
    for row in rows:
        if not row["synopsis"] or not row["description"]:
            bare += 1
        elif first.setdefault((row["description"], row["synopsis"]), row) is not row:
            copies += 1
    print(f"left out: {bare:,} without a long description, {copies:,} copies")
    return list(first.values())


if __name__ == "__main__":
    main()
