"""A preparation in a process of its own, to be killed, raced or measured.

prepare_child.py FILE CACHE WORKERS [ROWS]   does one, ROWS rows a part
prepare_child.py                             forks one for each line of standard input, for imports take longer than the
                                             work: [seconds until its kill or null, [arguments]]; it says how each ended
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from dougong.core.config import read
from dougong.core.errors import DougongError
from dougong.data import prepare, rows
from dougong.fields import category, number, text


def used() -> list[prepare.Used]:
    small = read(text.Config, {"tokenizer": {"kind": "bpe", "vocab_size": 300}})[0]
    return [
        prepare.Used("text", small, False, text),
        prepare.Used("size", number.Config(), False, number),
        prepare.Used("label", category.Config(), True, category),
    ]


def main(file: str, cache: str, workers: str, chunk_rows: str = "20000") -> None:
    rows.CHUNK_ROWS = int(chunk_rows)  # small data in many parts
    config = prepare.Config(train=file, cache=cache)
    fields = used() if Path(file).suffix == ".csv" else [prepare.Used("text", text.Config(), True, text)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        prepared = prepare.prepare(config, fields, workers=int(workers))
    except DougongError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(error.exit_code) from None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"key": prepared.key, "rows": prepared.rows, "grown_kb": grown}))


def serve() -> None:
    for line in sys.stdin:
        seconds, arguments = json.loads(line)
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            main(*arguments)
            os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[1:] else serve()
