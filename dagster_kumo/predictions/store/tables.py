"""Data that no Kumo job made, as an output: frames and tables that other assets return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.predictions.files import never
from dagster_kumo.predictions.predictions import BATCH_ROWS, Predictions


@dataclass(frozen=True)
class TableFile:
    """A stream of record batches that becomes one Parquet file. It can be read once."""

    reader: pa.RecordBatchReader
    name: str = "the table"

    @property
    def path(self) -> str:
        """It lies nowhere yet."""
        return ""

    def fetch_to(
        self,
        to: Path,
        columns: Sequence[str] | None = None,  # noqa: ARG002 - see `PartitionFile`
        *,
        streams: int = 1,  # noqa: ARG002
        stopped: Callable[[], bool] = never,
    ) -> Path:
        """Write the Parquet file."""
        self.save(to, stopped=stopped)
        return to

    def save(self, to: Path, *, streams: int = 1, stopped: Callable[[], bool] = never) -> None:  # noqa: ARG002 - see `PartitionFile`
        """Write the Parquet file."""
        with pq.ParquetWriter(str(to), self.reader.schema) as writer:
            for batch in self.reader:
                if stopped():
                    return
                writer.write_batch(batch)


def as_predictions(obj: Any) -> Predictions:
    """What an asset returned, as partition files.

    Takes `Predictions`, pandas and polars frames, and whatever speaks Arrow's stream protocol.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(obj, Predictions):
        return obj
    if type(obj).__module__.split(".")[0] == "polars":
        obj = _from_polars(obj)
    if type(obj).__module__.split(".")[0] == "pandas" and type(obj).__name__ == "DataFrame":
        obj = pa.Table.from_pandas(obj)
    if isinstance(obj, pa.Table):
        obj = obj.to_reader(max_chunksize=BATCH_ROWS)
    elif hasattr(obj, "__arrow_c_stream__"):
        obj = pa.RecordBatchReader.from_stream(obj)
    if not isinstance(obj, pa.RecordBatchReader):
        raise TypeError(
            f"KumoIOManager stores Predictions, pandas and polars DataFrames, and Arrow tables, not "
            f"{type(obj).__name__}. Return one of these, or give the asset another io_manager_key."
        )
    return Predictions([TableFile(obj)])


def _from_polars(frame: Any) -> pa.Table:
    import polars as pl

    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    # The oldest layout: its newer one has string views, which not every pyarrow can write.
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
