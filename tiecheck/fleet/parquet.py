"""The table of a fleet as Parquet, by pyarrow: read and written in batches, so that a large one takes little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from tiecheck.errors import MissingExtraError, TargetError
from tiecheck.fleet.rows import FINDING, MODEL

BATCH = 20_000
"""Rows of a batch, about."""

COLUMNS = tuple(dict.fromkeys(("row", *MODEL, *FINDING)))
"""Columns: the fields of both sorts of rows; those that are not named below are texts."""

LISTS = ("codes", "names", "hurts")
NUMBERS = ("findings", "skips", "bytes", "requests")
FLAGS = ("checked", "fixable")


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
    with parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for group in groups:
            rows += group
            if len(rows) >= BATCH:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def read_parquet(path: str) -> Iterator[list[dict[str, Any]]]:
    """Give the rows of a table, model by model; a `TargetError` where it is none."""
    from pyarrow import ArrowInvalid, parquet

    whole, part = {"row", *MODEL}, {"row", "target", "architecture", *FINDING}
    waiting: list[dict[str, Any]] = []
    try:
        with parquet.ParquetFile(path) as file:
            if not set(COLUMNS) <= set(file.schema_arrow.names):
                raise TargetError(f"{path} is no table of a fleet: it lacks columns that one has", path)
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    fields = whole if row["row"] == "model" else part
                    waiting.append({name: value for name, value in row.items() if name in fields})
                    if row["row"] == "model":
                        yield waiting
                        waiting = []
    except ArrowInvalid as error:
        raise TargetError(f"{path} is broken, or no Parquet: {str(error).splitlines()[0]}", path) from error
