"""The files of an output as one pandas frame, with little more memory than the frame itself.

Arrow would hold all tables and then copy them. That takes twice the memory, and on a fast connection allocating
new pages takes longer than everything else. Here each table is copied to its place in the frame's columns while
the next one is read. A single thread that does both would spend half of its time copying, with one core idle.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dagster_kumo.predictions.schemas import concat

if TYPE_CHECKING:
    import pandas as pd

SPARE = 1.1  # files differ a little in length; memory that is never written costs nothing


def to_frame(tables: Iterable[pa.Table], names: Sequence[str]) -> pd.DataFrame:
    """The tables of the files called `names`, concatenated, with the types of `concat(...).to_pandas()`.

    Raises:
        KumoDataError: They cannot become one table.
    """
    tables = iter(tables)
    builder: FrameBuilder | None = None
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="kumo-frame") as copiers:
        for table in tables:
            if builder is None:
                builder = FrameBuilder(table, len(names), copiers)
            if not builder.takes(table):
                rest = [table, *tables]
                before = names[: len(names) - len(rest)]
                whole = [builder.so_far()] if before else []
                return concat([*whole, *rest], [*before[:1], *names[len(before) :]]).to_pandas()
            builder.append(table)
        assert builder is not None
        return builder.frame()


class FrameBuilder:
    """Builds a frame: numbers and times without nulls as numpy arrays, other columns as Arrow's."""

    def __init__(self, first: pa.Table, count: int, copiers: ThreadPoolExecutor) -> None:
        self._schema = first.schema
        self._count = count
        self._copiers = copiers
        self._copying: list[Future[None]] = []
        self._tables = 0
        self._rows = 0
        self._arrays: dict[str, np.ndarray[Any, Any]] = {
            f.name: np.empty(0, _dtype(f.type)) for f in first.schema if _is_plain(f.type)
        }
        self._chunks: dict[str, list[pa.Array[Any]]] = {
            f.name: [] for f in first.schema if not _is_plain(f.type)
        }

    def takes(self, table: pa.Table) -> bool:
        """Whether a table has the same columns. Metadata of a pandas index are left to Arrow."""
        names = table.schema.names
        return (
            table.schema.equals(self._schema)
            and len(set(names)) == len(names)
            and b"pandas" not in (table.schema.metadata or {})
        )

    def append(self, table: pa.Table) -> None:
        """Append a table. It is copied in the background, until the next table is appended."""
        self._settle()
        self._tables += 1
        rows = self._rows + table.num_rows
        for name in table.schema.names:
            column = table.column(name)
            if name in self._arrays and column.null_count:  # pandas uses another type for these
                self._chunks[name] = [self._as_arrow(name)]
                del self._arrays[name]
            if name in self._chunks:
                self._chunks[name] += column.chunks
            else:
                self._fill(name, column, rows)
        self._rows = rows

    def _fill(self, name: str, column: pa.ChunkedArray[Any], rows: int) -> None:
        array = self._arrays[name]
        if rows > len(array):
            room = max(rows, int(rows / self._tables * self._count * SPARE))
            array = np.empty(room, array.dtype)
            array[: self._rows] = self._arrays[name][: self._rows]
            self._arrays[name] = array
        self._copying.append(self._copiers.submit(_copy, column, array[self._rows : rows]))

    def _settle(self) -> None:
        for copying in self._copying:
            copying.result()
        self._copying.clear()

    def so_far(self) -> pa.Table:
        self._settle()
        columns = [
            pa.chunked_array(self._chunks[f.name], f.type)
            if f.name in self._chunks
            else self._as_arrow(f.name)
            for f in self._schema
        ]
        return pa.table(columns, schema=self._schema)

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        self._settle()
        chunks = {
            name: pa.chunked_array(chunks, self._schema.field(name).type)
            for name, chunks in self._chunks.items()
        }
        self._chunks.clear()
        others: pd.DataFrame = pa.table(chunks).to_pandas(split_blocks=True)
        columns: dict[str, Any] = {
            name: self._arrays[name][: self._rows] if name in self._arrays else others[name]
            for name in self._schema.names
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(self._rows), copy=False)

    def _as_arrow(self, name: str) -> pa.Array[Any]:
        return pa.array(self._arrays[name][: self._rows], self._schema.field(name).type)


def _copy(column: pa.ChunkedArray[Any], to: np.ndarray[Any, Any]) -> None:
    at = 0
    for chunk in column.chunks:
        to[at : at + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
        at += len(chunk)


def _is_plain(type_: pa.DataType) -> bool:
    kinds = pa.types
    return (
        kinds.is_integer(type_)
        or kinds.is_floating(type_)
        or kinds.is_boolean(type_)
        or (kinds.is_timestamp(type_) and type_.tz is None)
    )


def _dtype(type_: pa.DataType) -> np.dtype[Any]:
    return pa.array([], type_).to_numpy(zero_copy_only=False).dtype
