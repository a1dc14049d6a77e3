"""The table of a fleet as Parquet, by pyarrow: read and written in batches, so that a large one takes little memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from tiecheck.errors import MissingExtraError, TargetError, exception_line
from tiecheck.files.limits import READ
from tiecheck.files.local import open_regular
from tiecheck.fleet.rows import FINDING, FLAGS, LISTS, MODEL, NUMBERS, sound_row

BATCH = 20_000
"""Rows of a batch, about."""

COLUMNS = tuple(dict.fromkeys(("row", *MODEL, *FINDING)))
"""Columns: the fields of both sorts of rows; those that are not named below are texts."""


def need_pyarrow() -> None:
    """Raise `MissingExtraError` where pyarrow is not there."""
    if find_spec("pyarrow") is None:
        raise MissingExtraError("A table in Parquet", "fleet")


def _schema() -> Any:
    import pyarrow as pa

    kinds = dict.fromkeys(LISTS, pa.list_(pa.string())) | dict.fromkeys(NUMBERS, pa.int64())
    kinds |= dict.fromkeys(FLAGS, pa.bool_())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])


def write_parquet(path: str, groups: Iterable[list[dict[str, Any]]]) -> None:
    """Write a table of rows, model by model; an `OSError` where it cannot be written."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema()
    with parquet.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        rows: list[dict[str, Any]] = []
        for group in groups:
            rows += group
            if len(rows) >= BATCH:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def read_parquet(path: str) -> Iterator[list[dict[str, Any]]]:
    """Give the rows of a table, model by model; a `TargetError` where it is none."""
    from pyarrow import ArrowException, parquet

    whole, part = {"row", *MODEL}, {"row", "target", "architecture", *FINDING}
    broken = TargetError(f"{path} is no table of a fleet, or broken: it has a row that none has", path)
    waiting: list[dict[str, Any]] = []
    os.close(open_regular(path, path))  # a pipe would keep us waiting
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if not set(COLUMNS) <= set(file.schema_arrow.names):
                raise TargetError(f"{path} is no table of a fleet: it lacks columns that one has", path)
            for batch in file.iter_batches(BATCH):
                if batch.nbytes > READ.most:
                    raise TargetError(f"{path} has more than {READ.most:,} bytes in {BATCH:,} rows", path)
                for row in batch.to_pylist():
                    if not sound_row(row):
                        raise broken
                    fields = whole if row["row"] == "model" else part
                    waiting.append({name: value for name, value in row.items() if name in fields})
                    if row["row"] == "model":
                        yield waiting
                        waiting = []
    except (ArrowException, ValueError, OverflowError) as error:  # it knows many ways to be broken
        raise TargetError(f"{path} is broken, or no Parquet: {exception_line(error)}", path) from error
