"""Frames and tables of other assets, as an output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.predictions import BATCH_ROWS, Predictions
from dagster_kumo.predictions.schemas import check_unique
from dagster_kumo.predictions.streams import Lane

if TYPE_CHECKING:
    import pandas as pd


_UNREADABLE = {
    "list_view<": "a list",
    "decimal256(": "a decimal of at most 38 digits (decimal128), or a text",
}
"""Types that polars cannot read back, and what to store instead."""


@dataclass(frozen=True)
class TableFile:
    """A stream of record batches that becomes one Parquet file. It can be read once."""

    reader: pa.RecordBatchReader
    name: str = "the table"

    @property
    def path(self) -> str:
        """It is not stored yet."""
        return ""

    def fetch_to(self, to: Path, lane: Lane, columns: Sequence[str] | None = None) -> Path:  # noqa: ARG002 - see `PartitionFile`
        """Write the Parquet file.

        Raises:
            KumoDataError: A column has a type that Parquet, or not every reader, knows.
            StreamError: The stream raised an error.
        """
        for field in self.reader.schema:
            for type_, instead in _UNREADABLE.items():
                if type_ in str(field.type):
                    raise KumoDataError(
                        f"{self.name} cannot be stored: {field.name} is {field.type}. Make it {instead}."
                    )
        try:
            with pq.ParquetWriter(str(to), self.reader.schema) as writer:
                for batch in self._batches():
                    lane.check()
                    writer.write_batch(batch)
            return to
        except (OSError, pa.ArrowException) as error:
            if getattr(error, "errno", None) is not None:  # of the disk
                raise
            raise KumoDataError(f"{self.name} cannot be a Parquet file: {error}") from None

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.reader
        except Exception as error:  # noqa: BLE001 - the user's own code can raise anything
            raise StreamError(error) from None


class StreamError(Exception):
    """An error of the stream itself, not of writing the file."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def as_predictions(obj: Any) -> Predictions:
    """The value that an asset returned, as files.

    Takes `Predictions`, pandas and polars frames, Arrow tables, datasets and readers, and whatever else
    speaks Arrow's stream protocol, such as a relation of DuckDB.

    Raises:
        TypeError: The value is none of these.
        KumoDataError: Its columns have names or values that no Parquet file can have.
    """
    if isinstance(obj, Predictions):
        if obj.columns is None:
            return obj
        return Predictions([TableFile(obj.to_reader())], provenance=obj.provenance)
    try:
        reader = arrow_reader(obj)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeError) as error:
        raise KumoDataError(
            f"The {type(obj).__name__} cannot be a table: {'. '.join(map(str, error.args)).rstrip('.')}. "
            "Give each column values of one type that Arrow knows."
        ) from None
    if reader is None:
        raise TypeError(
            f"KumoIOManager stores Predictions, pandas and polars DataFrames, and Arrow tables, not "
            f"{type(obj).__name__}. Return one of these, or give the asset another io_manager_key."
        )
    return Predictions([TableFile(reader)])


def arrow_reader(obj: Any) -> pa.RecordBatchReader | None:
    """The batches of what an asset returned; None if it has none."""
    if isinstance(obj, pa.RecordBatchReader):
        return obj
    names = {f"{c.__module__}.{c.__qualname__}" for c in type(obj).__mro__}
    if "pyarrow._dataset.Dataset" in names:
        return obj.scanner().to_reader()
    if not names.isdisjoint(_SERIES):
        return None  # one column, not a table
    if not names.isdisjoint(_PANDAS_FRAMES):
        obj = _from_pandas(obj)
    elif type(obj).__module__.split(".")[0] == "polars":
        obj = _from_polars(obj)
    if isinstance(obj, pa.Table):
        return obj.to_reader(max_chunksize=BATCH_ROWS)
    return pa.RecordBatchReader.from_stream(obj) if hasattr(obj, "__arrow_c_stream__") else None


# The names of pandas 3 and 2. Whoever returns one has imported its library; nobody else waits for it.
_PANDAS_FRAMES = {"pandas.DataFrame", "pandas.core.frame.DataFrame"}
_SERIES = {"pandas.Series", "pandas.core.series.Series", "polars.series.series.Series"}


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    """A frame's columns, and the named levels of its index. An index without a name is not data."""
    import pandas as pd

    named = [name for name in frame.index.names if name is not None]
    check_unique(map(str, frame.columns), "The frame has duplicate columns")
    check_unique(map(str, named), "The frame has duplicate index levels")
    for level, name in reversed(list(enumerate(frame.index.names))):
        values = frame.index.get_level_values(level)
        repeated = name is not None and name in frame.columns
        if repeated and not values.equals(pd.Index(frame[name])):
            raise KumoDataError(
                f"The index and a column of the frame are both called {name}, and differ. Rename one of them."
            )
        if name is None or repeated:
            if frame.index.nlevels == 1:
                return pa.Table.from_pandas(frame, preserve_index=False)
            frame = frame.droplevel(level)
    return pa.Table.from_pandas(frame, preserve_index=True)


def _from_polars(frame: Any) -> Any:
    import polars as pl

    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, pl.DataFrame):
        return frame  # such as a group-by, which is no table
    if pl.Object in frame.schema.values():  # polars would store where in memory the objects lie
        raise pa.ArrowTypeError("a column has Python objects")
    # The oldest layout: the newer one has string views, which not every pyarrow can write.
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
