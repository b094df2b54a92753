"""Passages about packages and questions about them, both built -> package-questions-{train,validation,test,unseen}.jsonl.

    python recipes/data/package_questions.py [--release bookworm]

The columns are question, passage and answer: {text, start} of the passage, or null where the passage does not tell. No
person wrote these: a passage is some of the facts of a package's record (descriptions.py has the lists), each in one of
several sentences, in any order, among its synopsis and the beginning of its description; a question asks for one fact in
one of several wordings. So the packages of the test are new, and its wordings are not. Facts of UNSEEN are never told nor
asked in training: `unseen` holds the same packages as the test, and asks for those alone.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence

import descriptions
import tables
from descriptions import Record

# fact -> (sentences that tell it, questions that ask for it); $n the package, $v the value
FACTS: dict[str, tuple[list[str], list[str]]] = {
    "version": (
        ["The version of $n is $v.", "It is packaged in version $v.", "What is described here is release $v."],
        ["Which version of $n is it?", "What is the version of $n?", "Which release of $n is described?"],
    ),
    "maintainer": (
        ["$n is maintained by $v.", "Its maintainer is $v.", "$v takes care of the package."],
        ["Who maintains $n?", "Who is the maintainer of $n?", "By whom is $n maintained?"],
    ),
    "address": (
        ["Mail about it goes to $v.", "Write to $v with questions.", "The address for reports on $n is $v."],
        ["Where does mail about $n go?", "What is the address for questions about $n?", "Whom do I write to about $n?"],
    ),
    "section": (
        ["It belongs to the section $v.", "$n stands in the section $v.", "One finds it under $v."],
        ["Which section does $n belong to?", "In which section is $n?", "Under what is $n filed?"],
    ),
    "homepage": (
        ["More stands at $v.", "The homepage of $n is $v.", "Upstream lives at $v."],
        ["What is the homepage of $n?", "Where on the web is $n?", "At which site is there more about $n?"],
    ),
    "installed": (
        ["Installed it takes $v kB.", "$n needs $v kB on the disk.", "After installation it occupies $v kB."],
        [
            "How many kB does $n take when it is installed?",
            "How large is $n on the disk?",
            "How much space does $n need?",
        ],
    ),
    "source": (
        ["It is built from the source $v.", "Its source package is called $v.", "$n comes out of the source $v."],
        ["What is the source package of $n?", "Which source is $n built from?", "Out of which source does $n come?"],
    ),
    "architecture": (
        ["It is made for the architecture $v.", "The architecture of $n is $v.", "This build is for $v machines."],
        ["Which architecture is $n for?", "What machines is $n made for?", "What is the architecture of $n?"],
    ),
    "depends": (
        ["It depends on $v.", "$n needs $v to run.", "Without $v it does not work."],
        ["What does $n depend on?", "Which packages does $n need?", "What are the dependencies of $n?"],
    ),
    "priority": (
        ["Its priority is $v.", "The priority $v was given to $n.", "It is ranked as $v."],
        ["What is the priority of $n?", "Which priority does $n have?", "How is $n ranked?"],
    ),
    "suggests": (
        ["It suggests $v.", "$n goes well with $v.", "Next to it one may want $v."],
        ["What does $n suggest?", "Which packages go well with $n?", "What may one want next to $n?"],
    ),
}
UNSEEN = ("priority", "suggests")
TOLD = 5  # facts of a passage, at most
UNTOLD = 0.2  # share of the questions whose answer the passage leaves out
LONGEST = 200  # characters of the description
Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", help="code name; the first one in apt's sources unless given")
    packages, texts = descriptions.lists(parser.parse_args().release)
    known = {record["Package"]: record for record in descriptions.records(packages)}
    summaries = descriptions.distinct(map(descriptions.summary, descriptions.records(texts)))
    rows: dict[str, list[Row]] = {"train": [], "validation": [], "test": [], "unseen": []}
    for told in summaries:
        if record := known.get(told["name"]):
            for split, asked in splits(record):
                if row := question(told, facts(record), asked, random.Random(f"{split} {told['name']}")):
                    rows[split].append(row)
    for split, found in rows.items():
        untold = sum(row["answer"] is None for row in found)
        print(f"{split}: {untold:,} of {len(found):,} questions have no answer")
        tables.write_jsonl(f"package-questions-{split}.jsonl", found)


def splits(record: Record) -> Iterator[tuple[str, Sequence[str]]]:
    """Where a package's questions go, and for which facts they ask: all packages of a source go the same way."""
    source = descriptions.family(facts(record)["source"])
    seen = [fact for fact in FACTS if fact not in UNSEEN]
    if tables.in_test(source):
        yield "test", seen
        yield "unseen", UNSEEN
    else:
        yield "validation" if tables.in_test(f"validation {source}", 0.05) else "train", seen


def facts(record: Record) -> dict[str, str]:
    """What a package's record tells, as a sentence can say it."""
    name, _, address = record["Maintainer"].partition(" <")
    found = {
        "version": record["Version"],
        "maintainer": name.strip('"'),
        "address": address.rstrip(">"),
        "section": record["Section"],
        "homepage": record.get("Homepage", ""),
        "installed": record.get("Installed-Size", ""),
        "source": record.get("Source", record["Package"]).split()[0],
        "architecture": record["Architecture"],
        "depends": names(record.get("Depends", "")),
        "priority": record["Priority"],
        "suggests": names(record.get("Suggests", "")),
    }
    return {fact: value for fact, value in found.items() if value}


def names(relation: str) -> str:
    """The first three packages of a list, without versions: `a, b and c`."""
    found = list(dict.fromkeys(re.findall(r"(?:^|, )([^\s,|(:]+)", relation)))[:3]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def question(told: Record, known: dict[str, str], asked: Sequence[str], draw: random.Random) -> Row | None:
    """A passage and a question, drawn at random; none where a package has nothing of what is to be asked for."""
    fact = draw.choice(asked)
    answered = draw.random() >= UNTOLD
    if answered and fact not in known:
        return None
    others = [each for each in known if each != fact and (each in asked or each not in UNSEEN)]
    chosen = draw.sample(others, min(len(others), draw.randint(2, TOLD) - answered)) + [fact] * answered
    passage, start = composed(told, {each: known[each] for each in chosen}, fact, draw)
    answer = {"text": known[fact], "start": start} if answered else None
    asking = draw.choice(FACTS[fact][1]).replace("$n", told["name"])
    return {"question": asking, "passage": passage, "answer": answer}


def composed(told: Record, chosen: dict[str, str], fact: str, draw: random.Random) -> tuple[str, int]:
    """The passage, and where in it the value of `fact` begins; -1 where it does not stand there."""
    pieces = [("", beginning(told["description"]), "", "")]
    for each, value in chosen.items():
        before, _, after = draw.choice(FACTS[each][0]).replace("$n", told["name"]).partition("$v")
        pieces.append((each, before, value, after))
    draw.shuffle(pieces)
    passage, start = f"{told['name']}: {told['synopsis'].rstrip('.')}.", -1
    for each, before, value, after in pieces:
        if each == fact:
            start = len(passage) + 1 + len(before)
        passage += f" {before}{value}{after}"
    return passage, start


def beginning(description: str) -> str:
    """The first words of a description, up to LONGEST characters; a line break is a space."""
    words = " ".join(description.split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST].rpartition(' ')[0]} …"


if __name__ == "__main__":
    main()
