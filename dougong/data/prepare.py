"""Prepare: files -> clean rows -> fitted fields -> shards, once for each combination of contents and settings.

`prepare` finds the data of a recipe that is already prepared, or has it made (preparation.py); `inspect` only looks.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from dougong.core.artefacts import begin_folder, discard, read_json, read_manifest
from dougong.core.config import Fraction, config, dump
from dougong.core.errors import ArtefactError, DataError, bad_field, nearest
from dougong.core.locks import lock
from dougong.data import cleaning, sources
from dougong.data.cleaning import Config as Cleaning
from dougong.data.preparation import Preparation
from dougong.data.records import Unit
from dougong.data.report import DataReport
from dougong.data.rows import SPLITS, Used, in_columns
from dougong.data.shards import Split, check_bytes, damaged
from dougong.data.watched import SourceFiles, own_files

Paths = str | tuple[str, ...]

PACKAGES = (
    "ftfy",
    "pillow",
    "py3langid",
    "pyarrow",
    "sentencepiece",
    "soundfile",
    "soxr",
    "tokenizers",
)  # whose other version may read or cut otherwise
ABANDONED = 7 * 24 * 3600  # seconds after which a preparation that did not end will not be gone on with


@config
class Config:
    """Where the rows come from and how they are cleaned and split. Relative paths start at the recipe's folder."""

    train: Paths
    validation: Paths | None = None
    test: Paths | None = None
    split: dict[Literal["validation", "test"], Fraction] | None = None  # cut off train; 0.1 each where no file is named
    by_time: str | None = (
        None  # the column by which they are the newest rows; else they follow from a hash of the inputs
    )
    cleaning: Cleaning = Cleaning()
    text_rows: Unit = "paragraph"  # what a row of a .txt file is
    cache: str = ".dougong/prepared"

    def __post_init__(self) -> None:
        for name in self.split or {}:
            if getattr(self, name) is not None:
                raise bad_field(
                    f"data.split.{name}",
                    self.split,
                    f"no file for {name} beside it",
                    f"remove data.{name} or data.split.{name}",
                )
        if self.by_time is not None and not any(self.fractions.values()):
            expected = "nothing, where no share of the training files is cut off"
            raise bad_field("data.by_time", self.by_time, expected, "write split: {test: 0.1}, or remove it")
        if sum(self.fractions.values()) >= 0.9:
            raise bad_field(
                "data.split", self.split, "shares that leave at least a tenth for training", "use {validation: 0.1}"
            )

    @property
    def fractions(self) -> dict[str, float]:
        """The share of the training files' rows that each split gets."""
        if self.split is not None:
            return {str(name): share for name, share in self.split.items()}
        return {name: 0.1 for name in ("validation", "test") if getattr(self, name) is None}


def rooted(config: Config, base: Path) -> Config:
    """The same with absolute paths, so that a resolved recipe means the same files from anywhere."""

    def absolute(paths: Paths | None) -> Paths | None:
        if paths is None:
            return None
        return placed(paths, base) if isinstance(paths, str) else tuple(placed(path, base) for path in paths)

    train = absolute(config.train)
    assert train is not None
    return dataclasses.replace(config, train=train, validation=absolute(config.validation), test=absolute(config.test))


def placed(path: str, base: Path) -> str:
    """A path or pattern from the recipe's folder on, whose own name may look like a pattern: `proj[1]`."""
    literal = base / path
    return str(literal if literal.exists() else Path(glob.escape(str(base))) / path)


class Prepared:
    """A finished preparation: splits of encoded rows, the fitted codecs, the data report.

    Opening it looks at sizes only. The bytes of a file are checked when it is first read in a process, or by `verify`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            manifest = read_manifest(folder)
        except ArtefactError as error:
            raise ArtefactError(
                f"{str(error).split(' Fix: ')[0]} Fix: delete {folder}: it is prepared again."
            ) from None
        self.files = manifest.files
        self.rows: dict[str, dict[str, int]] = manifest.meta["rows"]  # split -> part file -> rows
        self.key: str = manifest.meta["key"]
        self.contents: str | None = manifest.meta.get("contents")
        self.sources: str | None = manifest.meta.get("sources")  # the files alone, without what was made of them
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != expected.bytes:
                raise damaged(path, folder, "missing, or not of the size it was written with")

    def split(self, name: str) -> Split:
        parts = self.rows.get(name, {})
        written = [self.files[f"{name}/{part}"] for part in parts]
        return Split(name, [self.folder / name / part for part in parts], list(parts.values()), written)

    def codec_json(self, field: str) -> dict[str, Any]:
        saved: dict[str, Any] = self._json(f"fields/{field}.json")
        return saved

    @cached_property
    def report(self) -> DataReport:
        return DataReport.from_json(self._json("report.json"))

    def _json(self, name: str) -> Any:
        check_bytes(self.folder / name, self.files[name], self.folder)
        return read_json(self.folder / name)

    def verify(self) -> None:
        """Check every byte, whatever was checked before. Raises an ArtefactError that names the damaged file."""
        for name, expected in self.files.items():
            check_bytes(self.folder / name, expected, self.folder, again=True)


def prepare(
    config: Config,
    used: list[Used],
    *,
    known: str | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """The prepared data of a recipe, made now unless it is there. Raises DataError for data that cannot be used.

    `known` is the key that an interrupted run began with: if that was made of the same contents by an older dougong, it
    is what the run goes on with.
    """
    cleaning.check_packages(config.cleaning)
    files = find_files(config)
    check_columns(files, used, config.text_rows, config.by_time)
    cache = Path(config.cache)
    material = SourceFiles(files, used, config.text_rows)
    contents = content_hash(config, files, used, material)
    key = key_of(contents, used)
    if known and known != key and (cache / known).is_dir():
        earlier = Prepared(cache / known)
        if earlier.contents == contents:
            return earlier
    return _made(config, material, key, contents, workers, say)


def prepare_apart(
    config: Config, used: list[Used], paths: str, codecs: dict[str, Any], *, say: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Rows of other files, as the split `test`: read and cleaned as the recipe's are, for fields that were fitted before.

    `codecs` is what the codec of each field said of itself. What looks for repetitions among training rows finds none here.
    """
    held = dataclasses.replace(config.cleaning, near_duplicates="off", outliers=None)
    config = dataclasses.replace(config, cleaning=held)
    cleaning.check_packages(config.cleaning)
    files = {"test": sources.find_files(paths, Path.cwd())}
    check_columns(files, used, config.text_rows, config.by_time)
    material = SourceFiles(files, used, config.text_rows)
    contents = content_hash(config, files, used, material) + json.dumps(codecs, sort_keys=True)
    contents = hashlib.sha256(contents.encode()).hexdigest()[:24]
    return _made(config, material, key_of(contents, used), contents, None, say, codecs)


def _made(
    config: Config,
    material: SourceFiles,
    key: str,
    contents: str,
    workers: int | None,
    say: Callable[[str], None],
    codecs: dict[str, Any] | None = None,
) -> Prepared:
    """What stands under a key, made now unless it is there."""
    cache, files, used = Path(config.cache), material.files, material.used
    final = cache / key
    if not final.is_dir():
        with lock(cache / f"{key}.lock"):
            if not final.is_dir():
                # The state is in its name: what was read of files that changed since is not gone on with.
                partial = cache / f"{key}.{material.state()}.partial"
                with only_unchanged(material, partial) as unchanged:
                    work = Preparation(config, files, used, partial, workers, say, codecs)
                    work.run(final, {"key": key, "contents": contents, "sources": material.sources}, unchanged)
                sweep(cache, key)
    return Prepared(final)


def sweep(cache: Path, key: str) -> None:
    """Remove what failed or was killed half-way and will not be gone on with: of this key, whose lock is held, and after
    a week of any other. The locks stay: to delete one would let two holders in."""
    for partial in sorted(cache.glob("*.partial")):
        other = partial.name.partition(".")[0]
        try:
            if other == key:
                discard(partial)
            elif time.time() - max(path.stat().st_mtime for path in (partial, *partial.iterdir())) > ABANDONED:
                with lock(cache / f"{other}.lock"):
                    discard(partial)
        except (FileNotFoundError, ArtefactError):
            continue  # somebody just ended it, or goes on with it


@contextmanager
def only_unchanged(material: SourceFiles, partial: Path) -> Iterator[Callable[[], None]]:
    """What is made of files that changed meanwhile must never stand under the hash that they had."""

    def unchanged() -> None:
        try:
            material.unchanged()
        except DataError:
            discard(partial)
            raise

    try:
        yield unchanged
    except (DataError, OSError):
        unchanged()  # a file that is being rewritten looks damaged: that it changed is the truer word
        raise


def check_columns(files: dict[str, list[Path]], used: list[Used], unit: Unit, by_time: str | None = None) -> None:
    """Every column that a field names stands in every file that tells its columns, and its own files exist."""
    problems = [
        f"{path}: no such file, named by {field.name}. Fix: correct the path."
        for field in used
        for path in own_files(field)
        if not path.is_file()
    ]
    for file in sorted({file for group in files.values() for file in group}):
        present = sources.columns(file, unit=unit, wanted={field.column for field in in_columns(used)})
        for field in in_columns(used):
            if present and field.column not in present:
                near = nearest(field.column, present)
                side = "outputs" if field.output else "inputs"
                fix = f"write column: {near}" if near else "set column: to one of them"
                problems.append(
                    f"{file}: no column {field.column!r} for {side}.{field.name}; "
                    f"it has {', '.join(present[:20])}. Fix: {fix}."
                )
    for file in files.get("train", ()):
        if by_time is None:
            break
        present = sources.columns(file, unit=unit, wanted={by_time})
        if present and by_time not in present:
            fix = f"write by_time: {nearest(by_time, present) or 'one of them'}"
            problems.append(
                f"{file}: no column {by_time!r} for data.by_time; it has {', '.join(present[:20])}. Fix: {fix}."
            )
    if problems:
        raise DataError("\n".join(problems[:5]))


def content_hash(
    config: Config, files: dict[str, list[Path]], used: list[Used], material: SourceFiles | None = None
) -> str:
    """What the prepared data is made of, hashed: contents and settings. `material` remembers how the files were."""
    material = material or SourceFiles(files, used, config.text_rows)
    settings = {
        "cleaning": dump(config.cleaning),
        "fractions": config.fractions,
        **({"by_time": config.by_time} if config.by_time else {}),
        "unit": config.text_rows,
        "fields": [[field.name, field.output, dump(field.config)] for field in used],
    }
    text = json.dumps(settings, sort_keys=True) + material.digest()
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def key_of(contents: str, used: list[Used]) -> str:
    """The name of a preparation: what it is made of, and the code that makes it, other people's included."""
    digest = hashlib.sha256(contents.encode())
    data, fields = Path(__file__).parent, Path(__file__).parents[1] / "fields"  # all: one field may use another's code
    own = {Path(str(field.module.__file__)) for field in used}
    for path in sorted({*data.glob("*.py"), *fields.glob("*.py"), *own}):
        digest.update(path.read_bytes())
    for package in PACKAGES:
        digest.update(f"{package} {installed(package)}\n".encode())
    return digest.hexdigest()[:24]


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def inspect(config: Config, used: list[Used]) -> DataReport:
    """Look at all rows with the first steps of `prepare`, in a folder that is thrown away. Raises DataError as it does."""
    cleaning.check_packages(config.cleaning)
    files = find_files(config)
    check_columns(files, used, config.text_rows, config.by_time)
    folder = begin_folder(Path(config.cache) / "check")
    try:
        return Preparation(config, files, used, folder, None, lambda _: None).look()
    finally:
        discard(folder)


def find_files(config: Config) -> dict[str, list[Path]]:
    """The files of each split that is named; a file that stands in two of them is refused."""
    files = {
        name: sources.find_files(paths, Path.cwd()) for name in SPLITS if (paths := getattr(config, name)) is not None
    }
    owner: dict[Path, str] = {}
    for name, group in files.items():
        for file in group:
            first = owner.setdefault(file.resolve(), name)
            if first != name:
                raise DataError(
                    f"{file}: it stands in data.{first} and in data.{name}: what is learnt from it cannot test it. "
                    f"Fix: write data.{first} so that it leaves this file out, or remove data.{name}."
                )
    return files
