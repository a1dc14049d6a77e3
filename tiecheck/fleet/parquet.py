"""The table of a fleet as Parquet, by pyarrow: read and written in batches, so that a large one takes little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from tiecheck.errors import MissingExtraError, TargetError

BATCH = 20_000
"""Rows of a batch, about."""

TEXTS = ("row", "target", "status", "architecture", "model_type", "error", "reason", "mark", "version", "options")
TEXTS_OF_FINDINGS = ("code", "name", "severity", "confidence", "message", "fingerprint", "suppressed")
LISTS = ("codes", "names", "hurts")
NUMBERS = ("findings", "skips", "bytes", "requests")
FLAGS = ("checked", "fixable")


def need_pyarrow() -> None:
    """Look whether pyarrow is there.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError("A table in Parquet", "fleet")


def _schema() -> Any:
    import pyarrow as pa

    fields = [(name, pa.string()) for name in (*TEXTS, *TEXTS_OF_FINDINGS)]
    fields += [(name, pa.list_(pa.string())) for name in LISTS]
    fields += [(name, pa.int64()) for name in NUMBERS]
    return pa.schema([*fields, *((name, pa.bool_()) for name in FLAGS)])


def write_parquet(path: str, groups: Iterable[list[dict[str, Any]]]) -> None:
    """Write a table.

    Args:
        path: The file.
        groups: Rows, model by model.

    Raises:
        OSError: It cannot be written.
    """
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
    """Give the rows of a table, model by model.

    Raises:
        TargetError: It is no such table.
        OSError: It cannot be read.
    """
    from pyarrow import ArrowInvalid, parquet

    wanted = set(_schema().names)
    waiting: list[dict[str, Any]] = []
    try:
        with parquet.ParquetFile(path) as file:
            if not wanted <= set(file.schema_arrow.names):
                raise TargetError(f"{path} is no table of a fleet: it lacks columns that one has", path)
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    waiting.append({name: value for name, value in row.items() if _belongs(row["row"], name)})
                    if row["row"] == "model":
                        yield waiting
                        waiting = []
    except ArrowInvalid as error:
        raise TargetError(f"{path} is broken, or no Parquet: {str(error).splitlines()[0]}", path) from error


_MODEL = frozenset((*TEXTS, "codes", *NUMBERS, "checked"))
_FINDING = frozenset(("row", "target", "architecture", *TEXTS_OF_FINDINGS, "names", "hurts", "fixable"))


def _belongs(row: str, name: str) -> bool:
    return name in (_MODEL if row == "model" else _FINDING)
