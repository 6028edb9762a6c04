"""The files of an output as one pandas frame, with little more memory than the frame itself.

Arrow would hold all tables and then copy them. That takes twice the memory, and on a fast connection allocating
new pages takes longer than everything else. Here each table is copied to its place in the frame's columns while
the next one is read. A single thread that does both would spend half of its time copying, with one core idle.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dagster_kumo.predictions.schemas import concat

if TYPE_CHECKING:
    import pandas as pd

SPARE = 1.1  # files differ a little in length; memory that is never written costs nothing


class FrameBuilder:
    """Builds a frame: numbers and times without nulls as numpy arrays, other columns as Arrow's.

    Its types are those of `concat(...).to_pandas()`. Messages use the `names` of the files.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._copiers = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="kumo-frame")
        self._copying: list[Future[None]] = []
        self._files = 0
        self._rows_of_files = 0
        self._rows = 0
        self._schema: pa.Schema | None = None
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._chunks: dict[str, list[pa.Array[Any]]] = {}
        self._others: list[tuple[pa.Table, str]] = []
        """The tables from the first one on that has another schema, with the names of their files."""

    def __enter__(self) -> FrameBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._copiers.shutdown()

    def begin_file(self, rows: int) -> None:
        """The next tables are of the next file, which has so many rows."""
        self._files += 1
        self._rows_of_files += rows

    def append(self, table: pa.Table) -> None:
        """Append a table. It is copied in the background, until the next table is appended."""
        self._settle()
        if self._schema is None:
            self._begin(table.schema)
        if self._others or not self._takes(table):
            self._others.append((table, self._names[self._files - 1]))
            return
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

    def _begin(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._arrays = {f.name: np.empty(0, _dtype(f.type)) for f in schema if _is_plain(f.type)}
        self._chunks = {f.name: [] for f in schema if not _is_plain(f.type)}

    def _takes(self, table: pa.Table) -> bool:
        """Whether a table has the same columns. Metadata of a pandas index are left to Arrow."""
        names = table.schema.names
        return (
            self._schema is not None
            and table.schema.equals(self._schema)
            and len(set(names)) == len(names)
            and b"pandas" not in (table.schema.metadata or {})
        )

    def _fill(self, name: str, column: pa.ChunkedArray[Any], rows: int) -> None:
        array = self._arrays[name]
        if rows > len(array):
            expected = self._rows_of_files
            if self._files < len(self._names):
                expected = int(expected / self._files * len(self._names) * SPARE)
            array = np.empty(max(rows, expected), array.dtype)
            array[: self._rows] = self._arrays[name][: self._rows]
            self._arrays[name] = array
        self._copying.append(self._copiers.submit(_copy, column, array[self._rows : rows]))

    def _settle(self) -> None:
        for copying in self._copying:
            copying.result()
        self._copying.clear()

    def frame(self) -> pd.DataFrame:
        """All tables as one frame. Raises as `concat` does."""
        import pandas as pd

        self._settle()
        schema = self._schema
        assert schema is not None
        if self._others:
            tables = [table for table, _ in self._others]
            names = [name for _, name in self._others]
            if self._rows or self._files > 1:
                tables, names = [self._so_far(schema), *tables], [self._names[0], *names]
            return concat(tables, names).to_pandas()
        chunks = {
            name: pa.chunked_array(chunks, schema.field(name).type)
            for name, chunks in self._chunks.items()
        }
        self._chunks.clear()
        # With a block for each column, Arrow leaves out columns of extension types, such as JSON.
        split = not any(isinstance(field.type, pa.BaseExtensionType) for field in schema)
        others: pd.DataFrame = pa.table(chunks).to_pandas(split_blocks=split)
        columns: dict[str, Any] = {
            name: self._arrays[name][: self._rows] if name in self._arrays else others[name]
            for name in schema.names
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(self._rows), copy=False)

    def _so_far(self, schema: pa.Schema) -> pa.Table:
        columns = [
            pa.chunked_array(self._chunks[f.name], f.type)
            if f.name in self._chunks
            else self._as_arrow(f.name)
            for f in schema
        ]
        return pa.table(columns, schema=schema)

    def _as_arrow(self, name: str) -> pa.Array[Any]:
        assert self._schema is not None
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
