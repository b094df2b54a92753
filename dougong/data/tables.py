"""parquet and arrow: tables with types, whose values become plain ones. Extension types, which run code, are refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from dougong.core.errors import shown
from dougong.data.lines import open_unpacked
from dougong.data.records import CHUNK, KEPT, MAX_RECORD, VALUE, Many, Record, Unit, Unreadable, check_names, refuse

# Rows made into Python values at once: few, because a dictionary may hide 1 MB behind each of them.
BATCH_ROWS = 64


def read_parquet(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    with pa.parquet.ParquetFile(file, buffer_size=CHUNK, pre_buffer=False) as table:
        _check_schema(file, table.schema_arrow)
        names = None if used is None else [name for name in table.schema_arrow.names if name in used]
        yield from _table_rows(file, table.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False))


def read_arrow(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    """IPC in its file form or its stream form, mapped into memory where it is not compressed."""
    with _arrow_source(file, compression) as source:
        is_file = source.read(8).startswith(b"ARROW1")
        if is_file and not compression:
            reader: Any = pa.ipc.open_file(source)
            batches: Any = (reader.get_batch(index) for index in range(reader.num_record_batches))
        elif is_file:  # what follows these 8 bytes is the stream form
            batches = reader = pa.ipc.open_stream(source)
        else:
            source.close()
            source = _arrow_source(file, compression)
            batches = reader = pa.ipc.open_stream(source)
        with source:
            _check_schema(file, reader.schema)
            names = [name for name in reader.schema.names if used is None or name in used]
            chosen = (batch.select(names) for batch in batches)
            starts = ((batch, start) for batch in chosen for start in range(0, batch.num_rows, BATCH_ROWS))
            yield from _table_rows(file, (batch.slice(start, BATCH_ROWS) for batch, start in starts))


def _arrow_source(file: Path, compression: str) -> Any:
    return open_unpacked(file, compression) if compression else pa.memory_map(str(file))


def _check_schema(file: Path, schema: Any) -> None:
    check_names(file, schema.names)
    fields = list(schema)
    while fields:
        field = fields.pop()
        name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
        if name or isinstance(field.type, pa.BaseExtensionType):
            name = name or field.type.extension_name
            refuse(
                file,
                f"column {shown(field.name)} has the extension type {shown(name)}, which other code would have to read",
                "store its plain type (cast the column)",
            )
        fields += [field.type.field(index) for index in range(field.type.num_fields)]


def _table_rows(file: Path, batches: Iterator[Any]) -> Iterator[Record]:
    for batch in batches:
        batch = pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], names=batch.schema.names)
        try:
            # Offsets out of a hostile file would be read beyond the buffer; this also checks UTF-8.
            batch.validate(full=True)
            columns: dict[str, Sequence[object]] = {
                name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
        except ValueError:
            for row in _decoded(file, batch):
                yield row if isinstance(row, Unreadable) else _checked(row)
            continue
        if columns and all(map(_fits, columns.values())):
            yield Many(columns, batch.num_rows)
        elif columns:
            for values in zip(*columns.values(), strict=True):
                yield _checked(dict(zip(columns, values, strict=True)))
        else:
            yield from ({} for _ in range(batch.num_rows))


def _fits(column: Sequence[object]) -> bool:
    """Whether `_checked` would pass every value."""
    return not any(
        isinstance(value, str | bytes) and (len(value) > MAX_RECORD or (isinstance(value, str) and "\0" in value))
        for value in column
    )


def _plain(column: Any) -> Any:
    """Times become ISO text: Python's own types hold no nanoseconds."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return column.cast(pa.string())
    return column.cast(pa.int64()) if pa.types.is_duration(kind) else column


def _decoded(file: Path, batch: Any) -> list[Any]:
    """The rows of a batch of which some text is not UTF-8: those rows are bad, the others are not."""
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    arrays = [column.cast(binary.get(column.type, column.type)) for column in batch.columns]
    raw = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
    raw.validate(full=True)  # raises what `read_rows` calls damaged
    try:
        rows = raw.to_pylist()
    except (ValueError, OverflowError) as error:
        refuse(
            file, f"a value that has no plain form: {shown(str(error)[:VALUE])}", "cast that column to text or numbers"
        )
    texts = [field.name for field in batch.schema if field.type in binary]
    return [_decoded_row(row, texts) for row in rows]


def _decoded_row(row: dict[str, Any], texts: list[str]) -> Record:
    for name in texts:
        value = row[name]
        try:
            row[name] = value if value is None else value.decode()
        except UnicodeDecodeError as error:
            where = f"byte {error.start} of the value (0x{value[error.start]:02x})"
            return Unreadable(f"column {shown(name)}: {where} is not UTF-8", value)
    return row


def _checked(row: dict[str, object]) -> Record:
    for name, value in row.items():
        if isinstance(value, str | bytes) and len(value) > MAX_RECORD:
            return Unreadable(f"column {shown(name)}: longer than {MAX_RECORD >> 20} MB", value[:KEPT])
        if isinstance(value, str) and "\0" in value:
            return Unreadable(f"column {shown(name)}: a NUL character", value)
    return row
