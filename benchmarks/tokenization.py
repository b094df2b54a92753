"""Text to shards, and training a tokenizer: dougong and its peers on the same text, interleaved, memory of all processes.

    benchmarks/setup.sh                                      # once: the peers' environments
    .venv/bin/python -m benchmarks.tokenization --mb 100 --repeats 3
    .venv/bin/python -m benchmarks.tokenization --mb 2 --repeats 1 --dry       # tries everything, keeps nothing

The text is made of the lines that ship with dougong, in another order, with new words; the same on every machine. All that
encode do it with the same tokenizer.json, and the numbers of their tokens are compared before anything is said of speed.
Timed is the work alone, without imports. (Not called tokenize.py: that is a module of Python.)

Trials that mattered, what was predicted and what came out:
    as it was, 100 MB, beside datasets' 47.7 s: 74.2 s and 890 MB; the training 19.1 s beside sentencepiece's 12.5
    finished tokenizers word by word     predicted half: 20 MB in one process 18.5 -> 8.9 s, of which 5.9 s less for not decoding
                                         again what is known to lose nothing
    words cut and counted by Arrow       predicted a third of Python's split and look-ups: 8 MB 1.5 -> 0.26 s
    new words straight to the model      predicted a half: 18 us a word by the library's pipeline, 4 by its model alone
    processes without torch              predicted 2 s and 200 MB: 890 -> 430 MB; `dougong check` 2.6 -> 0.9 s
    one core for each process's words    TOKENIZERS_PARALLELISM=false there: 19.9 -> 16.2 s, before new words left the pipeline
    paragraphs cut at empty lines at     predicted 2 s of 16: within the noise (17.1 s beside datasets' 37.2; before, in three
      once, not line by line             rounds, 16.1 beside 46.4). What the other processes do decides, not the reading
    words remembered, 2^16, 17, 18       21, 19.5, 18.2 s; 2^17 for the sake of memory
    new words all at once                predicted a third of the encoding: their parts are cut by one expression over all of
                                         them, looked up together, tokens kept flat: 12 -> 6.4 us a word, 100 MB 19.9 -> 13.5 s
    the same by the library, joined      no: 5.3 us a word for 8.3 of the model by Python at that time, and words that begin a
      to long texts                      line must not be joined
    a search for blank lines that begins predicted 1.5 s of CPU: 20 MB 0.40 -> 0.03 s (an alternative in front made it slow)
      with a line's end
    the same processes for both steps    predicted 0.7 s: to start them and load what they need took longer; 13.1 -> 10.5 s
    tokenizer trained on counted words   predicted a half: 40 MB 14.4 -> 8.2 s, the same tokenizer to the byte; of more than two
                                         million words in proportion: 50 M characters 8.8 s beside sentencepiece's 12.6
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks import contest, table
from benchmarks.contest import OURS, PEERS, Contestant, Result
from benchmarks.data import WORK, text_file, tokenizer_file

ENCODERS = {"dougong": OURS, "datasets": PEERS, "tokenizers": PEERS}
TRAINERS = {"dougong": OURS, "sentencepiece": PEERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=100.0, help="size of the text")
    parser.add_argument("--tasks", default="encode,train", help="encode, train, or both")
    parser.add_argument("--vocab", type=int, default=16_384, help="of the tokenizer that is trained")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="keep no results")
    arguments = parser.parse_args()
    tokenizer, end = tokenizer_file()
    job = {"text": str(text_file(arguments.mb)), "tokenizer": str(tokenizer), "end": end, "vocab_size": arguments.vocab}
    kinds = {"encode": ENCODERS, "train": TRAINERS}
    wanted = [(task, name) for task in arguments.tasks.split(",") for name in kinds[task]]

    contest.warn_if_busy()
    shared = contest.circumstances() | {"benchmark": "tokenization", "megabytes": arguments.mb}
    answers: dict[tuple[str, str], list[Result]] = {}
    for _ in range(arguments.repeats):
        for task, name in wanted:
            answers.setdefault((task, name), []).extend(once(task, name, kinds[task][name], job))
    results = [shared | summary(task, name, found) for (task, name), found in answers.items() if found]
    print()
    print(table.tokenizing(results))
    wrong = [f"{task} {name}: no result" for (task, name), found in answers.items() if not found] + unequal(results)
    contest.end(results, wrong, dry=arguments.dry)


def once(task: str, name: str, python: Path, job: Result) -> list[Result]:
    """One answer, or none; what it writes goes to a folder that is thrown away."""
    print(f"{task}: {name}")
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        told = json.dumps(job | {"folder": folder})
        module = f"benchmarks.peers.{task}_{name}"
        environment = {"HF_HOME": folder}  # the cache of datasets, too
        one = Contestant(f"{task} {name}", module, python, (told,), environment)
        try:
            return [contest.run(one, watch_tree=True)]
        except contest.Failed as error:
            print(error)
            return []


def summary(task: str, name: str, answers: list[Result]) -> Result:
    """The result of one contestant: medians over the rounds."""
    last, seconds = answers[-1], contest.median(answers, "seconds")
    result = {
        "task": task,
        "contestant": name,
        "label": name,
        "seconds": seconds,
        "rounds": [answer["seconds"] for answer in answers],
        "tree_memory": contest.median(answers, "tree_memory"),
        "cores": os.cpu_count(),
        "versions": last["versions"],
    }
    if task == "encode":
        return result | {"tokens": last["tokens"], "tokens_per_second": last["tokens"] / seconds}
    return result | {"characters": last["characters"], "vocab_size": last["vocab_size"]}


def unequal(results: list[Result]) -> list[str]:
    """Those that made another number of tokens than the rest have not done the same work."""
    counts = {result["label"]: result["tokens"] for result in results if result["task"] == "encode"}
    told = ", ".join(f"{label} {count:,}" for label, count in counts.items())
    return [f"numbers of tokens differ: {told}"] if len(set(counts.values())) > 1 else []


if __name__ == "__main__":
    main()
