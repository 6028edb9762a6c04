"""Stored files handed to an engine of many processes: its workers read them, this process does not.

Paths are taken by such engines for patterns, and names of folders for columns. Here they are neither.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

import pyarrow as pa

from dagster_kumo.predictions.files import StoredFile
from dagster_kumo.predictions.predictions import Predictions

NANOS_AS_LONG = "spark.sql.legacy.parquet.nanosAsLong"
# What Hadoop calls the file systems that fsspec calls otherwise.
_HADOOP_SCHEMES = {"": "file", "local": "file", "s3": "s3a", "gcs": "gs"}


def to_dask(stored: Predictions, columns: Sequence[str] | None) -> Any:
    """Stored files as a `dask.dataframe.DataFrame`; workers take the store's options along."""
    import dask.dataframe as dd  # pyright: ignore[reportMissingImports] - an extra that nothing else needs

    files = _stored_files(stored)
    file_system: Any = files[0].upath.fs
    return dd.read_parquet(
        [glob.escape(file.upath.path) for file in files],
        columns=None if columns is None else list(columns),
        filesystem=file_system,
        dataset={"partitioning": None},
    )


def to_spark(stored: Predictions, columns: Sequence[str] | None) -> Any:
    """Stored files as a DataFrame of the active Spark session, or of one that is made.

    Spark knows no nanoseconds and refuses files with them, but for the setting that reads them as
    integers. It is set in the session where it is needed, and the integers are made times again, to
    the microsecond.
    """
    from pyspark.sql import (  # pyright: ignore[reportMissingImports] - as above
        SparkSession,
        functions,
    )

    session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    types: dict[str, pa.DataType] = dict(zip(stored.schema.names, stored.schema.types, strict=True))
    if any(map(_is_nanos, types.values())):
        session.conf.set(NANOS_AS_LONG, "true")
    paths = [_hadoop_path(file) for file in _stored_files(stored)]
    return session.read.parquet(*paths).select(
        [
            functions.expr(_spark_column(name, types.get(name))).alias(name)
            for name in (types if columns is None else columns)
        ]
    )


def _stored_files(stored: Predictions) -> list[StoredFile]:
    return [file for file in stored.files if isinstance(file, StoredFile)]


def _hadoop_path(file: StoredFile) -> str:
    path = file.upath
    where = path.path if file.is_local else str(path).partition("://")[2]
    where = re.sub(r"([\\*?{}[\]])", r"\\\1", where)
    return f"{_HADOOP_SCHEMES.get(path.protocol, path.protocol)}://{where}"


def _is_nanos(type_: pa.DataType | None) -> TypeGuard[pa.TimestampType[Any]]:
    return isinstance(type_, pa.TimestampType) and type_.unit == "ns"


def _spark_column(name: str, type_: pa.DataType | None) -> str:
    """A column by its name (an unknown one is for Spark to refuse), a time as one."""
    column = "`" + name.replace("`", "``") + "`"
    if not _is_nanos(type_):
        return column
    if type_.tz is not None:
        return f"timestamp_micros({column} div 1000)"
    seconds = f"cast({column} div 1000 as decimal(20, 0)) / 1000000"
    return f"timestamp_ntz'1970-01-01' + make_dt_interval(0, 0, 0, {seconds})"
